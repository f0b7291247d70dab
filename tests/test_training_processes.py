"""Training through the entry point, in processes: several at once, and killed at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import make_images

COMMAND = [sys.executable, "-m", "hvaeood_cli", "train", "images.npy"]
COMMAND += ["--validation", "16", "--batch-size", "16", "--quiet", "--set", "free_nats=[]"]


@pytest.fixture
def images(tmp_path) -> Path:
    np.save(tmp_path / "images.npy", make_images(80, size=28)[:, 0])
    return tmp_path


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, check=False, timeout=300
    )


def test_two_processes_train_as_one(images):
    """The same global batches give the same curve, but for rounding.

    The last batch has 15 images: eight parts for one process, and seven for the other.
    """
    curves = []
    two = ["--devices", "2", "--strategy", "ddp", "--set", "accumulate=8"]
    for out, more in (("one", []), ("two", two)):
        done = train(images, "--out", out, "--epochs", "3", "--validation", "17", *more)
        assert done.returncode == 0, done.stderr.decode()
        training = json.loads((images / out / "training.json").read_text())
        curves.append([epoch["validation_lower_bound"] for epoch in training["curve"]])
    assert training["n_processes"] == 2
    np.testing.assert_allclose(*curves, rtol=2e-3)
    one, two = (load_file(images / out / "model.safetensors") for out in ("one", "two"))
    for name, value in one.items():
        # Adam's steps are of one size even where a gradient is rounding alone: a few may differ
        differs = np.abs(value - two[name]) > 2e-3
        assert differs.mean() < 0.005, name


def test_what_several_processes_cannot_do(images):
    command = [*COMMAND[:-2], "-", "--out", "m", "--devices", "2"]
    done = subprocess.run(command, cwd=images, capture_output=True, check=False, input=b"")
    assert done.returncode == 2 and b"standard input" in done.stderr
    done = train(images, "--out", "m", "--strategy", "telepathy", "--devices", "2")
    assert done.returncode == 2 and b"telepathy" in done.stderr and b"hint:" in done.stderr


def test_one_device_may_have_a_strategy(images):
    done = train(images, "--out", "m", "--strategy", "ddp", "--epochs", "1")
    assert done.returncode == 0, done.stderr.decode()


def two_machines(folders: list[Path], *arguments: str) -> list[tuple[int, str]]:
    """What srun does on two machines, as far as one can stand for them: exit codes and errors.

    Each has a folder of its own to start in, and a cache of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_NNODES": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    job |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for i, folder in enumerate(folders):
        mine = {"SLURM_PROCID": str(i), "SLURM_NODEID": str(i)}
        mine["XDG_CACHE_HOME"] = str(folder / f"cache-{i}")
        processes.append(
            subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=folder,
                env=os.environ | job | mine,
                stderr=subprocess.PIPE,
            )
        )
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    return [(process.returncode, err) for process, err in zip(processes, errors, strict=True)]


def test_torchrun_and_srun_start_the_same_training(images):
    arguments = ["--epochs", "1", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, *COMMAND[1:], *arguments, "torchrun"],
        cwd=images, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    ends = two_machines([images, images], *arguments, "srun")
    assert [code for code, _ in ends] == [0, 0], ends
    for out in ("torchrun", "srun"):
        assert json.loads((images / out / "training.json").read_text())["n_processes"] == 2
    one, two = (load_file(images / out / "model.safetensors") for out in ("torchrun", "srun"))
    assert all(np.array_equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("differs", ["images", "folder"])
def test_machines_that_do_not_see_the_same_end_together(images, tmp_path, differs):
    """Rather than train on two sets of images, or wait for one another forever."""
    other = tmp_path / "other"
    other.mkdir()
    pixels = np.load(images / "images.npy")
    pixels[3, 5, 5] ^= differs == "images"
    np.save(other / "images.npy", pixels)
    ends = two_machines([images, other], "--out", "m")
    assert [code for code, _ in ends] == [3, 3]
    said = "has read other images than" if differs == "images" else "does not see what process 0"
    assert said in ends[0][1] and "hint:" in ends[0][1] and not ends[1][1]
    assert not list((images / "m").iterdir())


@pytest.mark.slow
def test_killed_at_twenty_random_moments(images):
    """kill -9 whenever it strikes; the same command ends with the same weights."""
    arguments = ["--epochs", "250", "--checkpoint-every", "0", "--set", "ema=0.9"]
    started = time.monotonic()
    train(images, "--out", "brief", "--epochs", "1")
    start_up = time.monotonic() - started
    whole = train(images, "--out", "whole", *arguments)
    assert whole.returncode == 0, whole.stderr.decode()
    training_takes = json.loads((images / "whole" / "training.json").read_text())["minutes"] * 60
    moments = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen([*COMMAND, "--out", "cut", *arguments], cwd=images)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(start_up * 0.8 + moments.uniform(0.0, training_takes / 20))
        assert process.poll() is None, "it is still under way"
        process.kill()
        process.wait()
    steps = sorted((images / "cut" / "checkpoints").glob("step-*"))
    assert steps, "it got somewhere between the kills"
    last = train(images, "--out", "cut", *arguments)
    assert last.returncode == 0, last.stderr.decode()
    one, two = (load_file(images / out / "model.safetensors") for out in ("whole", "cut"))
    for name, value in one.items():
        assert np.array_equal(value, two[name]), name
    assert not (images / "cut" / "checkpoints").exists()
