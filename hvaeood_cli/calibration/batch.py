"""How odd each image is among the others of its batch: what ranks where no calibration decides.

It ranks and promises nothing: every batch has an oddest image, and that may well belong. What most
of the batch is like is found in spite of a minority that is not (`Density.fit_trimmed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.combination import (
    Combination,
    aspects,
    statistics,
    statistics_of,
    widths_of,
)
from hvaeood_cli.calibration.density import Float64, middle
from hvaeood_cli.calibration.slices import in_slices, slices
from hvaeood_cli.store.score_file import ScoreFile

_MOST_FITTED = 20_000  # images: more change nothing, and take memory
_LEAST_LLR_SPREAD = 1.0  # nats; less is noise


@dataclass(frozen=True, eq=False)
class BatchDensity:
    """What most images of a run of a model of L layers are like."""

    statistics: tuple[str, ...]  # the names of the columns that it takes
    combination: Combination
    llr_centre: Float64  # (L - 1,) nats
    llr_spread: Float64  # (L - 1,) nats

    @classmethod
    def of(cls, scores: ScoreFile) -> Self:
        """Fit to the scored rows of a run, however few."""
        rows = _fitted_rows(scores)
        judged = aspects(scores.header.fit == "tile", scores.columns)
        names = statistics_of(judged)
        columns = {name: scores.room.take(scores[name], rows) for name in names}
        values, widths = _finite(statistics(columns, names)), widths_of(columns, names)
        llr_centre, llr_spread = middle(_finite(scores.room.take(scores.llr, rows)))
        combination = Combination.fit(judged, widths, values, trimmed=True)
        return cls(names, combination, llr_centre, np.maximum(llr_spread, _LEAST_LLR_SPREAD))

    def combine(self, scores: ScoreFile) -> Float64:
        """The combined score of every row, (N,) nats, higher is odder; NaN without scores."""

        def of(part: slice) -> Float64:
            columns = {name: scores[name][part] for name in self.statistics}
            values = statistics(columns, self.statistics)
            scores.room.let_go()
            return self.combination.combined(values)

        combined = in_slices(len(scores), of)
        combined[~scores.scored] = np.nan
        return combined

    def k_differing_most(self, scores: ScoreFile) -> NDArray[np.int8]:
        """The k whose LLR^{>k} lies furthest from the median, either way, (N,); 0 without scores.

        The measure is spreads of the batch.
        """
        k = np.zeros(len(scores), np.int8)
        for part in slices(len(scores)):
            off = np.abs(scores.llr[part] - self.llr_centre) / self.llr_spread
            k[part] = np.nan_to_num(off, nan=-1.0).argmax(axis=1) + 1
            scores.room.let_go()
        k[~scores.scored] = 0
        return k


def _fitted_rows(scores: ScoreFile) -> NDArray[np.int64]:
    """The rows to fit to, which do not depend on the order of the images.

    They are the scored rows with the least content keys. Those are hashes, so it is a fair draw.
    Of copies of an image one is taken: many copies of an odd image do not make it usual.
    """
    scored = np.flatnonzero(scores.scored)
    least = scores.content[scored]
    if len(scored) > 2 * _MOST_FITTED:  # look at some of a million, unless most are copies
        among = np.flatnonzero(least <= np.partition(least, 2 * _MOST_FITTED)[2 * _MOST_FITTED])
        if len(np.unique(least[among])) >= _MOST_FITTED:
            scored, least = scored[among], least[among]
    _, first = np.unique(least, return_index=True)
    return scored[first[:_MOST_FITTED]]


def _finite(values: NDArray[np.floating[Any]]) -> Float64:
    """The rows whose values are all finite; a single row of zeros where there is none."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found).all(axis=1)]
    return found if len(found) else np.zeros((1, values.shape[1]))
