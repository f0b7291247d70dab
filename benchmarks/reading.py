"""Reading images to train on: how fast, and in how much memory.

    python -m benchmarks.reading speed FOLDER [--preset NAME]
    python -m benchmarks.reading memory WORK [--images 100000 400000]

speed: images/s of a folder's images, in one run in turns: by one thread into memory, as before; by
a thread a core into memory; the same into files; and from the files that are there. The best of
three each.

memory: `train` on N colour images of 32x32 in an array file that is made in WORK, with the pixels
kept in files and with them in memory: the most private memory that the process had (RssAnon, what
cannot be dropped and read again), and seconds to the first step.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.model.presets import get_preset
from hvaeood_cli.training.pixel_cache import PixelCache
from hvaeood_cli.training.reading import read_pixels

_TRAIN = [
    "--preset",
    "compact-rgb",
    "--minutes",
    "0.3",
    "--validation",
    "100",
    "--calibrate",
    "0",
    "--seed",
    "0",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("place", type=Path)
    parser.add_argument("--preset", default="compact-gray")
    parser.add_argument("--images", type=int, nargs="*", default=[100_000, 400_000])
    given = parser.parse_args()
    if given.what == "speed":
        speed(given.place, given.preset)
    else:
        memory(given.place, given.images)


def speed(folder: Path, preset: str) -> None:
    config, manifest = get_preset(preset).model, open_sources([str(folder)])
    n_threads = torch.get_num_threads()

    def read(cache: PixelCache | None, threads: int) -> None:
        torch.set_num_threads(threads)
        read_pixels(manifest, config, cache)
        torch.set_num_threads(n_threads)

    best: dict[str, float] = {}
    for _ in range(3):
        with tempfile.TemporaryDirectory() as name:
            cache = PixelCache(Path(name) / "entry")
            for what, how in (
                ("one thread, into memory", lambda: read(None, 1)),
                (f"{n_threads} threads, into memory", lambda: read(None, n_threads)),
                (f"{n_threads} threads, into files", lambda: read(cache, n_threads)),
                ("from the files", lambda: read(cache, n_threads)),
            ):
                best[what] = max(best.get(what, 0.0), len(manifest) / seconds(how))
    first = next(iter(best.values()))
    for what, rate in best.items():
        print(f"{what}: {rate:,.0f} images/s, {rate / first:.2f} times")


def seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def memory(work: Path, counts: list[int]) -> None:
    work.mkdir(exist_ok=True)
    for n in counts:
        images = work / f"{n}.npy"
        if not images.exists():
            array = np.lib.format.open_memmap(images, "w+", np.uint8, (n, 32, 32, 3))
            for start in range(0, n, 10_000):
                random = np.random.default_rng(start)
                array[start : start + 10_000] = random.integers(
                    0, 256, array[start : start + 10_000].shape, np.uint8
                )
            array.flush()
        pixels = n * 3072 / 2**20
        for how in ("--no-cache", "--cache"):
            with tempfile.TemporaryDirectory(dir=work) as out:
                peak, begun = trained(images, Path(out), how)
            print(
                f"{n:,} images, {pixels:,.0f} MiB of pixels, {how}: at most {peak:,.0f} MiB of "
                f"private memory, the first step after {begun:.1f} s",
                flush=True,
            )


def trained(images: Path, out: Path, how: str) -> tuple[float, float]:
    """The most private memory of `train`, MiB, and when it had taken its first step, s."""
    command = [sys.executable, "-m", "hvaeood_cli", "train", str(images), "--out", str(out / "m")]
    started, peak, begun = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen(
        [*command, *_TRAIN, how, "--checkpoint-every", "0"], stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s*([0-9]+) kB", status)
        peak = max(peak, int(found[1]) / 1024 if found else 0.0)
        if not begun and list(out.glob("m/checkpoints/step-*")):
            begun = time.perf_counter() - started
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"train ended with {process.returncode}")
    return peak, begun


if __name__ == "__main__":
    main()
