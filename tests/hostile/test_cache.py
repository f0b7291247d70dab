"""Files in the user's cache that are none: each is made anew, and results are the same."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.conftest import make_images
from tests.hostile.forked import SECONDS, Server, Tally, byte_damages, needs_linux, places
from tests.hostile.test_faults import h5

pytestmark = needs_linux


def weights(path: Path) -> Any:
    return {name: value.tobytes() for name, value in load_file(path).items()}


@dataclass(frozen=True)
class Entry:
    """A kind of file in the cache: a command that makes it and takes it, and what comes of that."""

    kind: str  # the folder that it is in
    command: tuple[str, ...]
    result: Callable[[Path], Any]  # of the folder in which the command ran
    cold: int  # seconds of a slow processor that the command may take where nothing is kept


ENTRIES = [
    Entry(  # to export a graph takes about ten seconds
        "graphs",
        ("score", "images.npy", "-S", "1", "--runtime", "openvino", "--force", "-o", "out/s.h5"),
        lambda out: h5(out / "s.h5"),
        3 * SECONDS,
    ),
    Entry(
        "listings",
        ("score", "x.zip", "-S", "1", "--force", "-o", "out/s.h5"),
        lambda out: h5(out / "s.h5"),
        2 * SECONDS,
    ),
    Entry(
        "pixels",
        (
            *("train", "images", "--out", "out/m", "--preset", "compact-gray", "--image-size", "8"),
            *("--epochs", "1", "--batch-size", "25", "--checkpoint-every", "0", "--name", "m"),
            *("--validation", "0", "--calibrate", "0"),
        ),
        lambda out: weights(out / "m" / "model.safetensors"),
        2 * SECONDS,
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    """Images in a folder, in an array, and a thousand of them in an archive."""
    folder = tmp_path_factory.mktemp("cache")
    np.save(folder / "images.npy", make_images(20)[:, 0])
    (folder / "images").mkdir()
    for i, image in enumerate(make_images(50)):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:02d}.png")
    data = (folder / "images" / "00.png").read_bytes()
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for i in range(1000):
            archive.writestr(f"{i}.png", data)
    server.env |= {"HVAEOOD_MODEL": str(bundle.folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return folder


def kept(home: Path, entry: Entry) -> Path:
    """A file of its kind."""
    return min(path for path in (home / "cache").rglob(f"{entry.kind}/**/*") if not path.is_dir())


def damages(place: Path, whole: bytes, n: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """What may be in the cache, and what puts it there."""
    yield from places(place)
    head = whole.index(b"\n")
    in_head = [(what, one + whole[head:]) for what, one in byte_damages(whole[:head], n, seed=1)]
    for what, one in [*byte_damages(whole, n), *in_head]:
        if one != whole:
            yield what, lambda one=one: (place.unlink(), place.write_bytes(one))


def sweep(server: Server, home: Path, entry: Entry, n: int, only: Collection[str] = ()) -> Tally:
    def run() -> tuple[Any, Any]:
        shutil.rmtree(home / "out", ignore_errors=True)
        (home / "out").mkdir()
        end = server(*entry.command, cwd=home)
        return end, entry.result(home / "out") if end.code == 0 else None

    tally = Tally()
    _, right = run()
    place = kept(home, entry)
    whole = place.read_bytes()
    for what, put in damages(place, whole, n):
        if only and what not in only:
            continue
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.write_bytes(whole)
        put()
        tally.files += 1
        end, found = run()
        wrong = "" if right is not None and found == right else "another result"
        tally.add(what, entry.command[0], end, wrong, entry.cold)
    shutil.rmtree(home / "cache")
    return tally


def by_kind(entry: Entry) -> str:
    return entry.kind


@pytest.fixture(params=ENTRIES, ids=by_kind)
def entry(request) -> Entry:
    if request.param.kind == "graphs" and not find_spec("openvino"):
        pytest.skip("no OpenVINO")
    return request.param


def test_what_would_be_waited_for_and_what_is_damaged(server, home, entry):
    # An empty graph is tried in tests/test_runtimes.py; here it takes ten seconds.
    only = ("a pipe",) if entry.kind == "graphs" else ("a pipe", "an empty file")
    sweep(server, home, entry, 0, only).check(entry.kind)


@pytest.mark.hostile
def test_all_entries(server, home, entry):
    sweep(server, home, entry, 60).check(f"{entry.kind} in the cache")
