"""The order of a run's images, by the combined score of its decision or else of a reference."""

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
    """The order of a run's images, and the drift of the whole batch."""

    by: str  # "calibration" where a decision ranks, else whose the reference is: "model" or "batch"
    reference: Reference
    combined: NDArray[np.floating[Any]]  # (N,) combined scores: higher is odder, NaN without scores
    k: NDArray[np.integer[Any]]  # (N,) the k that differs most, 0 for rows without scores
    drift: Drift | None = None  # of the whole batch, where there is a calibration
    calibration: Calibration | None = None  # that made the decision, if it is at hand

    @classmethod
    def of(
        cls, scores: ScoreFile, calibration: Calibration | None, reference: Reference | None = None
    ) -> Ranking:
        """Rank by the run's decision; without one by the model's reference, else by the batch.

        calibration: the one that made the decision, if it is at hand; the drift needs it.
        """
        if calibration:
            reference = Reference.of_validation(calibration.llr)
        reference = reference or Reference.of_batch(scores.llr)
        drift = None
        if calibration:
            drift = measure_drift(calibration.llr, scores.llr[scores.scored])
        decision = scores.decision
        if decision:
            of_decision = decision.combined, decision.k
            return cls("calibration", reference, *of_decision, drift, calibration)
        combined = reference.combine(scores.llr, scores.scored)
        k = reference.k_differing_most(scores.llr)
        return cls("model" if reference.from_model else "batch", reference, combined, k, drift)

    def order(self) -> NDArray[np.int64]:
        """The scored rows, the oddest first; ties in manifest order."""
        scored = np.flatnonzero(~np.isnan(self.combined))
        return scored[np.argsort(-self.combined[scored], kind="stable")]
