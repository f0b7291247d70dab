"""The bounds against a model whose evidence and divergences are known (paper eq. 5 to 10)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvaeood_cli.scoring.bounds import lower_bound, score
from tests.conftest import make_noise
from tests.linear_gaussian import (
    LinearGaussianLadder,
    exact_posterior,
    gaussian_kl,
    log_evidence,
    posterior_given,
    proposal_given,
)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(7)) * 1.3


@pytest.fixture
def rough() -> LinearGaussianLadder:
    """A posterior that is off, but not by much."""
    slopes, scales = exact_posterior()
    return LinearGaussianLadder(
        tuple(b * f for b, f in zip(slopes, (0.95, 1.06, 0.9), strict=True)),
        tuple(t * f for t, f in zip(scales, (1.05, 1.1, 0.95), strict=True)),
    )


def test_with_the_exact_posterior_every_sample_of_the_elbo_is_log_p(x):
    ladder = LinearGaussianLadder(*exact_posterior())
    bound = lower_bound(ladder, x, make_noise(ladder, 1, 3))
    torch.testing.assert_close(bound.lower_bound, log_evidence(x), atol=1e-4, rtol=0)


def test_the_elbo_misses_log_p_by_the_kl_to_the_true_posterior(x, rough):
    """Eq. 7: L = log p(x) - KL(q(z|x) || p(z|x)); Monte Carlo over 20,000 samples."""
    samples = _single_sample_bounds(rough, x, 0, 20_000)
    expected = log_evidence(x) - _divergence(rough, x, 0)
    error = samples.std(0) / 20_000**0.5
    assert ((samples.mean(0) - expected).abs() < 4 * error).all()
    assert (samples.mean(0) < log_evidence(x)).all()


@pytest.mark.parametrize("k", [1, 2])
def test_each_bound_misses_log_p_by_the_kl_of_its_own_proposal(x, rough, k):
    """Eq. 7, second line, with d_k(x) of Appendix D."""
    samples = _single_sample_bounds(rough, x, k, 40_000)
    expected = log_evidence(x) - _divergence(rough, x, k)
    error = samples.std(0) / 40_000**0.5
    assert ((samples.mean(0) - expected).abs() < 4 * error).all()


def test_importance_samples_tighten_the_bound_to_log_p(x, rough):
    """L_1 <= L_10 <= L_5000 -> log p(x), on average (Burda et al., 2016)."""
    averages = []
    for n_samples, repeats in ((1, 400), (10, 100), (5000, 4)):
        bounds = [
            lower_bound(rough, x, make_noise(rough, n_samples, 3, seed)).lower_bound
            for seed in range(repeats)
        ]
        averages.append(torch.stack(bounds).mean(0))
    assert (averages[0] < averages[1]).all()
    assert (averages[1] < averages[2] + 0.02).all()
    torch.testing.assert_close(averages[2], log_evidence(x), atol=0.1, rtol=0)


@pytest.mark.parametrize("k", [1, 2])
def test_the_ratio_tends_to_a_kl_divergence(x, rough, k):
    """Eq. 10: LLR^{>k}_S -> KL(p(z_{<=k}|z_{>k}) q(z_{>k}|x) || p(z|x)) for S -> infinity."""
    n_pairs = 3000
    upper = lower_bound(rough, x, make_noise(rough, 5000, 3)).lower_bound
    lower = _single_sample_bounds(rough, x, k, n_pairs)
    error = 4 * lower.std(0) / n_pairs**0.5 + 0.1
    assert (((upper - lower.mean(0)) - _divergence(rough, x, k)).abs() < error).all()


def test_the_complementary_bound_starts_at_the_elbo(x, rough):
    """Eq. 20: with l = L + 1 nothing comes from the prior."""
    noise = make_noise(rough, 4, 3)
    torch.testing.assert_close(
        lower_bound(rough, x, noise, l=4).lower_bound, lower_bound(rough, x, noise).lower_bound
    )


@pytest.mark.parametrize("l", [2, 3])
def test_the_complementary_bound_counts_the_lower_layers_alone(x, rough, l):
    """Eq. 20 by hand: log p(x|z_1) + sum_{i<l} [log p(z_i|z_{i+1}) - log q(z_i|z_{i-1})]."""
    from tests.linear_gaussian import SCALES, WEIGHTS

    normal = torch.distributions.Normal
    noise = make_noise(rough, 1, 3)
    eps = [e[0] for e in noise]
    z, below = {}, x
    for i in range(1, l):
        z[i] = rough.slopes[i - 1] * below + rough.posterior_scales[i - 1] * eps[i - 1]
        below = z[i]
    for i in range(3, l - 1, -1):
        mean = WEIGHTS[i] * z[i + 1] if i < 3 else torch.zeros_like(x)
        z[i] = mean + (SCALES[i] if i < 3 else 1.0) * eps[i - 1]
    total = normal(0.9 * z[1], SCALES[0]).log_prob(x)
    for i in range(1, l):
        below = x if i == 1 else z[i - 1]
        total = total + normal(WEIGHTS[i] * z[i + 1], SCALES[i]).log_prob(z[i])
        total = total - normal(rough.slopes[i - 1] * below, rough.posterior_scales[i - 1]).log_prob(
            z[i]
        )
    found = lower_bound(rough, x, noise, l=l, proposal="sample").lower_bound
    torch.testing.assert_close(found, total.flatten(1).sum(1), atol=1e-4, rtol=1e-5)


def test_score_agrees_with_the_bounds_one_by_one(x, rough):
    noise = make_noise(rough, 5, 3)
    scores = score(rough, x, noise, n_importance_samples=5, n_importance_samples_k=2)
    torch.testing.assert_close(scores.lower_bound[:, 0], lower_bound(rough, x, noise).lower_bound)
    for k in (1, 2):
        alone = lower_bound(rough, x, [eps[:2] for eps in noise], k)
        torch.testing.assert_close(scores.lower_bound[:, k], alone.lower_bound)
        torch.testing.assert_close(scores.log_px[:, k], alone.log_px)
        torch.testing.assert_close(
            scores.llr[:, k - 1], scores.lower_bound[:, 0] - alone.lower_bound
        )


def _single_sample_bounds(ladder, x, k, n):
    """n independent one-sample estimates of L^{>k} with the sampled proposal, (n, B)."""
    many = x.repeat(n, 1, 1, 1)
    noise = make_noise(ladder, 1, len(many), seed=k + 1)
    bound = lower_bound(ladder, many, noise, k, proposal="sample").lower_bound
    return bound.unflatten(0, (n, len(x)))


def _divergence(ladder, x, k):
    """KL(p(z_{<=k}|z_{>k}) q(z_{>k}|d_k(x)) || p(z|x)), summed over the chains, (B,)."""
    total = [
        sum(
            gaussian_kl(*proposal_given(float(v), k, ladder), *posterior_given(float(v)))
            for v in image.flatten()
        )
        for image in x
    ]
    return torch.tensor(np.array(total), dtype=torch.float32)
