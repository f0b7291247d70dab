"""Calibrations that are no calibrations, read by every command that takes one."""

from __future__ import annotations

import io
import json
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hvaeood_cli.calibration.calibration import Calibration, _digest
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.writer import write_decision
from tests.hostile.forked import (
    ODD_JSON,
    Server,
    Tally,
    byte_damages,
    json_damages,
    listing,
    needs_linux,
    places,
)
from tests.score_files import make_scores

pytestmark = needs_linux

N = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle) -> Path:
    """Images' scores, decided by a calibration; and a model whose folder holds one."""
    from hvaeood_cli.calibration.rules import decide_as_asked

    folder = tmp_path_factory.mktemp("calibrations")
    scores = make_scores(folder / "s.h5", N, model_sha256=bundle.sha256)
    calibration = Calibration.of(scores)
    calibration.save(folder / "whole.npz")
    write_decision(scores, decide_as_asked(calibration, scores, Rule("fpr", 0.1)))
    shutil.copytree(bundle.folder, folder / "model")
    return folder


def pack(arrays: dict[str, Any], head: dict[str, Any] | bytes | str, seal: bool = True) -> bytes:
    """A calibration's file. seal: with the digest and id that go with it, where it has any."""
    if isinstance(head, dict) and seal:
        head = dict(head)
        numbers = {name: np.asarray(array) for name, array in arrays.items()}
        if not any(array.dtype.hasobject for array in numbers.values()) and "sha256" in head:
            head["sha256"] = _digest(numbers)
    if isinstance(head, dict):
        head = json.dumps(head)
    if isinstance(head, bytes):
        head = head.decode("utf-8", "surrogateescape")
    packed = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(packed, **arrays, head=np.array(head))
    return packed.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("head")))


def array_damages(array: np.ndarray) -> Iterator[tuple[str, Any]]:
    """An array of other types, ranks, lengths and values."""
    for dtype in ("int8", "uint64", "float16", "float64", "complex64", "bool", "S4", "U4", "M8[s]"):
        if np.dtype(dtype) != array.dtype:
            yield dtype, np.zeros(array.shape, dtype)
    yield ">f8", array.astype(array.dtype.newbyteorder())
    yield "of records", np.zeros(array.shape, [("a", "f4")])
    yield "of objects", np.full(array.shape, {}, object)
    yield "empty", array[:0]
    yield "shorter", array[:-1]
    yield "longer", np.concatenate([array, array])
    yield "of higher rank", array[None]
    yield "of rank 0", array.ravel()[0]
    if array.ndim > 1:
        yield "of lower rank", array.ravel()
        yield "in Fortran's order", np.asfortranarray(array)
        yield "without columns", array[:, :0]
    for value in (0, 1, -1, np.nan, np.inf, -np.inf, 1e308):
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                yield f"all {value}", np.full_like(array, value)
                some = array.copy()
                some.flat[-1] = value
                yield f"with {value}", some


