"""The share of the process that writes: what a run costs where the scoring costs nothing.

    python -m benchmarks.cluster [N] [FOLDER]

N images are scored by an engine that gives made-up rows at once, through the same run: manifest,
order of stretches, journal, calibration, one score file. What it takes for each image bounds how
many workers one such process can keep busy. Ray's own transfer of the rows is not in it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.detector import Detector
from hvaeood_cli.images.content import stamp_key
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.scoring.engines.stretches import Answer, in_order
from hvaeood_cli.store.columns import Rows, blank_rows, columns
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.journal import Batch

STRETCH = 1024  # images that a worker is given at once


def made_up(n: int, usual: Calibration) -> Rows:
    """Rows as scoring makes them: those of the calibration, over and over."""
    rows = blank_rows(n, usual.sizes)
    for column in columns("scores"):
        if column.name in usual.columns:
            rows[column.name] = usual[column.name][np.arange(n) % len(usual)]
    rows["sha256"] = np.random.default_rng(0).integers(0, 256, (n, 32))
    rows["content"] = np.arange(1, n + 1)
    rows["n_tiles"] = 1
    return rows


@dataclass
class Instant:
    """An engine, and its pool of workers, that knows all rows already."""

    rows: Rows
    device: str = "cpu"
    runtime: str = "torch"
    note: str = ""
    n_workers: int = 200
    answers: deque[Answer] = field(default_factory=deque)

    def score(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        self.rows["stamp"] = stamp_key(manifest.stamp(0))  # all are of one file
        stretches = [
            range(i, min(i + STRETCH, len(manifest))) for i in range(start, len(manifest), STRETCH)
        ]
        for worker in range(self.n_workers):
            self.begin(worker)
        yield from in_order(stretches, self)

    def begin(self, worker: int) -> None:
        self.answers.append(Answer(worker))

    def give(self, worker: int, number: int, stretch: range) -> None:
        rows = self.rows[stretch.start : stretch.stop]
        self.answers.append(Answer(worker, number, [Batch(stretch.start, rows, {})]))

    def wait(self) -> Answer:
        return self.answers.popleft()


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    place = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        np.save(folder / "many.npy", np.zeros((n, 28, 28), np.uint8))
        detector = Detector()
        usual = Calibration.load(detector.bundle.folder / "calibration.npz")
        engine = Instant(made_up(n, usual))
        out = folder / "s.h5"
        began = time.perf_counter()
        run = detector.run(detector.manifest(str(folder / "many.npy")))
        run = replace(run, make_engine=lambda runtime: engine)
        times = {}

        def progress(done: int, total: int) -> None:
            times[done == total] = time.perf_counter()

        run.to_file(out, lambda scores: decide(usual, scores, Rule()), progress=progress)
        ended = time.perf_counter()
    each = {
        "rows in order and kept in the journal": times[True] - began,
        "merged, decided and written at the end": ended - times[True],
    }
    for what, seconds in each.items():
        print(f"{what}: {1e6 * seconds / n:.1f} µs an image ({seconds:.1f} s of {n:,})")
    print(f"one process keeps up with {n / (times[True] - began):,.0f} images/s of its workers")


if __name__ == "__main__":
    main()
