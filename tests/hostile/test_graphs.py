"""Graphs in the cache that are none: each is made anew, and scores are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_images
from tests.hostile.forked import SECONDS, Server, Tally, byte_damages, needs_linux, places
from tests.hostile.test_faults import h5

pytest.importorskip("openvino")
pytestmark = needs_linux

SCORE = ("score", "images.npy", "-S", "1", "--runtime", "openvino", "--force", "-o", "s.h5")


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    """Images, their scores, and a cache that holds a graph."""
    folder = tmp_path_factory.mktemp("graphs")
    np.save(folder / "images.npy", make_images(20)[:, 0])
    server.env |= {"HVAEOOD_MODEL": str(bundle.folder), "XDG_CACHE_HOME": str(folder / "cache")}
    assert server(*SCORE, cwd=folder).code == 0
    shutil.copy(folder / "s.h5", folder / "whole.h5")
    shutil.copy(graph(folder), folder / "graph")
    return folder


def graph(home: Path) -> Path:
    """The one file in the cache."""
    (found,) = (home / "cache").rglob("graphs/*")
    return found


def fresh(home: Path) -> Path:
    """The place of the graph, with nothing there."""
    place = graph(home)
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)
    return place


def damages(home: Path, n: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """What may be in the cache, and what puts it there."""
    place = graph(home)
    yield from places(place)
    data = (home / "graph").read_bytes()
    head = data.index(b"\n")
    in_head = [(what, one + data[head:]) for what, one in byte_damages(data[:head], n, seed=1)]
    for what, one in [*byte_damages(data, n), *in_head]:
        if one != data:
            yield what, lambda one=one: (place.unlink(), place.write_bytes(one))


def sweep(server: Server, home: Path, n: int, only: Collection[str] = ()) -> Tally:
    tally = Tally()
    for what, put in damages(home, n):
        if only and what not in only:
            continue
        shutil.copy(home / "graph", fresh(home))
        put()
        tally.files += 1
        end = server(*SCORE, cwd=home)
        same = end.code == 0 and h5(home / "s.h5") == h5(home / "whole.h5")
        # To export a graph anew takes about ten seconds of a slow processor by itself.
        tally.add(what, "score", end, "" if same else "other scores", 3 * SECONDS)
    return tally


def test_what_would_be_waited_for(server, home):
    sweep(server, home, 0, ("a pipe", "a device")).check("graphs in the cache")


@pytest.mark.hostile
def test_all_graphs(server, home):
    sweep(server, home, 60).check("graphs in the cache")


def test_a_damaged_one_is_made_anew(server, home):
    damaged = (home / "graph").read_bytes()[:-1]
    place = fresh(home)
    place.write_bytes(damaged)
    assert server(*SCORE, cwd=home).code == 0
    assert graph(home) == place and place.read_bytes() != damaged
    assert h5(home / "s.h5") == h5(home / "whole.h5")
