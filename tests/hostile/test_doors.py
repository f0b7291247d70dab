"""Files that are read back, each wrong in one place: every command refuses them, or is right.

A small part runs with the other tests; all of them run with `pytest -m hostile`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.detector import Detector
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.model.bundle import write_bundle
from hvaeood_cli.store.columns import blank_rows
from hvaeood_cli.store.journal import Batch, Journal
from hvaeood_cli.store.reader import read_scores
from tests.conftest import make_images, make_ladder
from tests.hostile.score_files import TILED, score_files
from tests.hostile.sidecars import JOURNAL, JUDGEMENTS, LABELS, PAGE, sidecars
from tests.hostile.sweep import COMMANDS, PARTS, ROOT, Tally, swept
from tests.test_tiles import CONFIG, make_photos

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc")


@pytest.fixture
def good(bundle, tmp_path, run) -> Path:
    """A folder where all is well: images, a model, scores and all that stands beside them."""
    folder = tmp_path / "good"
    (folder / "images").mkdir(parents=True)
    for i, image in enumerate(make_images(60)):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:02d}.png")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    shutil.copytree(bundle.folder, folder / "model")
    np.save(folder / "usual.npy", make_images(120, seed=9)[:, 0])
    os.chdir(folder)
    every = ("--statistics", "all")
    assert run("calibrate", "usual.npy", "--model", "model", "-o", "c.npz", "-q", *every)[0] == 0
    (folder / "usual.npy").unlink()
    options = ("--model", "model", "--label", "0", "--calibration", "c.npz", "--fpr", "0.05", "-q")
    assert run("score", "images", "-o", "s.h5", *every, *options)[0] == 4
    _add_tiled(folder, run)
    scores = read_scores(Path("s.h5"))
    with Journal.open(Path(JOURNAL), _header(scores)) as journal:
        for first in range(0, 40, 10):
            rows = blank_rows(10, scores.sizes)
            for name in rows.dtype.names or ():
                rows[name] = scores[name][first : first + 10]
            journal.append(Batch(first, rows, {}))
    key = f"content:{int(scores.content[3]):016x}"
    judged = {key: {"mark": "ood", "note": "a shoe", "path": "images/03.png"}}
    facts = {"format": "hvaeood-judgements", "format_version": 1, "judgements": judged}
    Path(JUDGEMENTS).write_text(json.dumps(facts))
    Path(LABELS).write_text("path,label\nimages/00.png,1\nimages/01.png,0\n")
    shutil.copy("s.h5", "good.h5")
    assert run("report", "s.h5", "--top", "0", "-q", "-o", PAGE)[0] == 0
    (folder / "good").mkdir()
    for name in ("s.h5", TILED, JOURNAL, JUDGEMENTS, LABELS, PAGE):
        shutil.copy(name, f"good/{name}")
    return folder


def _add_tiled(folder, run):
    """Photographs, a model that takes them by tiles, and their scores."""
    make_photos(folder / "photos", 52)
    write_bundle(folder / "tiled", "tiled", CONFIG, make_ladder(CONFIG), {}, np.zeros(0, np.uint64))
    make_photos(folder / "usual", 55, seed=1)
    assert run("calibrate", "usual", "--model", "tiled", "-q")[0] == 0
    shutil.rmtree(folder / "usual")
    options = ("--model", "tiled", "--label", "0", "--fpr", "0.05", "-q")
    assert run("score", "photos", "-o", TILED, *options)[0] == 0


def _header(scores):
    manifest = open_sources(["images"])
    header = Detector("model", statistics="all").run(manifest, label=0).header("cpu")
    assert header.listing_sha256 == scores.header.listing_sha256
    return header


def _check(tally: Tally) -> None:
    assert not tally.failures, f"{tally}\n" + "\n".join(tally.failures[:20])


def test_some_files(good):
    """And all commands are done where all is well: else they would refuse for another reason."""
    tally = swept(good, "well")
    _check(tally)
    refused = tally.codes["2"] + tally.codes["3"]
    assert refused == 2, f"{tally}"  # tui without a terminal, reconstruct
    _check(swept(good, "some"))


@pytest.mark.hostile
@pytest.mark.parametrize("part", range(PARTS))
def test_all_files(good, part):
    _check(swept(good, str(part)))


@pytest.mark.hostile
def test_commands_as_processes(good):
    """As a shell starts them: a sample, for each takes a second."""
    every = [*score_files(), *sidecars()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for case in random.Random(1).sample(every, 60):
        folder = good.parent / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        os.chdir(folder)
        case.spoil(folder)
        command = [sys.executable, "-m", "hvaeood_cli", *COMMANDS[case.file][0].words]
        done = subprocess.run(
            command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
            check=False,
        )  # fmt: skip
        said = done.stderr.decode("utf-8", "replace")
        assert done.returncode in (0, 1, 2, 3, 4) and "Traceback" not in said, (case.name, said)
