"""What to rank by without a calibration: LLR^{>k} of held-out in-distribution images.

This ranks; it does not decide. In spreads of the reference, the ratios of different k can be
compared: the oddest image is the one that is furthest above it at any k, and that k differs most.
NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_LEAST_SPREAD = 1.0  # nats; less is noise, or a batch of copies

# What must agree between a reference and the scores that it ranks: not the precision.
_MUST_AGREE = ("n_importance_samples", "n_importance_samples_k", "proposal")


@dataclass(frozen=True)
class Reference:
    """LLR^{>k} of n held-out images, (n, L - 1) nats; centre and spread by column."""

    llr: Float64
    centre: Float64  # (L - 1,)
    spread: Float64  # (L - 1,)
    from_model: bool  # held-out images of the model's own; else the batch itself

    @classmethod
    def of_validation(cls, llr: NDArray[np.floating[Any]]) -> Reference:
        """From held-out images, which are all in-distribution: mean and standard deviation."""
        values = _finite(llr)
        return cls(values, values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD), True)

    @classmethod
    def of_batch(cls, llr: NDArray[np.floating[Any]]) -> Reference:
        """From the batch that is ranked: median and scaled MAD, which a minority cannot move."""
        values = _finite(llr)
        centre = np.median(values, axis=0)
        spread = 1.4826 * np.median(np.abs(values - centre), axis=0)
        return cls(values, centre, np.maximum(spread, _LEAST_SPREAD), False)

    def standardise(self, llr: NDArray[np.floating[Any]]) -> Float64:
        """(N, L - 1) nats -> how many spreads each is above the centre; NaN stays NaN."""
        return (np.asarray(llr, np.float64) - self.centre) / self.spread

    def combine(self, llr: NDArray[np.floating[Any]], scored: NDArray[np.bool_]) -> Float64:
        """The combined score without a calibration, max_k of `standardise`: (N,) spreads, higher
        is odder.

        scored: (N,). NaN for rows without scores; infinite for those with a ratio that could not
        be computed, which is not usual.
        """
        combined = np.nan_to_num(self.standardise(llr).max(axis=1), nan=np.inf)
        return np.where(scored, combined, np.nan)

    def k_differing_most(self, llr: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """The k, from 1, at which each image is furthest off: (N,); 0 for rows without scores."""
        standard = self.standardise(llr)
        best = np.nan_to_num(standard, nan=-np.inf).argmax(axis=1) + 1
        return np.where(np.isnan(standard).any(axis=1), 0, best)


def _finite(llr: NDArray[np.floating[Any]]) -> Float64:
    """The rows that have every ratio; one of zeros where there is none."""
    values = np.asarray(llr, np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    return values if len(values) else np.zeros((1, values.shape[1]))


def to_json(llr: NDArray[np.floating[Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """What a bundle keeps as reference.json."""
    kept = {key: settings[key] for key in _MUST_AGREE}
    rounded = np.asarray(llr, np.float64).round(3).tolist()
    return {"settings": kept, "n": len(rounded), "llr": rounded}


def from_json(stored: dict[str, Any], settings: dict[str, Any], n_layers: int) -> Reference | None:
    """The model's own reference, if it has a sound one that was made with these settings."""
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
