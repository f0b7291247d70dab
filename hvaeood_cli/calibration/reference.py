"""What usual looks like: LLR^{>k} of held-out in-distribution images, and how far others are off.

This ranks; it does not decide. Standardised by the reference, the scores of different k can be
compared: the most suspicious image is the one that is furthest off at any k, and that k stands
out. NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_LEAST_SPREAD = 1.0  # nats; less is noise, or a batch of copies

# What must agree between a reference and the scores that it judges.
SETTINGS = ("n_importance_samples", "n_importance_samples_k", "proposal")  # not the precision


@dataclass(frozen=True)
class Reference:
    """LLR^{>k} of n held-out images, (n, L - 1) nats; centre and spread by column."""

    llr: Float
    centre: Float  # (L - 1,)
    spread: Float  # (L - 1,)
    from_model: bool  # held-out images of the model's own; else the batch itself

    @classmethod
    def of_validation(cls, llr: NDArray[np.floating[Any]]) -> Reference:
        """From validation images, which are all in-distribution: mean and standard deviation."""
        values = np.asarray(llr, np.float64)
        return cls(values, values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD), True)

    @classmethod
    def of_batch(cls, llr: NDArray[np.floating[Any]]) -> Reference:
        """From the batch that is judged: median and scaled MAD, which a minority cannot move."""
        values = np.asarray(llr, np.float64)
        values = values[np.isfinite(values).all(axis=1)]
        if not len(values):
            values = np.zeros((1, llr.shape[1]))
        centre = np.median(values, axis=0)
        spread = 1.4826 * np.median(np.abs(values - centre), axis=0)
        return cls(values, centre, np.maximum(spread, _LEAST_SPREAD), False)

    def standardise(self, llr: NDArray[np.floating[Any]]) -> Float:
        """(N, L - 1) nats -> how many spreads each is above the centre; NaN stays NaN."""
        return (np.asarray(llr, np.float64) - self.centre) / self.spread

    def suspicion(self, llr: NDArray[np.floating[Any]]) -> Float:
        """max_k of `standardise`: (N,), higher is more out-of-distribution; NaN stays NaN."""
        return np.asarray(self.standardise(llr).max(axis=1))

    def k_standing_out(self, llr: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """The k, from 1, at which each image is furthest off: (N,); 0 for rows without scores."""
        standard = self.standardise(llr)
        best = np.nan_to_num(standard, nan=-np.inf).argmax(axis=1) + 1
        return np.where(np.isnan(standard).any(axis=1), 0, best)


def describe(llr: NDArray[np.floating[Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """What a bundle keeps as reference.json."""
    kept = {key: settings[key] for key in SETTINGS}
    rounded = np.asarray(llr, np.float64).round(3).tolist()
    return {"settings": kept, "n": len(rounded), "llr": rounded}


def load_reference(
    stored: dict[str, Any], settings: dict[str, Any], n_layers: int
) -> Reference | None:
    """The model's own reference, if it has a sound one that was made with these settings."""
    made_with = stored.get("settings", {})
    if any(made_with.get(key) != settings[key] for key in SETTINGS):
        return None
    try:
        llr = np.array(stored.get("llr"), np.float64)
    except (TypeError, ValueError):
        return None
    if llr.ndim != 2 or llr.shape[1] != n_layers - 1 or not len(llr):
        return None
    return Reference.of_validation(llr)
