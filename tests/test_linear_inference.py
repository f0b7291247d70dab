"""Every kind's bounds against evidence and divergences that are known (paper eq. 5 to 10)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvaeood_cli.scoring.bounds import lower_bound
from tests.conftest import make_noise
from tests.linear_gaussian import gaussian_kl
from tests.linear_inference import LinearLadder, posterior, proposal

KINDS = ("hvae", "lvae", "biva")


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(7)) * 1.3


def log_evidence(ladder: LinearLadder, x: torch.Tensor) -> torch.Tensor:
    """log p(x), (B,): pixels are independent N(0, var x)."""
    scale = ladder.joint()[0, 0] ** 0.5
    return torch.distributions.Normal(0.0, scale).log_prob(x).flatten(1).sum(1)


def divergence(ladder: LinearLadder, x: torch.Tensor, k: int) -> torch.Tensor:
    """KL(p(z_{<=k}|z_{>k}) q(z_{>k}|d_k(x)) || p(z|x)), summed over pixels, (B,)."""
    slope_q, covariance_q = proposal(ladder, k)
    slope_p, covariance_p = posterior(ladder)
    total = [
        sum(
            gaussian_kl(slope_q * v, covariance_q, slope_p * v, covariance_p)
            for v in image.flatten().tolist()
        )
        for image in x
    ]
    return torch.tensor(np.array(total), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["hvae", "lvae"])
def test_with_the_exact_posterior_every_sample_of_the_elbo_is_log_p(kind, x):
    ladder = LinearLadder(kind, off=0.0)
    assert divergence(ladder, x, 0).abs().max() < 1e-4
    bound = lower_bound(ladder, x, make_noise(ladder, 1, 2)).lower_bound
    torch.testing.assert_close(bound, log_evidence(ladder, x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_each_bound_misses_log_p_by_the_kl_of_its_own_proposal(kind, k, x):
    """Eq. 7: L^{>k} = log p(x) - KL(proposal || p(z|x)); Monte Carlo over 40,000 samples."""
    ladder, n = LinearLadder(kind), 40_000
    many = x.repeat(n, 1, 1, 1)
    noise = make_noise(ladder, 1, len(many), seed=k + 1)
    bounds = lower_bound(ladder, many, noise, k, proposal="sample").lower_bound.unflatten(0, (n, 2))
    expected = log_evidence(ladder, x) - divergence(ladder, x, k)
    error = bounds.std(0) / n**0.5
    assert ((bounds.mean(0) - expected).abs() < 4 * error).all()
    assert (error < 0.2).all() and (divergence(ladder, x, k) > 0.1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_importance_samples_tighten_the_bound_to_log_p(kind, x):
    """L_1 <= L_10 <= L_40000 -> log p(x), on average (Burda et al., 2016)."""
    ladder = LinearLadder(kind)
    averages = []
    for n_samples, repeats in ((1, 400), (10, 100), (40_000, 4)):
        bounds = [
            lower_bound(ladder, x, make_noise(ladder, n_samples, 2, seed)).lower_bound
            for seed in range(repeats)
        ]
        averages.append(torch.stack(bounds).mean(0))
    assert (averages[0] < averages[1]).all() and (averages[1] < averages[2] + 0.02).all()
    torch.testing.assert_close(averages[2], log_evidence(ladder, x), atol=0.15, rtol=0)
