"""A decision: what is flagged, by which rule and p-values. `/decision/*` of a score file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = "decision"


@dataclass(frozen=True, eq=False)
class Decision:
    """What a rule decides of N rows. A row without scores has p NaN and k 0, and is not flagged."""

    combined: NDArray[np.float64]  # (N,) the combined score, nats; higher is odder
    k: NDArray[np.int8]  # (N,) whose LLR^{>k} differs most from the calibration's
    p_value: NDArray[np.float64]  # (N, L - 1), conformal, of LLR^{>k} for each k
    p_combined: NDArray[np.float64]  # (N,), conformal, of the combined score: the one to act on
    flagged: NDArray[np.bool_]  # (N,)
    rule: str  # "fpr" | "fdr" | "fdr-by"
    level: float
    threshold: float  # the largest p_combined that is flagged; 0 where an FDR flags none
    calibration_id: str
    n_calibration: int  # images that p_combined compares with; its least value is 1 / (n + 1)

    def __len__(self) -> int:
        return len(self.flagged)

    @property
    def n_flagged(self) -> int:
        return int(self.flagged.sum())

    @property
    def least_p(self) -> float:
        """The smallest p_combined that can be, 1 / (n + 1)."""
        return 1.0 / (self.n_calibration + 1.0)


ATTRIBUTES = ("rule", "level", "threshold", "calibration_id", "n_calibration")


def read_decision(found: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> Decision:
    """A decision from its columns, by name, and the attributes of its group in the file."""
    kinds = {"rule": str, "level": float, "threshold": float, "n_calibration": int}
    facts: dict[str, Any] = {key: kinds.get(key, str)(attributes[key]) for key in ATTRIBUTES}
    return Decision(**found | facts)
