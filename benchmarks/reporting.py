"""A report of 100,000 rows: seconds, peak memory, size of the page.

    python -m benchmarks.reporting [N]

The scores are made up, half of them shifted and labelled so, calibrated and decided.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.writer import write_decision
from tests.score_files import make_scores


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration = Calibration.of(make_scores(folder / "held-out.h5", 5000, seed=1))
        calibration.save(folder / "calibration.npz")
        for file, shift in (("usual.h5", 0.0), ("odd.h5", 8.0)):
            scores = make_scores(folder / file, n // 2, seed=int(shift), shift=shift)
            write_decision(scores, decide(calibration, scores, Rule()))
        for format_ in ("html", "csv", "json", "md"):
            command = [sys.executable, "-m", "hvaeood_cli", "report", "usual.h5", "odd.h5"]
            command += ["--calibration", "calibration.npz", "--format", format_]
            started = time.perf_counter()
            subprocess.run([*command, "-o", f"report.{format_}"], cwd=folder, check=True)
            seconds = time.perf_counter() - started
            size = (folder / f"report.{format_}").stat().st_size / 1e6
            print(f"{n:,} rows as {format_}: {seconds:.1f} s, {size:.2f} MB")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of them all: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