def lying_header(data: bytes, name: str, header: bytes) -> bytes:
    """The file with another header of an array, as long as the one that is there."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as copy:
        for member in archive.infolist():
            content = archive.read(member)
            if member.filename == f"{name}.npy":
                length = struct.unpack("<H", content[8:10])[0]
                content = (
                    content[:10]
                    + header.ljust(length - 1)[: length - 1]
                    + b"\n"
                    + content[10 + length :]
                )
            copy.writestr(member.filename, content)
    return out.getvalue()


def bomb(name: str, mebibytes: int) -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    return out.getvalue()


def consistent_bomb(data: bytes, n: int) -> bytes:
    """A calibration of n images, all alike: it is in order, and a thousandth of its size."""
    arrays, head = unpack(data)
    for name in list(arrays):
        if name.startswith("score_") or name in ("content", "combined"):
            arrays[name] = np.zeros((n, *arrays[name].shape[1:]), arrays[name].dtype)
    head["sha256"] = _digest(arrays)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays, head=np.array(json.dumps(head)))
    return out.getvalue()


def damages(data: bytes, n_random: int) -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    arrays, head = unpack(data)
    for name, changed in json_damages(head):
        yield f"head: {name}", pack(arrays, changed)
    for name, text in ODD_JSON.items():
        if len(text) < 1 << 17:
            yield f"head: {name}", pack(arrays, text)
    for name, array in arrays.items():
        yield f"{name} missing", pack({k: v for k, v in arrays.items() if k != name}, head)
        for what, changed in array_damages(array):
            yield f"{name} {what}", pack(arrays | {name: changed}, head)
    for header in (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 3), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (60, 3.0), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (60, 3), }",
        b"{'descr': '<U999999999', 'fortran_order': False, 'shape': (60,), }",
        b"{'descr': [('a', '<f4', (9999, 9999))], 'fortran_order': 0, 'shape': (60,)}",
        b"((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((",
        b"[].__class__",
        b"",
    ):
        for name in ("score_lower_bound", "head", "density0_precisions"):
            yield f"{name}: {header!r}", lying_header(data, name, header)
    yield "another array", pack(arrays | {"another": np.zeros(3)}, head)
    yield "folds 2, density of one", pack(arrays, head | {"folds": 2})
    yield "a bomb", lambda: bomb("head.npy", 1024)
    yield "a bomb of another name", lambda: bomb("x.npy", 512)
    yield "a bomb that is in order", lambda: consistent_bomb(data, 1_700_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = io.BytesIO(data)
        with zipfile.ZipFile(twice, "a") as archive:
            archive.writestr("content.npy", b"x")
    yield "two members of a name", twice.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            for place in (member.header_offset, member.header_offset + 30):
                yield f"cut at {member.filename}", data[:place]
            for offset, what in ((6, "encrypted"), (8, "compressed otherwise"), (14, "CRC")):
                changed = bytearray(data)
                changed[member.header_offset + offset] ^= 1
                yield f"{member.filename} {what}", bytes(changed)
    yield from byte_damages(data, n_random)


COMMANDS: list[tuple[str, ...]] = [
    ("decide", "s.h5", "--calibration", "c.npz", "--dry-run"),
    ("report", "s.h5", "--calibration", "c.npz", "-o", "out/r.html", "--top", "3", "--force"),
    ("tui", "s.h5", "--calibration", "c.npz"),
    ("calibrate", "s.h5", "--model", "model", "-o", "c.npz"),
    ("models", "model"),
    (
        "score",
        "images.npy",
        "--model",
        "model",
        "-o",
        "out/s.h5",
        "--calibration",
        "c.npz",
        "-S",
        "1",
    ),
]

KEPT: list[tuple[str, ...]] = [
    ("decide", "kept.h5", "--fpr", "0.1", "--dry-run"),
    ("report", "kept.h5", "--format", "json"),
    ("tui", "kept.h5"),
]


def sweep(server: Server, home: Path, each: Callable[[int, str], bool], n_random: int) -> Tally:
    """Two commands on each file, and one on a score file that it is said to have decided."""
    tally = Tally()
    (home / "out").mkdir(exist_ok=True)
    np.save(home / "images.npy", np.zeros((3, 8, 8), np.uint8))
    whole = (home / "whole.npz").read_bytes()
    for number, (what, made) in enumerate(damages(whole, n_random)):
        if not each(number, what):
            continue
        data = made if isinstance(made, bytes) else made()
        tally.files += 1
        for command in (COMMANDS[tally.files % 6], COMMANDS[(tally.files + 3) % 6]):
            (home / "c.npz").write_bytes(data)
            shutil.copy(home / "c.npz", home / "model" / "calibration.npz")
            before = listing(home)
            end = server(*command, cwd=home)
            # One of an older format is replaced by calibrate, whose output it is.
            outputs = ("out", "c.") if what == "head: format_version = '0'" else ("out",)
            same = _elsewhere(before, outputs) == _elsewhere(listing(home), outputs)
            wrong = "" if same else "it writes elsewhere"
            tally.add(what, command[0], end, wrong)
        if len(data) < 1 << 20:
            _keep_in(home / "s.h5", home / "kept.h5", data)
            command = KEPT[tally.files % len(KEPT)]
            tally.add(f"kept: {what}", command[0], server(*command, cwd=home))
    return tally


def _elsewhere(found: dict[str, int], outputs: tuple[str, ...]) -> dict[str, int]:
    return {path: size for path, size in found.items() if not path.startswith(outputs)}


def _keep_in(source: Path, target: Path, data: bytes) -> None:
    """A score file that says that it was decided by this."""
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        del file["decision/calibration"]
        file["decision"].create_dataset(
            "calibration", data=np.frombuffer(data, np.uint8), chunks=True
        ) if data else None


def test_some_of_every_kind(server, home):
    """A part of the sweep, for every run of the tests."""
    sweep(server, home, lambda i, what: i % 180 == 0 or "in order" in what, 40).check(
        "calibrations"
    )


@pytest.mark.hostile
def test_all_of_them(server, home):
    sweep(server, home, lambda i, what: True, 400).check("calibrations")


def test_what_stands_in_its_place(server, home):
    tally = Tally()
    for what, put in places(home / "c.npz"):
        put()
        tally.files += 1
        for command in COMMANDS[:3]:
            end = server(*command, cwd=home)
            tally.add(what, command[0], end, "" if end.code == 3 else f"exit code {end.code}")
    shutil.rmtree(home / "c.npz", ignore_errors=True)
    (home / "c.npz").unlink(missing_ok=True)
    tally.check("places of a calibration")


def test_the_file_as_it_is_written_is_taken(server, home):
    shutil.copy(home / "whole.npz", home / "c.npz")
    assert server("decide", "s.h5", "--calibration", "c.npz", cwd=home).code == 0
    (home / "c.npz").unlink()
