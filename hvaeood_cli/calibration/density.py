"""The combined score: how rare an image's statistics are, together, among usual images.

In the spirit of DoSE (Morningstar et al., 2021): L, KL_i, log p(x|z), LLR^{>k} and LLR^{>k} / -L of
an image are statistics whose joint distribution is known from in-distribution images. An image is
odd where that density is low. Unlike LLR^{>k}, which is high for images richer than the training
images, the density sees both tails and the dependence between the statistics. The last statistic,
LLR^{>k} as a share of -L, is a function of the others, but not one that a few Gaussians can learn:
a plain image has few nats to lose at any k, and loses an unusual share of them (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.store.columns import column, columns

Float64 = NDArray[np.float64]

_COMPONENTS = 4
_IMAGES_PER_PARAMETER = 4  # with fewer images, the mixture gets fewer components
_RIDGE = 1e-3  # added to the variance of each standardised statistic
_LEAST_SPREAD = 1e-3  # nats


def statistic_names() -> tuple[str, ...]:
    """The names of the columns that the density takes, in the column table's order."""
    return tuple(column.name for column in columns("scores") if column.density is not None)


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
        return cls(centre, spread, weights, mixture.means_, mixture.precisions_cholesky_)

    @classmethod
    def around(cls, centre: Float64, spread: Float64) -> Density:
        """One Gaussian of independent statistics, by their centre and spread, (D,) each."""
        n_dims = len(centre)
        identity = np.eye(n_dims)[None]
        spread = np.maximum(spread, _LEAST_SPREAD)
        return cls(centre, spread, np.zeros(1), np.zeros((1, n_dims)), identity)

    @staticmethod
    def made_by() -> list[float]:
        """The constants of `fit`: together with the images they determine the density."""
        return [_COMPONENTS, _IMAGES_PER_PARAMETER, _RIDGE, _LEAST_SPREAD]

    def minus_log(self, values: NDArray[np.floating[Any]]) -> Float64:
        """The combined score, minus the log density: (N, D) -> (N,) nats, higher is odder.

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
