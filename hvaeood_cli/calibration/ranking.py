"""Which images come first: by the combined score, of a decision or of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.drift import Drift, measure_drift
from hvaeood_cli.calibration.reference import Reference
from hvaeood_cli.store.score_file import ScoreFile


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of a run's images, and how far the whole batch is from what is usual."""

    by: str  # "calibration" where a decision ranks, else what the reference is of: "model", "batch"
    reference: Reference
    combined: NDArray[np.floating[Any]]  # (N,) what ranks: higher is odder, NaN without scores
    k: NDArray[np.integer[Any]]  # (N,) the k that differs most, 0 for rows without scores
    drift: Drift | None = None  # of the whole batch, where there is a calibration

    @classmethod
    def of(
        cls, scores: ScoreFile, calibration: Calibration | None, reference: Reference | None = None
    ) -> Ranking:
        """By the run's decision; without one by the model's reference, else by the batch itself.

        calibration: what the decision was made with, if it is at hand.
        """
        if calibration:
            reference = Reference.of_validation(calibration.llr)
        reference = reference or Reference.of_batch(scores.llr)
        drift = None
        if calibration:
            drift = measure_drift(calibration.llr, scores.llr[scores.scored])
        decision = scores.decision
        if decision:
            return cls("calibration", reference, decision.combined, decision.k, drift)
        combined = reference.combine(scores.llr, scores.scored)
        k = reference.k_differing_most(scores.llr)
        return cls("model" if reference.from_model else "batch", reference, combined, k, drift)

    def order(self) -> NDArray[np.int64]:
        """Scored rows, the oddest first; ties in manifest order."""
        scored = np.flatnonzero(~np.isnan(self.combined))
        return scored[np.argsort(-self.combined[scored], kind="stable")]
