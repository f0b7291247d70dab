"""Signals, closed terminals, small disks, two at once, clocks that jump, files that change."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.errors import ImageError
from hvaeood_cli.files import NO_LOCKS
from hvaeood_cli.images.folder import read_file
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.untrusted import read_regular
from tests.conftest import make_images
from tests.hostile.forked import ROOT, Server, needs_linux
from tests.hostile.test_faults import h5, judgements, model

pytestmark = needs_linux
WITH_FAULTS = True  # of the `server`

SCORE = ("score", "images", "--model", "model", "-o", "out/s.h5", "-S", "1", "--batch-size", "8")
TRAIN = (
    *("train", "images", "--out", "out/m", "--preset", "compact-gray", "--image-size", "8"),
    *("--epochs", "1", "--batch-size", "25", "--validation", "0", "--calibrate", "0"),
    *("--name", "m", "--checkpoint-every", "0"),
)
APPEND = "hvaeood_cli.store.journal:Journal.append"
SAVE = "hvaeood_cli.training.checkpoint:Checkpoints.save"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    shutil.copytree(bundle.folder, folder / "model")
    (folder / "images").mkdir()
    for i, image in enumerate(make_images(300)):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:03d}.png")
    server.env["HVAEOOD_MODELS"] = str(folder / "own")
    clear(folder)
    for command in (SCORE, TRAIN):
        assert server(*command, cwd=folder).code == 0
    shutil.move(folder / "out", folder / "whole")
    return folder


def clear(home: Path) -> None:
    shutil.rmtree(home / "out", ignore_errors=True)
    (home / "out").mkdir()


def leftovers(home: Path) -> list[str]:
    return [path.name for path in (home / "out").rglob(".*.tmp")]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_scoring_in_order_and_it_goes_on(server: Server, home, number):
    clear(home)
    end = server.call("tests.hostile.work:end_after", int(number), APPEND, 2, *SCORE, cwd=home)
    assert end.code == 130 and "interrupted" in end.err and "Traceback" not in end.err
    assert (home / "out/s.h5.journal").exists() and not leftovers(home)
    assert server(*SCORE, cwd=home).code == 0
    assert h5(home / "out/s.h5") == h5(home / "whole/s.h5")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_training_with_a_checkpoint_and_it_goes_on(server: Server, home, number):
    clear(home)
    end = server.call("tests.hostile.work:end_after", int(number), SAVE, 2, *TRAIN, cwd=home)
    assert end.code == 130 and "goes on from the last checkpoint" in end.err
    assert list((home / "out/m/checkpoints").glob("step-*")) and not leftovers(home)
    assert server(*TRAIN, cwd=home).code == 0
    assert model(home / "out/m") == model(home / "whole/m")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_report_that_is_there(server: Server, home, number):
    clear(home)
    shutil.copy(home / "whole/s.h5", home / "out/s.h5")
    (home / "out/r.html").write_text("before")
    command = ("report", "out/s.h5", "-o", "out/r.html", "--force")
    what = "hvaeood_cli.files:sync_file"
    end = server.call("tests.hostile.work:end_after", int(number), what, 1, *command, cwd=home)
    assert end.code == 130 and (home / "out/r.html").read_text() == "before"
    assert not leftovers(home)


def test_under_nohup_a_closed_terminal_ends_nothing(server: Server, home):
    clear(home)
    arguments = (int(signal.SIGHUP), APPEND, 2, *SCORE)
    end = server.call("tests.hostile.work:end_after", *arguments, cwd=home, ignore=["SIGHUP"])
    assert end.code == 0 and h5(home / "out/s.h5") == h5(home / "whole/s.h5")


def run_alone(home: Path, *command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "hvaeood_cli", *command],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HVAEOOD_MODELS": str(home / "own")},
        check=False,
        **options,
    )


def test_a_terminal_that_is_gone_costs_no_scores(home):
    """Everything that is written to it fails; what is computed is kept."""
    clear(home)
    ours, theirs = pty.openpty()
    os.close(ours)
    done = run_alone(home, *SCORE, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert done.returncode in (0, 3) and h5(home / "out/s.h5") == h5(home / "whole/s.h5")


@pytest.mark.parametrize("size", [100, 4_000, 9_000])
def test_where_no_file_may_be_large(home, size):
    """The limit on a file's size strikes HDF5's own writes as a full disk does."""
    clear(home)
    done = run_alone(
        home,
        *SCORE,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    err = done.stderr.decode()
    assert done.returncode == 3 and "cannot write out/s.h5: File too large" in err, err
    assert "Traceback" not in err and not (home / "out/s.h5").exists() and not leftovers(home)
    assert run_alone(home, *SCORE, capture_output=True).returncode == 0
    assert h5(home / "out/s.h5") == h5(home / "whole/s.h5")


# -- two at once ----------------------------------------------------------------------------------


def test_several_on_one_output(server: Server, home):
    clear(home)
    ends = server.together([SCORE] * 4, cwd=home)
    assert {end.code for end in ends} <= {0, 3} and any(end.code == 0 for end in ends)
    for end in ends:
        assert end.code == 0 or "another process" in end.err, end.err
    assert server(*SCORE, cwd=home).code == 0
    assert h5(home / "out/s.h5") == h5(home / "whole/s.h5") and not leftovers(home)


def test_several_on_one_calibration(server: Server, home):
    clear(home)
    shutil.copy(home / "whole/s.h5", home / "out/s.h5")
    command = ("calibrate", "out/s.h5", "--model", "model", "-o", "out/c.npz", "--force")
    assert [end.code for end in server.together([command] * 4, cwd=home)] == [0] * 4
    decide = ("decide", "out/s.h5", "--calibration", "out/c.npz", "--fpr", "0.1")
    ends = server.together([decide] * 4, cwd=home)
    assert all(end.code == 0 or "decided by another" in end.err for end in ends)
    with h5py.File(home / "out/s.h5") as file:
        assert file["decision"].attrs["level"] == 0.1
    assert not leftovers(home)


def test_several_on_one_sidecar(server: Server, home):
    clear(home)
    shutil.copy(home / "whole/s.h5", home / "out/s.h5")
    parts = [("out/s.h5", 10 * i, 10 * i + 10) for i in range(4)]
    ends = server.together(parts, cwd=home, call="tests.hostile.work:judge_some")
    assert [end.code for end in ends] == [0] * 4
    assert len(judgements(home / "out/s.h5.judgements.json")) == 40 and not leftovers(home)


def test_without_locks_it_is_said(run, home, tmp_path, monkeypatch):
    """On a network file system that has none, whatever rewrites a file."""
    from hvaeood_cli.cli import decide

    shutil.copy(home / "whole/s.h5", tmp_path / "s.h5")
    shutil.copytree(home / "model", tmp_path / "m")
    assert run("calibrate", "s.h5", "--model", "m", "-o", "c.npz")[0] == 0
    monkeypatch.setattr(decide, "has_locks", lambda path: False)
    code, _, err = run("decide", "s.h5", "--calibration", "c.npz", "--fpr", "0.1")
    assert code == 0 and NO_LOCKS in " ".join(err.split())


# -- clocks, and files that change ----------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(server: Server, home):
    clear(home)
    jump = {"under": "", "at": 0, "what": 0, "jump": 1}
    for command in (SCORE, TRAIN):
        end = server(*command, cwd=home, fault=jump)
        assert end.code == 0, end.err
    assert h5(home / "out/s.h5") == h5(home / "whole/s.h5")
    assert model(home / "out/m") == model(home / "whole/m")
    assert server(*SCORE, cwd=home, fault=jump).code == 0
    assert h5(home / "out/s.h5") == h5(home / "whole/s.h5")


def shrinking(monkeypatch, path: Path) -> None:
    """Let a file lose its second half between the look at its size and the reading."""
    fstat = os.fstat

    def late(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        if os.path.samestat(status, path.stat()):
            os.truncate(path, status.st_size // 2)
        return status

    monkeypatch.setattr(os, "fstat", late)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    path.write_bytes(bytes(1000))
    shrinking(monkeypatch, path)
    with pytest.raises(OSError, match="shorter"):
        read_regular(path, 1 << 20)
    path.write_bytes(bytes(1000))
    assert len(read_file(os.fsencode(path))) == 500, "an image: decoding says what is wrong"


def test_an_array_that_shrinks_while_it_is_scored_is_bad_rows(tmp_path):
    """Mapped into memory, it would end the process by SIGBUS."""
    path = tmp_path / "x.npy"
    np.save(path, np.ones((100, 64, 64), np.uint8))
    manifest = open_sources([str(path)])
    assert manifest.read(99)[0].pixels.shape == (64, 64)
    os.truncate(path, 50 * 64 * 64)
    manifest.read(10)
    with pytest.raises(ImageError, match="shorter"):
        manifest.read(99)


def test_a_score_file_that_is_replaced_while_it_is_read_is_one_of_both(server: Server, home):
    clear(home)
    shutil.copy(home / "whole/s.h5", home / "out/s.h5")
    calibrate = ("calibrate", "out/s.h5", "--model", "model", "-o", "out/c.npz")
    assert server(*calibrate, cwd=home).code == 0
    decide = ("decide", "out/s.h5", "--calibration", "out/c.npz", "--fpr")
    reads = ("report", "out/s.h5", "--format", "json")
    ends = server.together([(*decide, "0.1"), reads, (*decide, "0.2"), reads, reads], cwd=home)
    for end in ends:
        assert end.code == 0 or "decided by another" in end.err, end.err
    for end in (ends[1], ends[3], ends[4]):
        decision = json.loads(end.out)["files"][0]["decision"]
        assert decision is None or decision["level"] in (0.1, 0.2)
