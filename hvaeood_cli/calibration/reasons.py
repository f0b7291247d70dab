"""Why an image is odd, in words: the statistic that is least usual, and how far off it is.

The combined score says how rare an image's statistics are together. Here each is looked at on its
own, at both ends: an image may be odd because a score is too low as well as because it is too high.
Where no statistic is rare by itself, the one is named that the others make least likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import Calibration, folds_of
from hvaeood_cli.calibration.combination import Combination, statistics
from hvaeood_cli.calibration.conformal import Float64, two_sided_p
from hvaeood_cli.store.columns import Column, Sizes, column
from hvaeood_cli.store.score_file import ScoreFile

# A statistic is named alone if it is rare by its two-sided p, corrected for their number, or by how
# far off it is: a few usual images cannot give a small p.
_RARE, _FAR = 0.05, 4.0  # p; spreads


class Reason(NamedTuple):
    """The statistic of an image that is least usual."""

    title: str  # of the statistic, such as LLR>2
    spreads: float  # standard deviations of usual images above their mean; negative: below
    p: float  # two-sided, of this statistic alone
    sentence: str
    brief: str  # the same in half the words, for a line of a terminal

    def __str__(self) -> str:
        return self.sentence


class _Statistic(NamedTuple):
    """One number of the density's statistics."""

    column: Column
    place: int  # among the column's values

    def title(self, sizes: Sizes) -> str:
        return self.column.titles(sizes)[self.place]

    def phrase(self, above: bool, sizes: Sizes) -> str:
        words = self.column.above if above else self.column.below
        return words.format(*self.column.words(sizes)[self.place : self.place + 1] or [""])


def reasons(
    calibration: Calibration, scores: ScoreFile, rows: Sequence[int] | NDArray[np.int64]
) -> list[Reason | None]:
    """Why each of these rows is odd; None for a row without scores, or with one that is no number.

    calibration: the one that decided the scores, or any other of the same model and settings.
    """
    chosen = np.asarray(rows, np.int64)
    columns = {name: scores.columns[name][chosen] for name in calibration.statistics}
    folds = folds_of(scores.columns, len(scores))[chosen]
    values = statistics(columns, calibration.statistics)  # (n, D)
    usual = calibration.usual_statistics  # (m, D), each column sorted upwards
    p = np.stack(
        [two_sided_p(known, here) for known, here in zip(usual.T, values.T, strict=True)], axis=1
    )
    spreads = (values - usual.mean(0)) / np.maximum(usual.std(0), 1e-6)
    named = _statistics(calibration)
    found: list[Reason | None] = []
    for i, row in enumerate(chosen):
        if not scores.scored[row] or not np.isfinite(values[i]).all():
            found.append(None)
        else:
            alone = _alone(calibration, named, p[i], spreads[i])
            combination = calibration.combinations[min(folds[i], len(calibration.combinations) - 1)]
            found.append(alone or _together(calibration, combination, named, values[i]))
    return found


def _alone(
    calibration: Calibration, named: list[_Statistic], p: Float64, spreads: Float64
) -> Reason | None:
    """The rarest statistic, if it is rare by itself; of equally rare ones, that furthest off.

    Where there is one statistic, it is that one.
    """
    j = int(np.lexsort([-np.abs(spreads), p])[0])
    if len(p) > 1 and p[j] * len(p) > _RARE:
        j = int(np.abs(spreads).argmax())
        if abs(spreads[j]) < _FAR:
            return None
    n, sizes, above = len(calibration), calibration.sizes, bool(spreads[j] > 0)
    title, phrase = named[j].title(sizes), named[j].phrase(above, sizes)
    beyond = round((1.0 - p[j] / 2.0) * (n + 1))  # usual images on its one side, at most n
    most = (
        f"any of {n:,} usual images" if beyond >= n else f"{100 * beyond / n:.4g} % of usual images"
    )
    side = "high" if above else "low"
    how_far = f"{title} is {abs(spreads[j]):.1f} spreads {side}"
    brief = f"{phrase.removesuffix(',')}: {how_far}"
    sentence = f"{phrase} than {most}: {how_far}"
    return Reason(title, float(spreads[j]), float(p[j]), sentence, brief)


def _together(
    calibration: Calibration, combination: Combination, named: list[_Statistic], values: Float64
) -> Reason:
    """The statistic that the other ones of the image's rarest aspect make least likely."""
    rarest = int(np.argmax([rarity[0] for rarity in combination.rarities(values[None])]))
    places, density = combination.places[rarest], combination.densities[rarest]
    off = density.given_others(values[places])
    j = int(np.abs(off).argmax())
    title = named[places[j]].title(calibration.sizes)
    side = "higher" if off[j] > 0 else "lower"
    brief = f"an unusual combination: {title} is {abs(off[j]):.1f} spreads {side} than expected"
    sentence = f"{brief.removesuffix('expected')}the other scores let expect"
    return Reason(title, float(off[j]), 1.0, sentence, brief)


def _statistics(calibration: Calibration) -> list[_Statistic]:
    """What each number of the density's statistics is, in their order."""
    found = []
    for name in calibration.statistics:
        one = column(name)
        n = len(one.titles(calibration.sizes))
        found += [_Statistic(one, place) for place in range(n)[one.density or slice(None)]]
    return found
