"""Drift: does a batch as a whole differ from the calibration images?

The test is Kolmogorov-Smirnov's for each k, with Holm's correction. Its p-value says whether there
is a difference, and among many images there nearly always is; the effect says whether it matters.
Neither says which images differ: the flags do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import kolmogorov

from hvaeood_cli.calibration.conformal import Float64

LEVEL = 0.05  # of the whole test, over all k


class Shift(NamedTuple):
    """How LLR^{>k} of a batch differs from that of the calibration, for one k."""

    k: int
    distance: float  # Kolmogorov-Smirnov: the largest gap between the distribution functions
    p: float  # corrected over k (Holm, 1979)
    higher: float  # P(batch > calibration) + P(equal) / 2: 0.5 where neither tends to be higher

    @property
    def effect(self) -> str:
        """The shift's size in words: Cliff's delta by the usual bounds (Romano et al., 2006)."""
        delta = abs(2.0 * self.higher - 1.0)
        words = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))
        return next((word for bound, word in words if delta < bound), "large")


class Drift(NamedTuple):
    """The drift test of a batch: one shift for each k."""

    shifts: tuple[Shift, ...]
    n: int  # images of the batch whose LLR^{>k} are all finite
    n_calibration: int

    @property
    def drifted(self) -> bool:
        """Whether LLR^{>k} differs at any k; `LEVEL` is the error rate over all of them."""
        return min(shift.p for shift in self.shifts) <= LEVEL

    @property
    def largest(self) -> Shift:
        """The shift with the least p; of equal ones, that with the largest distance."""
        return min(self.shifts, key=lambda shift: (shift.p, -shift.distance))

    def __str__(self) -> str:
        shift = self.largest
        n = f"n = {self.n:,}"
        if not self.drifted:
            return f"no drift from the calibration (p = {shift.p:.2g}, {n})"
        return (
            f"LLR>{shift.k} differs from the calibration (p {format_p(shift.p)}, {n}); "
            f"the effect is {shift.effect}: higher in {100 * shift.higher:.0f} % of pairs"
        )


def measure_drift(
    calibration_llr: NDArray[np.floating[Any]], llr: NDArray[np.floating[Any]]
) -> Drift | None:
    """Test whether a batch has drifted from the calibration.

    calibration_llr: (n, L - 1) nats. llr: (N, L - 1) nats, of the batch. Rows with an LLR^{>k}
    that is not finite have no rank and are left out. Returns None if either side has no row left.
    """
    usual, here = (values[np.isfinite(values).all(axis=1)] for values in (calibration_llr, llr))
    if not len(usual) or not len(here):
        return None
    pairs = [(np.sort(known), np.sort(new)) for known, new in zip(usual.T, here.T, strict=True)]
    distances = np.array([_distance(*pair) for pair in pairs])
    corrected = _holm(_p_of(distances, len(usual), len(here)))
    shifts = tuple(
        Shift(k, float(distance), float(p), _tendency(*pair))
        for k, (distance, p, pair) in enumerate(zip(distances, corrected, pairs, strict=True), 1)
    )
    return Drift(shifts, len(here), len(usual))


def format_p(p: float) -> str:
    """A p-value with its sign: '= 0.013', or '< 1e-12' where its digits mean nothing."""
    return f"= {p:.2g}" if p >= 1e-12 else "< 1e-12"


def _distance(usual: NDArray[np.floating[Any]], here: NDArray[np.floating[Any]]) -> float:
    """The largest gap between the distribution functions of two sorted samples."""
    values = np.concatenate([usual, here])
    shares = [np.searchsorted(known, values, side="right") / len(known) for known in (usual, here)]
    return float(np.abs(shares[0] - shares[1]).max())


def _p_of(distances: Float64, n: int, m: int) -> Float64:
    """The p-values of Kolmogorov-Smirnov's test of n and m values (Stephens, 1970).

    (As SciPy's ks_2samp, but for digits that do not matter; it takes as long to load as a folder to
    score.)
    """
    root = np.sqrt(n * m / (n + m))
    found: Float64 = kolmogorov((root + 0.12 + 0.11 / root) * distances)
    return found


def _holm(p: Float64) -> Float64:
    """Holm's step-down correction."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def _tendency(usual: NDArray[np.floating[Any]], here: NDArray[np.floating[Any]]) -> float:
    """P(here > usual) + P(here = usual) / 2 over all pairs. usual: sorted upwards."""
    below = np.searchsorted(usual, here, side="left")
    up_to = np.searchsorted(usual, here, side="right")
    return float((below + up_to).mean() / (2 * len(usual)))
