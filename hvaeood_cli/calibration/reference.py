"""A reference: LLR^{>k} of usual images, to rank by where there is no calibration.

It ranks; it decides nothing. In spreads of the reference, LLR^{>k} of different k can be compared:
the oddest image lies furthest above the reference at some k, and that k differs most. Needs NumPy
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_LEAST_SPREAD = 1.0  # nats; less is noise, or a batch of copies

# The settings that a reference must share with the scores that it ranks: not the precision.
_MUST_AGREE = ("n_importance_samples", "n_importance_samples_k", "proposal")


@dataclass(frozen=True)
class Reference:
    """LLR^{>k} of n images to compare with, and its centre and spread at each k, in nats."""

    llr: Float64  # (n, L - 1)
    centre: Float64  # (L - 1,)
    spread: Float64  # (L - 1,)
    from_model: bool  # True: held out by the model's maker; False: the batch itself

    @classmethod
    def of_validation(cls, llr: NDArray[np.floating[Any]]) -> Reference:
        """From held-out in-distribution images: centre and spread are mean and deviation."""
        values = _finite(llr)
        return cls(values, values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD), True)

    @classmethod
    def of_batch(cls, llr: NDArray[np.floating[Any]]) -> Reference:
        """From the ranked batch: median and scaled MAD, which a minority of images cannot move."""
        values = _finite(llr)
        centre = np.median(values, axis=0)
        spread = 1.4826 * np.median(np.abs(values - centre), axis=0)
        return cls(values, centre, np.maximum(spread, _LEAST_SPREAD), False)

    def standardise(self, llr: NDArray[np.floating[Any]]) -> Float64:
        """How many spreads each LLR^{>k} lies above the centre: (N, L - 1) nats -> (N, L - 1)."""
        return (np.asarray(llr, np.float64) - self.centre) / self.spread

    def combine(self, llr: NDArray[np.floating[Any]], scored: NDArray[np.bool_]) -> Float64:
        """The combined score without a calibration: (N,), higher is odder.

        It is the largest number of spreads that any LLR^{>k} of the image lies above the centre.
        Rows that are not `scored`, (N,), have NaN. A scored row with a ratio that is no number has
        infinity, for such an image is not usual.
        """
        combined = np.nan_to_num(self.standardise(llr).max(axis=1), nan=np.inf)
        return np.where(scored, combined, np.nan)

    def k_differing_most(self, llr: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """The k >= 1 at which each image lies furthest above the centre, (N,); 0 without scores."""
        standard = self.standardise(llr)
        best = np.nan_to_num(standard, nan=-np.inf).argmax(axis=1) + 1
        return np.where(np.isnan(standard).any(axis=1), 0, best)


def _finite(llr: NDArray[np.floating[Any]]) -> Float64:
    """The rows whose values are all finite; a single row of zeros where there is none."""
    values = np.asarray(llr, np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    return values if len(values) else np.zeros((1, values.shape[1]))


def to_json(llr: NDArray[np.floating[Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """The content of a bundle's reference.json. llr: (n, L - 1) nats, made with `settings`."""
    kept = {key: settings[key] for key in _MUST_AGREE}
    rounded = np.asarray(llr, np.float64).round(3).tolist()
    return {"settings": kept, "n": len(rounded), "llr": rounded}


def from_json(stored: dict[str, Any], settings: dict[str, Any], n_layers: int) -> Reference | None:
    """The reference of a bundle's reference.json; None if it is unsound or of other settings."""
    made_with = stored.get("settings", {})
    if any(made_with.get(key) != settings[key] for key in _MUST_AGREE):
        return None
    try:
        llr = np.array(stored.get("llr"), np.float64)
    except (TypeError, ValueError):
        return None
    if llr.ndim != 2 or llr.shape[1] != n_layers - 1 or not len(llr):
        return None
    return Reference.of_validation(llr)
