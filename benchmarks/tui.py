"""How the workbench copes with many images, without a terminal at 120 by 36.

    python -m benchmarks.tui [--rows 1000000] [--folder /tmp]

Makes score files of the shipped model, from its own calibration with a twentieth made odd, and
prints how long it takes until the first table stands, until another column is sorted, until a
threshold has moved everywhere on the screen, and until a page is scrolled; and the peak memory.
Python's imports are not counted. Each measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.model.bundle import DEFAULT_MODEL, find_bundle
from hvaeood_cli.store.columns import blank_rows
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.judgements import read_judgements
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.status import STATUS_CODES
from hvaeood_cli.store.writer import write_scores
from hvaeood_cli.tui.app import Opened, Workbench
from hvaeood_cli.tui.run import Run
from hvaeood_cli.tui.widgets.virtual_table import VirtualTable

_PRESSES = 20


def make(path: Path, n: int) -> None:
    """A score file of n rows; one in a thousand could not be read."""
    bundle, usual = find_bundle(DEFAULT_MODEL), shipped_calibration()
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(usual), n)
    odd = 1.0 + 2.0 * (random.random(n) < 0.05)[:, None]
    rows = blank_rows(n, usual.sizes)
    for name in ("lower_bound", "llr", "llr_share", "kl", "log_px"):
        values = usual[name][drawn]
        rows[name] = values * odd + random.normal(0.0, 0.1, values.shape)
    rows["bits_per_dim"] = -rows["lower_bound"][:, 0] / (784 * np.log(2))
    rows["content"] = random.integers(1, 1 << 63, n)
    rows["sha256"] = random.integers(0, 256, (n, 32))
    bad = range(0, n, 1000)
    rows[bad] = blank_rows(len(bad), usual.sizes)
    rows["status"][bad] = STATUS_CODES["empty"]
    config = bundle.config
    header = RunHeader(
        created="2026-01-01T00:00:00+00:00",
        tool_version="0",
        torch_version="0",
        numpy_version="0",
        pillow_version="0",
        device="cpu",
        model_name=bundle.name,
        model_path=str(bundle.folder),
        n_layers=usual.n_layers,
        image_size=config.image_size,
        image_channels=config.image_channels,
        n_dims=config.n_dims,
        seed=0,
        n_images=n,
        listing_sha256="0" * 64,
        **usual.settings,
    )
    names = [b"photos/%04d/image_%07d.png" % (i // 1000, i) for i in range(n)]
    batch = Batch(0, rows, dict.fromkeys(bad, "the file is damaged"))
    write_scores(
        path, ScoreFile.of_batches(path, header, np.array(names, dtype=bytes), [batch], {})
    )


def shipped_calibration() -> Calibration:
    """Of the model that ships."""
    return Calibration.load(find_bundle(DEFAULT_MODEL).folder / "calibration.npz")


async def measure(path: Path) -> None:
    calibration = shipped_calibration()
    began = time.perf_counter()
    scores = read_scores(path)
    run = Run.of(scores, calibration)
    image = np.zeros((28, 28), np.uint8)
    opened = Opened(run, read_judgements(path), lambda row: image, lambda row: None)  # type: ignore[arg-type, return-value]
    app = Workbench([opened])
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        print(f"open: {time.perf_counter() - began:.2f} s for {len(scores):,} images")
        for column in ("LLR>1", "LLR>2", "k", "bits/dim", "mark", "image"):
            print(f"  sort by {column}: {await _time(app, 's'):.2f} s")
        moves = [await _time(app, "right") for _ in range(_PRESSES)]
        print(f"  move the threshold: {_spread(moves)}")
        await pilot.press("f")
        moves = [await _time(app, "left") for _ in range(_PRESSES)]
        print(f"  move the threshold, listing the flagged: {_spread(moves)}")
        await pilot.press("f", "r")
        moves = [await _time(app, "right") for _ in range(_PRESSES)]
        print(f"  move the threshold of an FDR: {_spread(moves)}")
        pages = [await _time(app, "pagedown") for _ in range(_PRESSES)]
        print(f"  scroll a page: {_spread(pages)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory: {peak:.0f} MiB")


async def _time(app: Workbench, key: str) -> float:
    """Seconds from a key until what it changes is drawn."""
    table, drawn = app.screen.query_one(VirtualTable), asyncio.Event()
    before, cursor = app.snapshot, table.cursor
    began = time.perf_counter()
    app.simulate_key(key)
    while app.snapshot is before and table.cursor == cursor:
        await asyncio.sleep(0)
    app.screen.call_after_refresh(drawn.set)
    await drawn.wait()
    return time.perf_counter() - began


def _spread(seconds: list[float]) -> str:
    return f"{1000 * np.median(seconds):.0f} ms, at most {1000 * max(seconds):.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        asyncio.run(measure(options.measure))
        return
    for n in (100_000, options.rows):
        path = options.folder / f"rows-{n}.h5"
        if not path.exists():
            make(path, n)
        command = [sys.executable, "-m", "benchmarks.tui", "--measure", str(path)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
