"""How rare statistics are together among usual images: a density fitted to them.

In the spirit of DoSE (Morningstar et al., 2021): L, KL_i, log p(x|z), LLR^{>k} and LLR^{>k} / -L of
an image are statistics whose joint distribution is known from in-distribution images. An image is
odd where that density is low. Unlike LLR^{>k}, which is high for images richer than the training
images, the density sees both tails and the dependence between the statistics. LLR^{>k} as a share
of -L is a function of the others, but not one that a few Gaussians can learn: a plain image has
few nats to lose at any k, and loses an unusual share of them (docs/decisions.md).

L alone is looked at once more. A density of many statistics is wide where usual images are rich,
and an image can be more expensive than all of them in the wide direction: strong noise is. So the
score is the larger of two, the density's and that of L's own two tails (`Density.combined`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

Float64 = NDArray[np.float64]

_COMPONENTS = 4
_IMAGES_PER_PARAMETER = 4  # with fewer images, the mixture gets fewer components
_RULE = 3  # changes with how densities are fitted and added up
_KEPT = 0.8  # the share of images that `fit_trimmed` fits to
_CORE = 0.95  # ... and `fit_core`
_IMAGES_PER_STATISTIC = 2  # with fewer images, statistics are taken to be independent
_RIDGE = 1e-3  # added to the variance of each standardised statistic
_LEAST_SPREAD = 1e-3  # nats
_TAIL = 0.1  # the share of images that are in the tail of the density's scores ...
_IN_TAIL = 10  # ... but at least so many, and at most half of all
_WEIGHT_OF_L = 2.0  # nats by which L must be rarer than the rest to count (docs/decisions.md)

_NO_TAIL = np.array([1.0, 0.0, 1.0])


@dataclass(frozen=True)
class Density:
    """A Gaussian mixture over standardised statistics. D statistics, M components."""

    centre: Float64  # (D,)
    spread: Float64  # (D,)
    log_weights: Float64  # (M,)
    means: Float64  # (M, D)
    precisions: Float64  # (M, D, D): upper triangular U with U U^T the inverse covariance
    tail: Float64  # (3,): which share of images, above which score, by how much on average (nats)
    has_l: bool  # whether the first statistic is L, whose own tails count

    @classmethod
    def fit(cls, values: Float64, has_l: bool = False, n_components: int = _COMPONENTS) -> Density:
        """Fit a mixture to statistics (n, D) of in-distribution images, all finite.

        The seed is fixed. n_components: at most; few images get fewer, and very few one without
        any dependence.
        """
        centre, spread = values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD)
        n, n_dims = values.shape
        if n < _IMAGES_PER_STATISTIC * n_dims:
            return cls.around(centre, spread, has_l)._with_tail(values)
        per_component = 1 + n_dims + n_dims * (n_dims + 1) // 2
        n_components = max(1, min(n_components, n // (_IMAGES_PER_PARAMETER * per_component)))
        mixture = _mixture((values - centre) / spread, n_components)
        return cls(centre, spread, *mixture, _NO_TAIL, has_l)._with_tail(values)

    @classmethod
    def fit_core(cls, values: Float64) -> Density:
        """Fit one Gaussian to (n, D), all finite, of few statistics: without the rarest images.

        A handful of strange images widens a Gaussian, and then others like them are not strange
        (docs/scores.md). How far usual images lie out is measured on all of them.
        """
        rarest_last = np.argsort(cls.fit(values, n_components=1).minus_log(values), kind="stable")
        core = values[rarest_last[: math.ceil(_CORE * len(values))]]
        return cls.fit(core, n_components=1)._with_tail(values)

    @classmethod
    def fit_trimmed(cls, values: Float64, has_l: bool = False) -> Density:
        """Fit to (n, D) of which some may be out-of-distribution, however few there are.

        The fifth of the images that lie furthest from the medians is left out. One Gaussian is
        fitted to the rest, since a mixture would take a group of odd images for one of its parts.
        """
        around = cls.around(*middle(values), has_l)
        n_kept = max(1, int(_KEPT * len(values)))
        nearest = values[np.argsort(around.minus_log(values), kind="stable")[:n_kept]]
        if n_kept < _IMAGES_PER_STATISTIC * values.shape[1]:
            return around._with_tail(nearest)
        return cls.fit(nearest, has_l, n_components=1)

    @classmethod
    def around(cls, centre: Float64, spread: Float64, has_l: bool = False) -> Density:
        """One Gaussian of independent statistics, by their centre and spread, (D,) each."""
        n_dims = len(centre)
        identity = np.eye(n_dims)[None]
        spread = np.maximum(spread, _LEAST_SPREAD)
        middle = np.zeros((1, n_dims))
        return cls(centre, spread, np.zeros(1), middle, identity, _NO_TAIL, has_l)

    @staticmethod
    def made_by() -> list[float]:
        """The constants of all fits: together with the images they determine a density."""
        return [
            _RULE,
            _COMPONENTS,
            _IMAGES_PER_PARAMETER,
            _RIDGE,
            _LEAST_SPREAD,
            _TAIL,
            _IN_TAIL,
            _WEIGHT_OF_L,
            _CORE,
        ]

    def rarity(self, values: NDArray[np.floating[Any]]) -> Float64:
        """-log P(as odd) among usual images, (N, D) -> (N,) nats, as if it fell off exponentially.

        So it is in the tail of most densities. Below the tail it is the same line, and may be
        negative: there it says no more than which of two images is odder.
        """
        share, start, excess = self.tail
        beyond = (self.combined(values) - start) / max(excess, _LEAST_SPREAD)
        found: Float64 = beyond - np.log(share)
        return found

    def combined(self, values: NDArray[np.floating[Any]]) -> Float64:
        """How odd, (N, D) -> (N,) nats, higher is odder.

        It is `minus_log`, or with `has_l`, where that is larger, what `minus_log` is of an image as
        rare as this one's L, if L were normally distributed, and `_WEIGHT_OF_L` nats less rare.
        """
        odd = self.minus_log(values)
        if not self.has_l:
            return odd
        off = np.abs(values[:, 0] - self.centre[0]) / self.spread[0]
        surprise = -np.log(2.0) - log_ndtr(-off)  # -log P(as far off, either way)
        share, start, excess = self.tail
        of_l = start + excess * (surprise - _WEIGHT_OF_L + np.log(share))
        found: Float64 = np.fmax(odd, of_l)
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
        share = max(_TAIL, min(0.5, _IN_TAIL / len(odd)))
        start = float(np.quantile(odd, 1.0 - share))
        beyond = odd[odd > start] - start
        excess = float(beyond.mean()) if len(beyond) else 1.0
        return replace(self, tail=np.array([share, start, excess]))

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


def _mixture(values: Float64, n_components: int) -> tuple[Float64, Float64, Float64]:
    """Log-weights (M,), means (M, D) and precisions (M, D, D) fitted to (n, D).

    One Gaussian needs no library: to load it takes longer than to score a small folder.
    """
    if n_components == 1:
        mean = values.mean(0)
        covariance = (values - mean).T @ (values - mean) / len(values)
        covariance[np.diag_indices_from(covariance)] += _RIDGE
        precision = np.tril(np.linalg.inv(np.linalg.cholesky(covariance))).T
        return np.zeros(1), mean[None], np.ascontiguousarray(precision)[None]
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(n_components, reg_covar=_RIDGE, random_state=0).fit(values)
    return np.log(mixture.weights_), mixture.means_, mixture.precisions_cholesky_


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
