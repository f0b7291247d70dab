"""Score files in memory for the workbench's tests: L = 3, made of random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.store.score_file import Errors, ScoreFile
from hvaeood_cli.tui.run import Run
from tests.score_files import make_header

MODEL = "a" * 64


def make_scores(
    n: int = 300,
    n_odd: int = 0,
    seed: int = 0,
    path: Path = Path("a.h5"),
    bad: tuple[int, ...] = (),
    model: str = MODEL,
) -> ScoreFile:
    """n rows; the first n_odd are odd, those in `bad` could not be read."""
    random = np.random.default_rng(seed)
    llr = random.gamma(2.0, 5.0, (n, 2)).astype(np.float32)
    llr[:n_odd] += 60
    bound = random.normal(-200.0, 10.0, n).astype(np.float32)
    columns = {
        "lower_bound": np.stack([bound, bound - llr[:, 0], bound - llr[:, 1]], axis=1),
        "llr": llr,
        "kl": random.normal(20.0, 2.0, (n, 3)).astype(np.float32),
        "log_px": random.normal(-180.0, 9.0, (n, 3)).astype(np.float32),
        "llr_share": llr / -bound[:, None],
        "bits_per_dim": -bound / np.float32(784 * np.log(2)),
    }
    peaks = np.random.default_rng(seed + 1000)
    columns["peak"] = peaks.gamma(9.0, 0.5, (n, 3)).astype(np.float32)
    columns["residual"] = peaks.normal(0.0, 0.1, (n, 4)).astype(np.float32)
    columns["spot_cost"] = peaks.gamma(9.0, 0.5, (n, 2)).astype(np.float32)
    columns["kl_channel"] = peaks.normal(0.0, 0.3, (n, 2)).astype(np.float32)
    status = np.zeros(n, np.int8)
    status[list(bad)] = 2
    for values in columns.values():
        values[list(bad)] = np.nan
    sha256 = random.integers(1, 256, (n, 32)).astype(np.uint8)
    content = random.integers(1, 1 << 63, n).astype(np.uint64)
    content[list(bad)] = 0
    columns |= {"status": status, "conversions": np.zeros(n, np.uint16)}
    columns |= {"sha256": sha256, "content": content}
    return ScoreFile(
        path=path,
        header=make_header(n, model_name="tiny", model_sha256=model, image_size=28, n_dims=784),
        names=np.array([b"photos/%05d.png" % i for i in range(n)]),
        errors=Errors(n, dict.fromkeys(bad, "the file is cut off")),
        columns=columns,
        status_codes={"scored": 0, "damaged": 2},
        conversion_codes={},
    )


def make_calibration(n: int = 2000) -> Calibration:
    return Calibration.of(make_scores(n, seed=99))


def make_run(calibration: Calibration | None, **options: object) -> Run:
    return Run.of(make_scores(**options), calibration)  # type: ignore[arg-type]
