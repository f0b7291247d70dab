"""Parts of a run that are none: `merge` refuses them, and no score file is made of them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hvaeood_cli.store.header import OF_SHARD
from hvaeood_cli.store.reader import read_scores
from tests.conftest import make_images
from tests.hostile.case import Case
from tests.hostile.forked import Server, Tally, listing, needs_linux, places
from tests.hostile.score_files import FILE, score_files

pytestmark = needs_linux

NAMES = ["1.h5", "2.h5", FILE]  # of the parts; the last as the sweep's score file is named
MERGE = ("merge", *(f"parts/{name}" for name in NAMES), "-o", "out/m.h5", "--force")
OTHERS = [-1, 0, 1, 2, 3, 4, 10**6, 10**6 + 1, 2**53 - 1, 2**63 - 1, 1.5, np.nan, "", "0" * 64]


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    """A model, and the parts of three shards."""
    folder = tmp_path_factory.mktemp("parts")
    np.save(folder / "images.npy", make_images(90)[:, 0])
    server.env["HVAEOOD_MODEL"] = str(bundle.folder)
    options = ("-o", "whole", "-S", "1", "--statistics", "all", "--label", "0")
    for shard in ("1/3", "2/3", "3/3"):
        assert server("score", "images.npy", "--shard", shard, *options, cwd=folder).code == 0
    for part, name in zip(sorted((folder / "whole").iterdir()), NAMES, strict=True):
        part.rename(part.with_name(name))
    shutil.copy(folder / "whole" / FILE, folder / "whole" / "good.h5")  # some link to it
    (folder / "out").mkdir()
    return folder


def of_parts() -> list[Case]:
    """Score files that are wrong, of which a part is one; it has no decision and no tiles."""
    return [
        case
        for case in score_files(n_random=40)
        if case.file == FILE and "decision" not in case.name and "undecided" not in case.name
    ]


def fresh(home: Path) -> Path:
    shutil.rmtree(home / "parts", ignore_errors=True)
    shutil.rmtree(home / "out")
    (home / "out").mkdir()
    shutil.copytree(home / "whole", home / "parts")
    return home / "parts"


def sweep(server: Server, home: Path, cases: Iterable[Case]) -> Tally:
    tally = Tally()
    for case in cases:
        case.spoil(fresh(home))
        before = _elsewhere(home)
        tally.files += 1
        end = server(*MERGE, cwd=home)
        wrong = "it writes elsewhere" if before != _elsewhere(home) else ""
        if case.refused and end.code != 3:
            wrong = f"not refused, exit code {end.code}"
        if end.code == 3 and list((home / "out").iterdir()):
            wrong = "it is refused, and something is made"
        tally.add(case.name, "merge", end, wrong)
    return tally


def _elsewhere(home: Path) -> dict[str, int]:
    return {path: size for path, size in listing(home).items() if not path.startswith("out")}


def test_some_parts(server, home):
    sweep(server, home, random.Random(1).sample(of_parts(), 40)).check("parts")


@pytest.mark.hostile
def test_all_parts(server, home):
    sweep(server, home, of_parts()).check("parts")


def test_what_a_part_says_of_its_shard(server, home):
    """It takes no longer, and no more memory, whatever number a part says that there are."""
    tally = Tally()
    for name in OF_SHARD:
        for value in OTHERS:
            with h5py.File(fresh(home) / FILE, "r+") as file:
                if value == file.attrs[name]:
                    continue
                file.attrs[name] = value
            tally.files += 1
            end = server(*MERGE, cwd=home)
            tally.add(f"{name} {value}", "merge", end, "" if end.code == 3 else "not refused")
    tally.check("what parts say")


def test_what_stands_in_a_parts_place(server, home):
    """In a folder that is merged whole, onto a file that is there."""
    tally = Tally()
    for what, put in places(home / "parts" / FILE):
        fresh(home)
        (home / "parts" / "good.h5").rename(home / "out" / "m.h5")
        put()
        tally.files += 1
        end = server("merge", "parts", "-o", "out/m.h5", cwd=home)
        tally.add(what, "merge", end, "" if end.code == 3 else f"exit code {end.code}")
    tally.check("places of a part")


def test_where_all_is_well_they_are_merged(server, home):
    fresh(home)
    assert server(*MERGE, cwd=home).code == 0
    assert len(read_scores(home / "out" / "m.h5")) == 90
