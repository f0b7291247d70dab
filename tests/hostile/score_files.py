"""Score files that are wrong in one place each, made from the schema itself by h5py alone."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import BaseModel

from hvaeood_cli.store.decision import DecisionFacts
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.schema import FROM_ROWS, STRING, Dataset, FileFacts, datasets
from tests.hostile.case import Case, flipped, truncated

FILE, TILED = "s.h5", "t.h5"  # of images that were taken whole, and by tiles
Change = Callable[[h5py.File], None]


def changed(name: str, change: Change, refused: bool = True, which: str = FILE) -> Case:
    """A case in which something is done to an open score file."""

    def spoil(folder: Path) -> None:
        with h5py.File(folder / which, "r+") as file:
            change(file)

    return Case(f"{which}: {name}", spoil, which, refused)


def _datasets() -> list[Dataset]:
    """Those of a file whose images were taken whole, and for which all statistics were asked."""
    return [one for one in datasets() if one.group != "/tiles"]


def score_files(seed: int = 0, n_random: int = 150) -> Iterator[Case]:
    """All of them. seed: of what is cut and flipped at random."""
    yield from _attributes()
    for one in _datasets():
        yield from _dataset(one)
    yield from _together()
    yield from _tiles()
    for which in (FILE, TILED):
        yield from truncated(which, seed, n_random)
        yield from flipped(which, seed, 2 * n_random)


# -- attributes -----------------------------------------------------------------------------------

_VALUES: dict[str, Any] = {
    "an empty number": h5py.Empty("i8"),
    "an empty text": h5py.Empty(h5py.string_dtype()),
    "a list of numbers": np.array([1, 2]),
    "a list of one number": np.array([1]),
    "a list of none": np.zeros(0),
    "a square of numbers": np.ones((2, 2)),
    "a list of texts": np.array(["mean", "sample"], h5py.string_dtype()),
    "no letter": "",
    "a long text": "x" * 60_000,
    "bytes that are no UTF-8": np.bytes_(b"\xff\xfe"),
    "bytes of variable length that are no UTF-8": b"\xff\xfe",
    "an escape sequence": "\x1b[2J",
    "a NUL": np.bytes_(b"a\0b"),
    "a formula": "=cmd|'/c calc'!A0",
    "a line break": "mean\n",
    "zero": 0,
    "three": 3,
    "minus one": -1,
    "a large number": 2**63 - 1,
    "a larger number": np.uint64(2**64 - 1),
    "a fraction": 1.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a truth value": np.bool_(True),
    "a complex number": 1 + 2j,
    "opaque": np.void(b"abc"),
    "a record": np.array((1, 2.0), [("a", "i4"), ("b", "f8")]),
    "a reference": h5py.Reference(),
}
_CODES = [
    "[]", "[1]", "3", "null", "", "{", '{"scored":[0]}', '{"scored":null}', '{"scored":0.5}',
    '{"scored":-1}', '{"scored":1e400}', '{"scored":true}', '{"scored":{}}', '{"a":0,"b":0}',
    '{"scored":99999999999999999999}', '{"' + "x" * 5000 + '":0}', "[" * 30_000, '{"\\ud800":0}',
]  # fmt: skip


def _attributes() -> Iterator[Case]:
    models: list[tuple[str, type[BaseModel]]] = [
        ("/", RunHeader), ("/", FileFacts), ("/decision", DecisionFacts)
    ]  # fmt: skip
    fields = [("/", "format", True), ("/", "format_version", True)]
    fields += [
        (path, name, field.is_required())
        for path, model in models
        for name, field in model.model_fields.items()
    ]
    fields += [(one.path, "codes", True) for one in _datasets() if one.has_codes]
    for path, name, required in fields:
        if name in FROM_ROWS:
            continue
        without = _without(path, name)
        yield changed(f"{path} without {name}", without, refused=required)
        for what, value in _VALUES.items():
            # some of them are what it may be: a name may be any text
            yield changed(f"{path} {name} {what}", _set(path, name, value), refused=False)
    for one in _datasets():
        if one.has_codes:
            for text in _CODES:
                yield changed(f"codes of {one.path} {text[:20]}", _set(one.path, "codes", text))


def _without(path: str, name: str) -> Change:
    def change(file: h5py.File) -> None:
        file[path].attrs.pop(name, None)  # not every file has what it may have

    return change


def _set(path: str, name: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        variable = h5py.string_dtype() if type(value) is bytes else None
        file[path].attrs.create(name, value, dtype=variable)

    return change


# -- datasets -------------------------------------------------------------------------------------

_TYPES: dict[str, Any] = {
    "bool": "?", "int8": "i1", "int64": "i8", "uint8": "u1", "uint16": "u2", "uint64": "u8",
    "float16": "f2", "float32": "f4", "float64": "f8", "complex": "c8", "bytes": "S7",
    "string": h5py.string_dtype(), "record": [("a", "i4")], "opaque": "V4",
    "reference": h5py.ref_dtype, "list": h5py.vlen_dtype(np.int32),
    "enum": h5py.enum_dtype({"A": 0, "B": 1}, "u4"), "array": np.dtype(("f4", (2,))),
}  # fmt: skip


def _dataset(one: Dataset, which: str = FILE) -> Iterator[Case]:
    def case(what: str, change: Change, refused: bool = True) -> Case:
        return changed(f"{one.path} {what}", change, refused, which)

    def replaced(**options: Any) -> Change:
        """By a dataset made with these options."""

        def change(file: h5py.File) -> None:
            attributes = dict(file[one.path].attrs)
            del file[one.path]
            file.create_dataset(one.path, **options)
            file[one.path].attrs.update(attributes)

        return change

    def reshaped(reshape: Callable[[Any], Any]) -> Change:
        def change(file: h5py.File) -> None:
            dtype, values = file[one.path].dtype, file[one.path][()]
            replaced(data=reshape(values), dtype=dtype)(file)

        return change

    def linked(make: Callable[[], Any]) -> Change:
        def change(file: h5py.File) -> None:
            del file[one.path]
            file[one.path] = make()

        return change

    def moved(file: h5py.File) -> None:
        file.move(one.path, "/elsewhere")
        file[one.path] = h5py.SoftLink("/elsewhere")

    def virtual(file: h5py.File) -> None:
        shape, dtype = file[one.path].shape, file[one.path].dtype
        del file[one.path]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource("good.h5", one.path, shape)
        file.create_virtual_dataset(one.path, layout)

    def as_before(**options: Any) -> Change:
        def change(file: h5py.File) -> None:
            replaced(data=file[one.path][()], dtype=file[one.path].dtype, **options)(file)

        return change

    yield case("missing", lambda f: f.__delitem__(one.path), refused=not one.optional)
    yield case("empty", replaced(data=h5py.Empty("f4")))
    yield case("a group", _group(one.path))
    yield case("a type", linked(lambda: np.dtype("f4")))
    yield case("a link", moved)
    yield case("a link to itself", linked(lambda: h5py.SoftLink(one.path)))
    yield case("a link to another file", linked(lambda: h5py.ExternalLink("good.h5", one.path)))
    yield case("a link to a device", linked(lambda: h5py.ExternalLink("/dev/zero", "/a")))
    yield case("in another file", replaced(
        shape=(60,), dtype="f4", external=[("/etc/passwd", 0, 240)]))  # fmt: skip
    if one.dtype != STRING:
        yield case("virtual", virtual)
        for what, value in {"negative": -1, "large": 127, "not a number": np.nan,
                            "infinite": np.inf, "huge": -3e38, "a half": 0.5}.items():  # fmt: skip
            yield case(what, _filled(one.path, value), refused=False)
        yield case("packed by scaleoffset", _scaled(one.path))
    yield case("packed by lzf", as_before(chunks=True, compression="lzf"))
    if one.dtype != STRING:
        yield case("packed by gzip", as_before(
            chunks=True, compression="gzip", shuffle=True), refused=False)  # fmt: skip
    yield case("claimed", replaced(shape=(10**12,), dtype="u1", chunks=(1 << 20,)))
    yield case("claimed at once", replaced(shape=(1 << 33,), dtype="f8"))
    yield case("a bomb", replaced(
        data=np.zeros(1 << 27, "u1"), chunks=(1 << 24,), compression="gzip"))  # fmt: skip
    yield case("a bomb of its own type", _bomb(one.path), refused="bytes" not in one.shape)
    for what, dtype in _TYPES.items():
        same = what == one.dtype or (one.dtype == STRING and what in ("bytes", "string"))
        yield case(f"of type {what}", _retyped(one.path, dtype), refused=not same)
    free = "bytes" in one.shape  # of any length
    yield case("a single value", reshaped(lambda v: v.flat[0]))
    yield case("of no rows", reshaped(lambda v: v[:0]), refused=not free)
    yield case("a row short", reshaped(lambda v: v[:-1]), refused=not free)
    yield case("a row more", reshaped(lambda v: np.concatenate([v, v[:1]])), refused=not free)
    yield case("of one more dimension", reshaped(lambda v: v[..., None]))
    yield case("of two columns", reshaped(lambda v: np.stack([v, v], -1)))
    yield case("of thirty dimensions", reshaped(lambda v: v.reshape(v.shape + (1,) * 28)))


def _group(path: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[path]
        file.create_group(path)

    return change


def _filled(path: str, value: float) -> Change:
    def change(file: h5py.File) -> None:
        with np.errstate(all="ignore"):
            file[path][...] = np.full(file[path].shape, value).astype(file[path].dtype)

    return change


def _scaled(path: str) -> Change:
    def change(file: h5py.File) -> None:
        shape, attributes = file[path].shape, dict(file[path].attrs)
        del file[path]
        file.create_dataset(path, data=np.zeros(shape, "i4"), chunks=True, scaleoffset=0)
        file[path].attrs.update(attributes)

    return change


def _bomb(path: str) -> Change:
    """Ten million rows of nothing that gzip packs into some kilobytes."""

    def change(file: h5py.File) -> None:
        dtype, shape = file[path].dtype, file[path].shape
        attributes = dict(file[path].attrs)
        del file[path]
        dtype = np.dtype("S4000") if dtype.kind in "SO" else dtype
        rows = (1 << 18 if dtype.kind == "S" else 10_000_000, *shape[1:])
        made = file.create_dataset(path, rows, dtype, chunks=(4096, *shape[1:]), compression="gzip")
        made.attrs.update(attributes)
        packed = _packed(np.zeros((4096, *shape[1:]), dtype))
        for first in range(0, rows[0], 4096):
            made.id.write_direct_chunk((first, *[0] * (len(shape) - 1)), packed)

    return change


def _packed(values: Any) -> bytes:
    return zlib.compress(values.tobytes(), 9)


def _retyped(path: str, dtype: Any) -> Change:
    def change(file: h5py.File) -> None:
        shape, attributes = file[path].shape, dict(file[path].attrs)
        del file[path]
        file.create_dataset(path, shape, dtype, **({"data": np.zeros(shape, dtype)}
                            if np.dtype(dtype).kind in "?iufc" else {}))  # fmt: skip
        file[path].attrs.update(attributes)

    return change


# -- several at once ------------------------------------------------------------------------------


def _together() -> Iterator[Case]:
    """What is wrong, or only odd, of the whole file."""

    def rows(take: Callable[[Any], Any]) -> Change:
        def change(file: h5py.File) -> None:
            for one in _datasets():
                if one.path in file and "N" in one.shape:
                    _replace(file, one.path, take(file[one.path][()]))

        return change

    def layers(n_layers: int) -> Change:
        def change(file: h5py.File) -> None:
            file.attrs["n_layers"] = n_layers
            for one in _datasets():
                here = {"L": n_layers, "L - 1": n_layers - 1}.get(one.shape[-1])
                if here is not None and one.path in file:
                    values = file[one.path][()]
                    _replace(file, one.path, np.resize(values, (len(values), here)))

        return change

    def named(name: bytes) -> Change:
        def change(file: h5py.File) -> None:
            n = len(file["/images/path"])
            _replace(file, "/images/path", np.array([name] * n, "S"))

        return change

    def of_status(code: int) -> Change:
        def change(file: h5py.File) -> None:
            file["/images/status"][...] = code

        return change

    def undecided(and_then: Change) -> Change:
        def change(file: h5py.File) -> None:
            del file["/decision"]
            and_then(file)

        return change

    yield changed("no rows", rows(lambda v: v[:0]))
    yield changed("one row", rows(lambda v: v[:1]), refused=False)
    yield changed("two rows", rows(lambda v: v[:2]), refused=False)
    yield changed("every row the same", rows(lambda v: np.repeat(v[:1], len(v), 0)), False)
    for n_layers in (2, 4, 64):
        yield changed(f"{n_layers} layers", layers(n_layers), refused=False)
        yield changed(f"{n_layers} layers, undecided", undecided(layers(n_layers)), False)
    yield changed("one layer", layers(1))
    for code in range(8):
        yield changed(f"all of status {code}", of_status(code), refused=False)
        yield changed(f"all of status {code}, undecided", undecided(of_status(code)), False)
    for name in (b"", b"/", b"..", b"../../up.png", b"/dev/zero", b"/dev/tty", b"a\0b", b"\xff",
                 b"x" * 5000, b"\x1b[2J", b"=1+1", b"-rf", b"<script>", b"s.h5", b"pipe",
                 b"images", b"x.npy#99999999999999999999", "\u202e".encode()):  # fmt: skip
        yield changed(f"names {name[:20]!r}", named(name), refused=False)
    for group in ("/images", "/scores", "/decision"):
        yield changed(f"{group} missing", lambda f, g=group: f.__delitem__(g), group[1] != "d")
        yield changed(f"{group} a dataset", lambda f, g=group: _replace(f, g, np.zeros(3)))
        yield changed(f"{group} an empty group", _group(group))
        yield changed(f"{group} a link", lambda f, g=group: _soft(f, g))
        yield changed(f"{group} a link to a file", lambda f, g=group: _soft(f, g, "good.h5"))
        yield changed(f"{group} the root", lambda f, g=group: _root(f, g))
    for one in _datasets():
        yield changed(f"undecided, {one.path} NaN", undecided(_as(one, np.nan)), refused=False)
        yield changed(f"undecided, {one.path} infinite", undecided(_as(one, np.inf)), False)
    yield changed("strings that are one", _one_string)
    yield changed("a chunk that unpacks to a gigabyte", _lying_chunk)
    for what, data in {
        "a few bytes": b"\1" * 9,
        "a few that are packed": _packed(np.ones(9, "u1")),
    }.items():
        yield changed(f"a chunk of {what}", _short_chunk("/scores/kl", data))
        yield changed(f"a packed chunk of {what}", _short_chunk("/images/error", data, "gzip"))
    for what, size in {
        "no bytes": 0,
        "3 bytes": 3,
        "5 bytes": 5,
        "gigabytes": 2**31 - 1,
        "all": 2**32 - 1,
    }.items():
        yield changed(f"chunks of {what} in the index", _index("<I", 0, size))
    for what, place in {"at the begin": 0, "behind the end": 1 << 40, "nowhere": 2**64 - 1}.items():
        yield changed(f"chunks {what} in the index", _index("<Q", 32, place))
    yield changed("unpacked chunks in the index", _index("<I", 4, 2**32 - 1))
    yield changed("many chunks", _many_chunks)
    yield changed("random numbers", _random_numbers, refused=False)


# -- tiles ----------------------------------------------------------------------------------------


def _tiles() -> Iterator[Case]:
    """What is wrong with the table of tiles, or with what the header says of it."""

    def case(what: str, change: Change, refused: bool = True) -> Case:
        return changed(what, change, refused, TILED)

    def counted(count: Callable[[Any], Any]) -> Change:
        """Other numbers of tiles, in both places that say them."""

        def change(file: h5py.File) -> None:
            n_tiles = np.maximum(count(file["/images/n_tiles"][()].astype("i8")), 0)
            file["/images/n_tiles"][...] = n_tiles
            file["/tiles/first"][...] = np.concatenate([[0], np.cumsum(n_tiles)])

        return change

    def first(change_it: Callable[[Any], Any]) -> Change:
        def change(file: h5py.File) -> None:
            file["/tiles/first"][...] = change_it(file["/tiles/first"][()])

        return change

    def placed(value: int) -> Change:
        return lambda file: file["/tiles/place"].write_direct(
            np.full(file["/tiles/place"].shape, value, "i4")
        )

    for name in ("fit", "tile_stride", "tile_scale"):
        yield case(f"without {name}", lambda f, n=name: f.attrs.pop(n))
        for what, value in _VALUES.items():
            yield case(f"{name} {what}", _set("/", name, value), refused=False)
    for one in datasets():
        if one.group == "/tiles" or one.name in ("n_tiles", "peak"):
            yield from _dataset(one, TILED)
    yield case("/tiles missing", lambda f: f.__delitem__("/tiles"))
    yield case("/tiles a dataset", lambda f: _replace(f, "/tiles", np.zeros(3)))
    yield case("/tiles an empty group", _group("/tiles"))
    yield case("/tiles a link", lambda f: _soft(f, "/tiles"))
    yield case("/tiles a link to a file", lambda f: _soft(f, "/tiles", "good.h5"))
    yield case("/tiles the root", lambda f: _root(f, "/tiles"))
    yield case("first from one on", first(lambda v: v + 1))
    yield case("first goes down", first(lambda v: v[::-1]))
    yield case("first of large numbers", first(lambda v: v + (1 << 62)))
    yield case("more tiles than there are", counted(lambda n: n + 1))
    yield case("fewer tiles than there are", counted(lambda n: n - 1))
    yield case("billions of tiles", counted(lambda n: n + (1 << 31)))
    yield case("all tiles of one image", counted(lambda n: np.eye(len(n))[0] * n.sum()), False)
    yield case("tiles of others", counted(lambda n: np.roll(n, 1)), refused=False)
    for value in (-1, 1, 1 << 30, 2**31 - 1, -(2**31)):
        yield case(f"all tiles at {value}", placed(value), refused=False)


def _as(one: Dataset, value: float) -> Change:
    floating = one.dtype.startswith("float") and not one.path.startswith("/decision")
    return _filled(one.path, value) if floating else lambda file: None


def _replace(file: h5py.File, path: str, values: Any) -> None:
    attributes = dict(file[path].attrs)
    del file[path]
    file.create_dataset(path, data=values, dtype=None if values.dtype.kind != "O"
                        else h5py.string_dtype())  # fmt: skip
    file[path].attrs.update(attributes)


def _soft(file: h5py.File, group: str, other: str = "") -> None:
    file.move(group, "/elsewhere")
    file[group] = h5py.ExternalLink(other, group) if other else h5py.SoftLink("/elsewhere")


def _root(file: h5py.File, group: str) -> None:
    del file[group]
    file[group] = file["/"]


def _one_string(file: h5py.File) -> None:
    """A reference in each row to the same string of eight megabytes."""
    n = len(file["/images/path"])
    _replace(file, "/images/path", np.array(["x" * (8 << 20)] + ["y"] * (n - 1), object))
    file.flush()
    found = file["/images/path"].id
    place = found.get_offset()
    path = Path(file.filename)
    file.close()  # the references are written behind HDF5's back
    data = bytearray(path.read_bytes())
    for row in range(n):
        data[place + 16 * row : place + 16 * (row + 1)] = data[place : place + 16]
    path.write_bytes(data)


def _lying_chunk(file: h5py.File) -> None:
    n = len(file["/images/error"])
    del file["/images/error"]
    made = file.create_dataset("/images/error", (n,), "S16", chunks=(n,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 29), 9))


def _short_chunk(path: str, data: bytes, compression: str | None = None) -> Change:
    """A chunk that has fewer bytes than it should: what reads it may read beside its memory."""

    def change(file: h5py.File) -> None:
        values, attributes = file[path], dict(file[path].attrs)
        shape, dtype = values.shape, values.dtype
        del file[path]
        made = file.create_dataset(path, shape, dtype, chunks=shape, compression=compression)
        made.attrs.update(attributes)
        made.id.write_direct_chunk((0,) * len(shape), data)

    return change


def _index(kind: str, at: int, value: int) -> Change:
    """Another number in the first entry of each index of chunks.

    An index is a node of a tree, which begins with 24 bytes. An entry has a size, the filters that
    were left out, two numbers or more of where it is in the dataset, and where in the file.
    """

    def change(file: h5py.File) -> None:
        path = Path(file.filename)
        file.close()  # behind HDF5's back
        data, place = bytearray(path.read_bytes()), -1
        while (place := data.find(b"TREE\x01", place + 1)) >= 0:
            struct.pack_into(kind, data, place + 24 + at, value)
        path.write_bytes(data)

    return change


def _many_chunks(file: h5py.File) -> None:
    n = 200_000
    del file["/images/error"]
    made = file.create_dataset("/images/error", (n,), "S1", chunks=(1,))
    for row in range(0, n, 50):
        made[row] = b"x"


def _random_numbers(file: h5py.File) -> None:
    noise = random.Random(0)
    for one in _datasets():
        if one.dtype.startswith("float") and one.path.startswith("/scores"):
            shape = file[one.path].shape
            values = [noise.choice([0.0, -1e38, 1e38, float("nan"), 1.0]) for _ in range(shape[0])]
            file[one.path][...] = np.resize(np.array(values, "f4"), shape)
