"""Archives, array files and Parquet files that are wrong: refused, or rows that say so."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_images
from tests.hostile.forked import Server, Tally, byte_damages, listing, needs_linux, places

pytestmark = needs_linux

SCORE = ("-S", "1", "--label", "0", "-o", "out/s.h5")
_LARGE = (b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\0" * 4)


def files() -> dict[str, bytes]:
    """A whole one of each kind, by its name."""
    images = make_images(12)[:, 0]
    pngs = [_png(image) for image in images]
    found = {
        "x.npy": _saved(lambda file: np.save(file, images)),
        "x.npz": _saved(lambda file: np.savez(file, images=images)),
        "packed.npz": _saved(lambda file: np.savez_compressed(file, images=images)),
        "x.idx": bytes([0, 0, 8, 3]) + struct.pack(">3I", *images.shape) + images.tobytes(),
        "x.tar": _saved(lambda file: _tar(file, pngs, tarfile.GNU_FORMAT)),
        "pax.tar": _saved(lambda file: _tar(file, pngs, tarfile.PAX_FORMAT)),
        "x.zip": _saved(lambda file: _zip(file, pngs, zipfile.ZIP_STORED)),
        "packed.zip": _saved(lambda file: _zip(file, pngs, zipfile.ZIP_DEFLATED)),
    }
    found["x.idx.gz"] = gzip.compress(found["x.idx"], mtime=0)
    try:
        from pyarrow import parquet, table
    except ImportError:
        return found
    columns = table({"image": pngs, "label": list(range(12))})
    for name, codec in (("x.parquet", "none"), ("packed.parquet", "snappy")):
        found[name] = _saved(
            lambda file, c=codec: parquet.write_table(
                columns, file, row_group_size=5, compression=c
            )
        )
    return found


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    return _saved(lambda file: Image.fromarray(pixels).save(file, "PNG"))


def _tar(file: io.BytesIO, images: list[bytes], layout: int) -> None:
    with tarfile.open(fileobj=file, mode="w", format=layout) as tar:
        for i, data in enumerate(images):
            info = tarfile.TarInfo(f"é/{'long ' * 30}/{i}.png" if i % 3 == 0 else f"{i}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _zip(file: io.BytesIO, images: list[bytes], method: int) -> None:
    with zipfile.ZipFile(file, "w", method) as archive:
        for i, data in enumerate(images):
            archive.writestr(f"é/{i}.png" if i % 3 == 0 else f"{i}.png", data)


def damages(name: str, data: bytes, n: int) -> Iterator[tuple[str, bytes]]:
    """What is cut, flipped and moved anywhere; at its beginning and end, where most files say how
    large what is in them is; and large numbers in the same places."""
    ends = {"the first bytes": slice(0, 160), "the last bytes": slice(-700, None)}
    if name.endswith((".tar", ".npy", ".npz", ".zip")):
        ends["a header"] = slice(0, 512)
    yield from byte_damages(data, n)
    for seed, (what, place) in enumerate(ends.items()):
        first, last, _ = place.indices(len(data))
        for kind, part in byte_damages(data[place], n // 2, seed + 1):
            yield f"{what}, {kind}", data[:first] + part + data[last:]
        noise = np.random.default_rng(seed)
        for i in range(n // 2):
            at = int(noise.integers(first, last))
            number = _LARGE[i % len(_LARGE)]
            yield f"{number!r} at {at}", data[:at] + number + data[at + len(number) :]


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "out").mkdir()
    server.env |= {"HVAEOOD_MODEL": str(bundle.folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return folder


def score(server: Server, home: Path, name: str, what: str, tally: Tally) -> None:
    """Score what stands there, and look what came of it."""
    shutil.rmtree(home / "out")
    (home / "out").mkdir()
    before = _elsewhere(home)
    tally.files += 1
    end = server("score", name, *SCORE, cwd=home)
    wrong = "" if before == _elsewhere(home) else "it writes elsewhere"
    tally.add(f"{name}: {what}", "score", end, wrong)


def _elsewhere(home: Path) -> dict[str, int]:
    return {path: size for path, size in listing(home).items() if not path.startswith("out")}


def sweep(server: Server, home: Path, n: int) -> Tally:
    tally = Tally()
    for name, whole in files().items():
        for what, data in damages(name, whole, n):
            (home / name).write_bytes(data)
            score(server, home, name, what, tally)
        (home / name).unlink()
    return tally


def test_where_all_is_well_they_are_scored(server, home):
    for name, data in files().items():
        (home / name).write_bytes(data)
        end = server("score", name, *SCORE, "--force", cwd=home)
        assert end.code == 0, f"{name}: {end.err}"
        (home / name).unlink()


def test_some_sources(server, home):
    sweep(server, home, 2).check("archives and array files")


@pytest.mark.hostile
def test_all_sources(server, home):
    sweep(server, home, 100).check("archives and array files")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.idx", "x.tar", "x.zip"])
def test_what_stands_in_their_place(server, home, name):
    tally = Tally()
    for what, put in places(home / name):
        put()
        score(server, home, name, what, tally)
    (home / name).unlink(missing_ok=True)
    tally.check(f"places of {name}")
