"""The combined score: how rare an image is among usual images, aspect by aspect.

An *aspect* is a group of statistics that are judged together, by a density of their own
(`density.py`): a small group sees what drowns among many. An image is odd if it is rare in any
aspect, and odder if it is in several. With p_a the share of usual images as odd in aspect a, the
combined score is log sum_a w_a / p_a, so the rarest counts most. (But for a constant it is minus
the log of the weighted harmonic mean of the p_a; Wilson, 2019, combines p-values so. Here a
conformal p-value is made of it, which holds whatever the score is.) docs/scores.md says how the
aspects and their weights w_a were chosen.

Of images that are scored by tiles there is one aspect of one statistic, their peak
(docs/photographs.md): only a high one is odd.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from hvaeood_cli.calibration.density import Density, Float64
from hvaeood_cli.store.columns import ASKED, column, columns

_OWN: dict[str, tuple[str, ...]] = {
    "residuals": ("residual",),
    "spots": ("spot_cost",),
    "channels": ("kl_channel",),
}
HANDICAPS = {"spots": 1.0}  # -log w_a, nats: of the others it is 0
_APART = ("spot_cost", "kl_channel", "peak")  # all other statistics are judged together as well
_OF_TILES = {"peak": ("peak",)}
_L = "lower_bound"


def aspects(tiled: bool, there: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The columns of every aspect, by its name.

    tiled: whether the images were scored by tiles. there: the columns that the scores have; older
    files lack some.
    """
    together = (c.name for c in columns("scores", asked=()) if c.density is not None)
    bounds = tuple(name for name in together if name not in _APART)
    others = {
        asked: tuple(c.name for c in columns("scores", asked=[asked]) if c.asked) for asked in ASKED
    }
    named = _OF_TILES if tiled else {"bounds": bounds} | _OWN | others
    found = {
        aspect: tuple(name for name in names if name in there) for aspect, names in named.items()
    }
    return {aspect: names for aspect, names in found.items() if names}


def lacking(tiled: bool, there: Collection[str]) -> list[str]:
    """The statistics that scores do not have: those of an older file."""
    wanted = statistics_of(aspects(tiled, [column.name for column in columns("scores", asked=())]))
    return [name for name in wanted if name not in there]


def statistics_of(aspects: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The columns of all aspects, each once."""
    return tuple(dict.fromkeys(name for names in aspects.values() for name in names))


def statistics(scores: Mapping[str, NDArray[Any]], names: Sequence[str]) -> Float64:
    """The statistics of every row, (N, D): the columns of these names, side by side.

    scores: columns by name, (N,) or (N, n). `Column.density` says which part of each is taken.
    """
    parts = []
    for name in names:
        values = scores[name]
        whole = values[:, None] if values.ndim == 1 else values
        parts.append(whole[:, column(name).density or slice(None)])
    return np.concatenate(parts, axis=1).astype(np.float64)


@dataclass(frozen=True)
class Combination:
    """A density for each aspect, over columns of the statistics' matrix."""

    names: tuple[str, ...]  # of the aspects
    places: tuple[NDArray[np.intp], ...]  # of each aspect's statistics among all D
    densities: tuple[Density, ...]
    shift: float = 0.0  # nats, taken from the score: what is usual in one fold is so in another

    @classmethod
    def fit(
        cls,
        aspects: Mapping[str, tuple[str, ...]],
        widths: Mapping[str, int],
        fitted: Float64,
        trimmed: bool = False,
    ) -> Combination:
        """Fit to the statistics of in-distribution images, (n, D), all finite.

        widths: how many statistics each column gives, in the order of `statistics_of`. trimmed:
        some of the images may be out-of-distribution.
        """
        places, densities = places_of(aspects, widths), []
        for place, names in zip(places, aspects.values(), strict=True):
            values, has_l = fitted[:, place], names[0] == _L
            if trimmed:
                densities.append(Density.fit_trimmed(values, has_l))
            elif has_l:
                densities.append(Density.fit(values, has_l))
            else:
                densities.append(Density.fit_core(values))
        return cls(tuple(aspects), places, tuple(densities))

    def combined(self, values: NDArray[np.floating[Any]]) -> Float64:
        """The combined score, (N, D) -> (N,) nats, higher is odder.

        Infinite where a statistic is not finite: an image whose statistics cannot be computed is
        not usual.
        """
        if self.names == tuple(_OF_TILES):
            (density,) = self.densities
            above = (values[:, 0] - density.centre[0]) / density.spread[0]
            odd = np.where(np.isfinite(above), -log_ndtr(-np.nan_to_num(above)), np.inf)
            return odd - self.shift
        found: Float64 = np.logaddexp.reduce(list(self.rarities(values)), axis=0)
        return np.where(np.isfinite(values).all(axis=1), found, np.inf) - self.shift

    def rarities(self, values: NDArray[np.floating[Any]]) -> list[Float64]:
        """-log p_a of every aspect, less its handicap: (N, D) -> (N,) nats each."""
        return [
            density.rarity(values[:, place]) - HANDICAPS.get(name, 0.0)
            for name, place, density in zip(self.names, self.places, self.densities, strict=True)
        ]


def places_of(
    aspects: Mapping[str, tuple[str, ...]], widths: Mapping[str, int]
) -> tuple[NDArray[np.intp], ...]:
    """Where the statistics of each aspect stand among all of them."""
    first, begin = {}, 0
    for name in statistics_of(aspects):
        first[name] = begin
        begin += widths[name]
    return tuple(
        np.concatenate([np.arange(first[name], first[name] + widths[name]) for name in names])
        for names in aspects.values()
    )


def widths_of(scores: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, int]:
    """How many statistics each column gives."""
    return {name: statistics({name: scores[name][:1]}, [name]).shape[1] for name in names}
