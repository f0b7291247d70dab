"""The order of a run's images, by the combined score of its decision or else of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.batch import BatchDensity
from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.drift import Drift, measure_drift
from hvaeood_cli.store.score_file import ScoreFile

AGAINST_BATCH = "images are ranked against this batch alone, and nothing is promised"


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of a run's images, and the drift of the whole batch."""

    by: str  # "calibration" where a decision ranks, else "batch": each image among the others
    combined: NDArray[np.floating[Any]]  # (N,) combined scores: higher is odder, NaN without scores
    k: NDArray[np.integer[Any]]  # (N,) the k that differs most, 0 for rows without scores
    usual_llr: NDArray[np.floating[Any]] | None = None  # (n, L - 1) nats, of the calibration
    drift: Drift | None = None  # of the whole batch, where there is a calibration
    calibration: Calibration | None = None  # that made the decision, if it is at hand
    within: bool = False  # whether that one compares these images with one another

    @classmethod
    def of(cls, scores: ScoreFile, calibration: Calibration | None) -> Ranking:
        """Rank by the run's decision; without one, by how odd each image is in its batch.

        calibration: the one that made the decision, if it is at hand; the drift needs it.
        """
        usual, drift = None, None
        within = calibration is not None and calibration.is_of(scores)
        if calibration and not within:  # a batch does not differ from itself
            usual = calibration.llr
            drift = measure_drift(usual, scores.llr[scores.scored])
        decision = scores.decision
        if decision:
            found = decision.combined, decision.k
            return cls("calibration", *found, usual, drift, calibration, within)
        batch = BatchDensity.of(scores)
        combined, k = batch.combine(scores), batch.k_differing_most(scores)
        return cls("batch", combined, k, usual, drift, calibration)

    def order(self) -> NDArray[np.int64]:
        """The scored rows, the oddest first; ties in manifest order."""
        scored = np.flatnonzero(~np.isnan(self.combined))
        return scored[np.argsort(-self.combined[scored], kind="stable")]
