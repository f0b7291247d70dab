"""Conformal p-values: how often would an in-distribution image score as high as this one?

If calibration images and a new image are exchangeable, P(p <= a) <= a for every a, whatever the
score and the model are (Vovk et al., 2005). Nothing is promised about images that do not belong.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Numbers = NDArray[np.floating[Any]]


def conformal_p(calibration: Numbers, scores: Numbers) -> Float64:
    """p = (1 + #{calibration scores >= s}) / (n + 1): ties count against the image.

    calibration: (n,), sorted upwards, higher is more out-of-distribution; scores: (N,).
    Returns (N,); NaN where the score is NaN.
    """
    n = len(calibration)
    at_least = n - np.searchsorted(calibration, scores, side="left")
    return np.where(np.isnan(scores), np.nan, (1.0 + at_least) / (n + 1.0))


def two_sided_p(calibration: Numbers, scores: Numbers) -> Float64:
    """Twice the smaller p-value of the two ends, at most 1: a score may be too low or too high.

    Arguments and result as in `conformal_p`.
    """
    n = len(calibration)
    at_most = np.searchsorted(calibration, scores, side="right")
    low = np.where(np.isnan(scores), np.nan, (1.0 + at_most) / (n + 1.0))
    return np.minimum(1.0, 2.0 * np.minimum(low, conformal_p(calibration, scores)))


def least_p(n: int) -> float:
    """The smallest p-value that n calibration scores can give."""
    return 1.0 / (n + 1.0)


def n_needed(level: float) -> int:
    """How many calibration scores it takes for a p-value of `level` to exist."""
    return math.ceil(round(1.0 / level - 1.0, 6))


def threshold(calibration: Numbers, level: float) -> float:
    """The score above which p <= level; infinite where no score gives such a p.

    calibration: (n,), sorted upwards.
    """
    # How many calibration scores may be as high as a score whose p is at most the level.
    allowed = math.floor(level * (len(calibration) + 1.0) + 1e-9) - 1
    if allowed < 0:
        return math.inf
    return float(calibration[-1 - allowed]) if allowed < len(calibration) else -math.inf
