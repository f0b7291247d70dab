"""Memory and time at a million images: a folder of tar files and a folder of image files.

    python -m benchmarks.million WORK [--images 100000 1000000] [--files 200000] [--made-up]

For each number of images, in tar files of 10,000 below WORK, and for files, 1,000 a folder, by the
model that ships and S = 1, through the command line, each step a process of its own: the time to
list them; images/s from files to score file; the time to go on with a run that was killed when 999
in 1,000 images were done; to find that nothing has changed; the size of the score file; the time of
a report and of the workbench's opening; and the peak memory of each. What WORK holds is used again.
--made-up: those 999 in 1,000 are not scored, but made up, to measure what comes after.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from hvaeood_cli.model.bundle import DEFAULT_MODEL, find_bundle
from hvaeood_cli.store.columns import Sizes, row_dtype
from hvaeood_cli.store.journal import Batch, Journal, journal_path

_IN_TAR = 10_000
_IN_FOLDER = 1_000
_LIST = (
    "import sys; from hvaeood_cli.images.sources import open_sources; open_sources(sys.argv[1:])"
)


class Step(NamedTuple):
    seconds: float
    peak: float  # MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--made-up", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(exist_ok=True)
    for n in given.images:
        packed = tars(given.work / "tars", n)
        measure(f"{n:,} images in tar files", packed, n, given.work, given.made_up)
    if given.files:
        folder = files(given.work / "files", given.files)
        measure(f"{given.files:,} files", [folder], given.files, given.work, given.made_up)


def measure(what: str, sources: list[Path], n: int, work: Path, made_up: bool) -> None:
    out = work / f"{sources[0].name}-{n}.h5"
    out.unlink(missing_ok=True)
    journal_path(out).unlink(missing_ok=True)
    score = [*command("score"), *map(str, sources), "-S", "1", "-q", "--top", "1", "-o", str(out)]
    listing = step([sys.executable, "-c", _LIST, *map(str, sources)])
    say(what, "list", listing)
    n_before = int(0.999 * n)
    if made_up:
        # In a process of its own: those that follow would be said to have had its memory.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            process.submit(fill, sources, out, n_before).result()
    else:
        config = find_bundle(DEFAULT_MODEL).config
        row = row_dtype(Sizes(config.n_layers, config.n_channels)).itemsize
        killed = step(score, until=(journal_path(out), n_before * row))
        rate = n_before / (killed.seconds - listing.seconds)
        say(what, f"score 99.9 % ({rate:,.0f} images/s), then kill", killed)
    say(what, "go on to the end", step(score))
    say(what, "find that nothing has changed", step(score))
    print(f"{what}: score file {out.stat().st_size / 2**20:,.0f} MiB", flush=True)
    page = work / "page.html"
    options = ["--top", "0", "--force", "-q", "-o", str(page)]
    say(what, "report", step([*command("report"), str(out), *options]))
    print(f"{what}: page {page.stat().st_size / 1e6:.2f} MB", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.tui", "--measure", str(out)], check=True)


def fill(sources: list[Path], out: Path, n: int) -> None:
    """Leave a journal as a run leaves it that is killed after n images, of made-up rows."""
    from benchmarks.cluster import STRETCH, made_up
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.images.content import stamp_key

    detector = Detector(n_importance_samples=1)
    run = detector.run(detector.manifest(sources))
    header = run.header(run.engine.device, run.engine.runtime)
    rows = made_up(n, Calibration.load(detector.bundle.folder / "calibration.npz"))
    rows["stamp"] = [stamp_key(run.manifest.stamp(i)) for i in range(n)]
    with Journal.open(journal_path(out), header) as journal:
        for first in range(0, n, STRETCH):
            journal.append(Batch(first, rows[first : min(first + STRETCH, n)], {}))


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "hvaeood_cli", name]


def step(arguments: list[str], until: tuple[Path, int] | None = None) -> Step:
    """Run a process to its end, or until a file has a size; then it is killed."""
    began = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    if until:
        path, size = until
        while process.poll() is None and not (path.exists() and path.stat().st_size >= size):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, 1, None)
    if usage is None or (status and not until):
        raise SystemExit(f"{arguments} ended too early, with {process.returncode or status}")
    return Step(time.perf_counter() - began, usage.ru_maxrss / 1024)


def say(what: str, did: str, took: Step) -> None:
    print(f"{what}: {did}: {took.seconds:.1f} s, peak {took.peak:,.0f} MiB", flush=True)


def images(first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Small PNG files, none like another."""
    for i in range(first, last):
        coarse = np.random.default_rng(i).integers(0, 256, (7, 7), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((28, 28)).save(file, "PNG", compress_level=1)
        yield i, file.getvalue()


def tars(folder: Path, n: int) -> list[Path]:
    """Tar files of n images together. Those that are there already stay."""
    folder.mkdir(exist_ok=True)
    made = [folder / f"shard-{first // _IN_TAR:05}.tar" for first in range(0, n, _IN_TAR)]
    for path, first in zip(made, range(0, n, _IN_TAR), strict=True):
        if path.exists():
            continue
        with tarfile.open(path.with_suffix(".part"), "w") as packed:
            for i, data in images(first, first + _IN_TAR):
                info = tarfile.TarInfo(f"{i:08}.png")
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
        path.with_suffix(".part").rename(path)
    return made


def files(folder: Path, n: int) -> Path:
    """A folder of n image files."""
    for first in range(0, n, _IN_FOLDER):
        below = folder / f"{first // _IN_FOLDER:05}"
        if below.exists():
            continue
        below.mkdir(parents=True)
        for i, data in images(first, first + _IN_FOLDER):
            (below / f"{i:08}.png").write_bytes(data)
    return folder


if __name__ == "__main__":
    main()
