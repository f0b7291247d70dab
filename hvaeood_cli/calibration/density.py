"""One score from everything that the bounds say of an image: its density among usual images.

In the spirit of DoSE (Morningstar et al., 2021): (L, KL_i, log p(x|z), LLR^{>k}, LLR^{>k} / -L) of
an image are statistics whose joint distribution is known from in-distribution images. An image is
odd where that density is low. Unlike LLR^{>k}, which is high for what is richer than the training
images, this looks at both tails and at the dependence between the statistics. The last, LLR^{>k} as
a share of -L, is a function of the others, but not one that a few Gaussians can see: a plain image
has few nats to lose at any level, and loses an unusual share of them (docs/decisions.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_COMPONENTS = 4
_IMAGES_PER_PARAMETER = 4  # fewer than these, and the mixture gets fewer components
_RIDGE = 1e-3  # added to the variance of each standardised statistic
_LEAST_SPREAD = 1e-3  # nats
_LEAST_COST = 1.0  # nats: a binarised blank image may cost nothing


class Scored(Protocol):
    """What the bounds say of N images, nats; columns as in the score file. L layers."""

    @property
    def lower_bound(self) -> NDArray[np.float32]: ...  # (N, L)
    @property
    def llr(self) -> NDArray[np.float32]: ...  # (N, L - 1)
    @property
    def kl(self) -> NDArray[np.float32]: ...  # (N, L)
    @property
    def log_px(self) -> NDArray[np.float32]: ...  # (N, L)


def statistics(scores: Scored) -> Float:
    """What the density is of, for every row, (N, 4 L - 1): L, KL_i, log p(x|z), LLR^{>k}, nats,
    and LLR^{>k} / -L.

    L^{>k} for k > 0 is L minus a ratio, and adds nothing.
    """
    elbo = scores.lower_bound[:, :1]
    parts = (elbo, scores.kl, scores.log_px, scores.llr, shares(elbo, scores.llr))
    return np.concatenate(parts, axis=1).astype(np.float64)


def shares(elbo: NDArray[np.float32], llr: NDArray[np.float32]) -> NDArray[np.float32]:
    """LLR^{>k} / -L, (N, L - 1): the ratio as a share of what the image costs, L^{>k} / L - 1.

    elbo: (N, 1) and llr: (N, L - 1), nats.
    """
    return np.asarray(llr / np.maximum(-elbo, _LEAST_COST))


@dataclass(frozen=True)
class Density:
    """A Gaussian mixture over standardised statistics. D statistics, M components."""

    centre: Float  # (D,)
    spread: Float  # (D,)
    log_weights: Float  # (M,)
    means: Float  # (M, D)
    precisions: Float  # (M, D, D): upper triangular U with U U^T the inverse covariance

    @classmethod
    def fit(cls, values: Float) -> Density:
        """From statistics (n, D) of in-distribution images, all finite. The seed is fixed."""
        from sklearn.mixture import GaussianMixture

        centre, spread = values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD)
        n, n_dims = values.shape
        per_component = 1 + n_dims + n_dims * (n_dims + 1) // 2
        n_components = min(_COMPONENTS, n // (_IMAGES_PER_PARAMETER * per_component))
        mixture = GaussianMixture(max(1, n_components), reg_covar=_RIDGE, random_state=0)
        mixture.fit((values - centre) / spread)
        weights = np.log(mixture.weights_)
        return cls(centre, spread, weights, mixture.means_, mixture.precisions_cholesky_)

    def oddness(self, values: NDArray[np.floating[Any]]) -> Float:
        """-log density in nats, up to a constant: (N, D) -> (N,), higher is odder.

        Infinite where a statistic is not finite: what cannot be computed is not usual.
        """
        finite = np.isfinite(values).all(axis=1)
        standard = (np.where(finite[:, None], values, 0.0) - self.centre) / self.spread
        by_component = []
        for log_weight, mean, precision in zip(
            self.log_weights, self.means, self.precisions, strict=True
        ):
            whitened = (standard - mean) @ precision  # (N, D)
            log_det = np.log(np.diag(precision)).sum()
            by_component.append(log_weight + log_det - 0.5 * (whitened**2).sum(1))
        return np.where(finite, -np.logaddexp.reduce(by_component, axis=0), np.inf)
