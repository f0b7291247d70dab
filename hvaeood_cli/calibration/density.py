"""The combined score: how rare an image's statistics are, together, among usual images.

In the spirit of DoSE (Morningstar et al., 2021): L, KL_i, log p(x|z), LLR^{>k} and LLR^{>k} / -L of
an image are statistics whose joint distribution is known from in-distribution images. An image is
odd where that density is low. Unlike LLR^{>k}, which is high for images richer than the training
images, the density sees both tails and the dependence between the statistics. The last statistic,
LLR^{>k} as a share of -L, is a function of the others, but not one that a few Gaussians can learn:
a plain image has few nats to lose at any k, and loses an unusual share of them (docs/decisions.md).

Of images that are scored by tiles it takes one statistic, their peak (docs/photographs.md).

L alone is looked at once more. A density of many statistics is wide where usual images are rich,
and an image can be more expensive than all of them in the wide direction: strong noise is. So the
combined score is the larger of two, the density's and that of L's own two tails (`combined`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from hvaeood_cli.store.columns import column, columns

Float64 = NDArray[np.float64]

_OF_TILES = ("peak",)  # the columns that it takes of images scored by tiles, and of no others
_COMPONENTS = 4
_IMAGES_PER_PARAMETER = 4  # with fewer images, the mixture gets fewer components
_KEPT = 0.8  # the share of images that `fit_trimmed` fits to
_IMAGES_PER_STATISTIC = 2  # with fewer images, it takes the statistics to be independent
_RIDGE = 1e-3  # added to the variance of each standardised statistic
_LEAST_SPREAD = 1e-3  # nats
_L = 0  # the place of L among the statistics: it comes first in the column table
_TAIL = 0.1  # the share of images that are in the tail of the density's scores
_WEIGHT_OF_L = 2.0  # nats by which L must be rarer than the rest to count (docs/decisions.md)


def statistic_names(tiled: bool = False) -> tuple[str, ...]:
    """The names of the columns that the density takes, in the column table's order.

    tiled: whether the images were scored by tiles.
    """
    if tiled:
        return _OF_TILES
    named = (column.name for column in columns("scores") if column.density is not None)
    return tuple(name for name in named if name not in _OF_TILES)


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
class Density:
    """A Gaussian mixture over standardised statistics. D statistics, M components."""

    centre: Float64  # (D,)
    spread: Float64  # (D,)
    log_weights: Float64  # (M,)
    means: Float64  # (M, D)
    precisions: Float64  # (M, D, D): upper triangular U with U U^T the inverse covariance
    tail: Float64  # (2,): the score that a tenth exceeds, and by how much on average, nats

    @classmethod
    def fit(cls, values: Float64, n_components: int = _COMPONENTS) -> Density:
        """Fit to statistics (n, D) of in-distribution images, all finite. The seed is fixed.

        n_components: at most; few images get fewer.
        """
        from sklearn.mixture import GaussianMixture

        centre, spread = values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD)
        n, n_dims = values.shape
        per_component = 1 + n_dims + n_dims * (n_dims + 1) // 2
        n_components = min(n_components, n // (_IMAGES_PER_PARAMETER * per_component))
        mixture = GaussianMixture(max(1, n_components), reg_covar=_RIDGE, random_state=0)
        mixture.fit((values - centre) / spread)
        weights = np.log(mixture.weights_)
        fitted = cls(
            centre, spread, weights, mixture.means_, mixture.precisions_cholesky_, np.zeros(2)
        )
        return fitted._with_tail(values)

    @classmethod
    def fit_trimmed(cls, values: Float64) -> Density:
        """Fit to (n, D) of which some may be out-of-distribution, however few there are.

        The fifth of the images that lie furthest from the medians is left out. One Gaussian is
        fitted to the rest, since a mixture would take a group of odd images for one of its parts.
        """
        around = cls.around(*middle(values))._with_tail(values)
        n_kept = int(_KEPT * len(values))
        if n_kept < _IMAGES_PER_STATISTIC * values.shape[1]:
            return around
        nearest = np.argsort(around.minus_log(values), kind="stable")[:n_kept]
        return cls.fit(values[nearest], n_components=1)

    def shifted(self, nats: float) -> Density:
        """The same density, but for a constant in the combined score."""
        start, excess = self.tail
        tail = np.array([start + nats, excess])
        return replace(self, log_weights=self.log_weights - nats, tail=tail)

    @classmethod
    def around(cls, centre: Float64, spread: Float64) -> Density:
        """One Gaussian of independent statistics, by their centre and spread, (D,) each."""
        n_dims = len(centre)
        identity = np.eye(n_dims)[None]
        spread = np.maximum(spread, _LEAST_SPREAD)
        middle = np.zeros((1, n_dims))
        return cls(centre, spread, np.zeros(1), middle, identity, np.zeros(2))

    @staticmethod
    def made_by() -> list[float]:
        """The constants of `fit`: together with the images they determine the density."""
        return [
            _COMPONENTS,
            _IMAGES_PER_PARAMETER,
            _RIDGE,
            _LEAST_SPREAD,
            _TAIL,
            _WEIGHT_OF_L,
        ]

    def combined(self, values: NDArray[np.floating[Any]]) -> Float64:
        """The combined score, (N, D) -> (N,) nats, higher is odder.

        It is `minus_log`, or, where that is larger, what `minus_log` is of an image as rare as this
        one's L, if L were normally distributed, and `_WEIGHT_OF_L` nats less rare.

        Of one statistic alone, the peak of an image's tiles, it is -log P(as high) of a normal
        distribution: an image without any strange spot is not odd.
        """
        if values.shape[1] == 1:
            above = (values[:, 0] - self.centre[0]) / self.spread[0]
            return np.where(np.isfinite(above), -log_ndtr(-np.nan_to_num(above)), np.inf)
        off = np.abs(values[:, _L] - self.centre[_L]) / self.spread[_L]
        surprise = -np.log(2.0) - log_ndtr(-off)  # -log P(as far off, either way)
        start, excess = self.tail
        of_l = start + excess * (surprise - _WEIGHT_OF_L + np.log(_TAIL))
        found: Float64 = np.fmax(self.minus_log(values), of_l)
        return found

    def minus_log(self, values: NDArray[np.floating[Any]]) -> Float64:
        """Minus the log density: (N, D) -> (N,) nats, higher is odder.

        Infinite where a statistic is not finite: an image whose statistics cannot be computed is
        not usual. A constant is left out.
        """
        finite = np.isfinite(values).all(axis=1)
        standard = (np.where(finite[:, None], values, 0.0) - self.centre) / self.spread
        columns = np.ascontiguousarray(standard.T)  # (D, N)
        by_component = []
        for log_weight, mean, precision in zip(
            self.log_weights, self.means, self.precisions, strict=True
        ):
            log_det = np.log(np.diag(precision)).sum()
            distance = _squared_norm(columns - mean[:, None], precision)
            by_component.append(log_weight + log_det - 0.5 * distance)
        return np.where(finite, -np.logaddexp.reduce(by_component, axis=0), np.inf)

    def _with_tail(self, values: Float64) -> Density:
        """The density with its tail measured on the images that it was fitted to, (n, D).

        Beyond its start a tail falls off exponentially, as most do.
        """
        odd = self.minus_log(values)
        start = float(np.quantile(odd, 1.0 - _TAIL))
        beyond = odd[odd > start] - start
        excess = float(beyond.mean()) if len(beyond) else 1.0
        return replace(self, tail=np.array([start, excess]))

    def given_others(self, values: Float64) -> Float64:
        """How far each statistic of one image is from what its others let expect: (D,) -> (D,).

        In standard deviations of the conditional Gaussian, in the component nearest to the image.
        """
        standard = (values - self.centre) / self.spread
        distances = [
            float(_squared_norm((standard - mean)[:, None], precision)[0])
            for mean, precision in zip(self.means, self.precisions, strict=True)
        ]
        nearest = int(np.argmin(distances))
        precision = self.precisions[nearest] @ self.precisions[nearest].T  # (D, D)
        off: Float64 = precision @ (standard - self.means[nearest])
        return off / np.sqrt(np.diag(precision))


def middle(values: Float64) -> tuple[Float64, Float64]:
    """Median and scaled MAD of each column, (D,) each, which a minority of rows cannot move."""
    centre = np.median(values, axis=0)
    return centre, 1.4826 * np.median(np.abs(values - centre), axis=0)


def _squared_norm(columns: Float64, upper: Float64) -> Float64:
    """|x U|^2 of every x, (N,). columns: (D, N), an x each; upper: (D, D), U, upper triangular.

    Row by row and in one order, not as a matrix product, whose last digit depends on how many
    rows there are and on the library that makes it: an image's p must not.
    """
    total = np.zeros(columns.shape[1])
    for j in range(len(columns)):
        projected = columns[0] * upper[0, j]
        for i in range(1, j + 1):
            projected += columns[i] * upper[i, j]
        total += projected * projected
    return total
