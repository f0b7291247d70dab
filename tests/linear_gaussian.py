"""A ladder whose every quantity is known in closed form.

D independent chains of scalars, z_3 -> z_2 -> z_1 -> x, all linear and Gaussian:

    z_3 ~ N(0, 1),  z_i ~ N(a_i z_{i+1}, s_i^2),  x ~ N(a_0 z_1, s_0^2)

so log p(x) is a Gaussian's, the exact posterior is q(z_1|x) q(z_2|z_1) q(z_3|z_2) with linear
means, and every KL is one between multivariate Gaussians. Nothing here uses the code under test
but its interfaces.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Descent, Ladder, Route, Rung
from hvaeood_cli.model.likelihoods import Likelihood

WEIGHTS = (0.9, 1.3, -0.7)  # a_0, a_1, a_2
SCALES = (0.5, 0.8, 0.6)  # s_0, s_1, s_2
N_LAYERS = 3


class GaussianPixels(Likelihood):
    n_parameters = 1

    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        return pixels.float()

    def log_prob_of_pixels(self, parameters: Tensor, x: Tensor) -> Tensor:
        mean = parameters.unflatten(0, (-1, x.shape[0]))  # (S, B, 1, H, W)
        log_p = torch.distributions.Normal(mean, SCALES[0]).log_prob(x)
        return log_p.flatten(0, 1).sum(1)

    def pit(self, parameters: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
        return torch.distributions.Normal(parameters, SCALES[0]).cdf(x)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters


class LinearGaussianLadder(Ladder):
    """q(z_1|x) = N(b_1 x, t_1^2) and q(z_i|z_{i-1}) = N(b_i z_{i-1}, t_i^2)."""

    def __init__(self, slopes: tuple[float, ...], scales: tuple[float, ...], size: int = 4) -> None:
        layer = LayerConfig(latent=1, spatial=True, channels=1)
        config = ModelConfig(image_size=size, layers=(layer,) * N_LAYERS)
        super().__init__(config, GaussianPixels())
        self.slopes, self.posterior_scales = slopes, scales
        self.unused = nn.Parameter(torch.zeros(1))

    def first_rung(self, x: Tensor) -> Rung:
        return self._rung(1, x)

    def next_rung(self, i: int, below: Rung, z: Tensor) -> Rung:
        return self._rung(i, z)

    def _rung(self, i: int, below: Tensor) -> Rung:
        mean = self.slopes[i - 1] * below
        return Rung(Gaussian(mean, torch.full_like(mean, self.posterior_scales[i - 1])), (mean,))

    def descend(self, rungs: dict[int, Rung], z: dict[int, Tensor], route: Route) -> Descent:
        z, priors = dict(z), dict[int, Gaussian]()
        shape = (1, *self.latent_shape(N_LAYERS))
        for i in range(N_LAYERS, 0, -1):
            if i == N_LAYERS:
                priors[i] = Gaussian(torch.zeros(shape), torch.ones(shape))
            else:
                mean = WEIGHTS[i] * z[i + 1]
                priors[i] = Gaussian(mean, torch.full_like(mean, SCALES[i]))
            if i not in z:
                z[i] = route.draw_prior(i, priors[i])
        posteriors = {i: rung.posterior for i, rung in rungs.items()}
        return Descent(z, priors, posteriors, WEIGHTS[0] * z[1])


def joint() -> tuple[np.ndarray, np.ndarray]:
    """Mean (0) and covariance of (x, z_1, z_2, z_3) of one chain, under p."""
    # rows: each variable as a combination of independent unit normals, from the top down
    rows = [np.array([1.0, 0.0, 0.0, 0.0])]  # z_3
    for level, i in enumerate((2, 1, 0), start=1):
        row = WEIGHTS[i] * rows[-1]
        row[level] = SCALES[i]
        rows.append(row)
    mixing = np.stack(rows[::-1])  # x, z_1, z_2, z_3
    return np.zeros(4), mixing @ mixing.T


def log_evidence(x: Tensor) -> Tensor:
    """log p(x), (B,): pixels are independent N(0, var x)."""
    variance = joint()[1][0, 0]
    return torch.distributions.Normal(0.0, variance**0.5).log_prob(x).flatten(1).sum(1)


def exact_posterior() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Slopes and scales of p(z_1|x), p(z_2|z_1), p(z_3|z_2): the chain reversed."""
    covariance = joint()[1]
    slopes = [covariance[i, i - 1] / covariance[i - 1, i - 1] for i in (1, 2, 3)]
    variances = [
        covariance[i, i] - covariance[i, i - 1] ** 2 / covariance[i - 1, i - 1] for i in (1, 2, 3)
    ]
    return tuple(slopes), tuple(v**0.5 for v in variances)


def posterior_given(x: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(z_1, z_2, z_3 | x) of one chain."""
    covariance = joint()[1]
    gain = covariance[1:, 0] / covariance[0, 0]
    return gain * x, covariance[1:, 1:] - np.outer(gain, covariance[0, 1:])


def proposal_given(x: float, k: int, ladder: LinearGaussianLadder) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(z_{<=k}|z_{>k}) q(z_{>k}|d_k(x)), over (z_1, z_2, z_3)."""
    mean, mixing = np.zeros(3), np.zeros((3, 3))
    below = x
    for i in range(1, k + 1):
        below = ladder.slopes[i - 1] * below  # the means go up
    previous_mean, previous_row = below, np.zeros(3)
    for i in range(k + 1, 4):
        mean[i - 1] = ladder.slopes[i - 1] * previous_mean
        mixing[i - 1] = ladder.slopes[i - 1] * previous_row
        mixing[i - 1, i - 1] = ladder.posterior_scales[i - 1]
        previous_mean, previous_row = mean[i - 1], mixing[i - 1]
    for i in range(k, 0, -1):  # and the prior comes down
        mean[i - 1] = WEIGHTS[i] * mean[i]
        mixing[i - 1] = WEIGHTS[i] * mixing[i]
        mixing[i - 1, i - 1] = SCALES[i]
    return mean, mixing @ mixing.T


def gaussian_kl(
    mean_q: np.ndarray, cov_q: np.ndarray, mean_p: np.ndarray, cov_p: np.ndarray
) -> float:
    """KL(N_q || N_p), nats."""
    inverse = np.linalg.inv(cov_p)
    shift = mean_p - mean_q
    trace = np.trace(inverse @ cov_q)
    logdet = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
    return float(0.5 * (trace + shift @ inverse @ shift - len(shift) + logdet))
