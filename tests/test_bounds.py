"""The bounds of a real HVAE: what they may depend on, and what they must equal."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from benchmarks.naive import naive_scores
from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.model.gaussian import Gaussian, log_ratio
from hvaeood_cli.scoring.bounds import bits_per_dim, climb_means, log_mean_exp, lower_bound, score
from tests.conftest import make_ladder, make_noise


@pytest.fixture
def x() -> torch.Tensor:
    return (torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.5).float()


def test_k_0_is_the_elbo_with_common_noise(ladder, x):
    noise = make_noise(ladder, 3, 5)
    scores = score(ladder, x, noise, n_importance_samples=3, n_importance_samples_k=3)
    bound = lower_bound(ladder, x, noise, k=0)
    torch.testing.assert_close(scores.lower_bound[:, 0], bound.lower_bound)
    torch.testing.assert_close(scores.kl, bound.kl.T)
    torch.testing.assert_close(
        lower_bound(ladder, x, [e[:1] for e in noise]).lower_bound,
        bound_terms(ladder, x, [e[:1] for e in noise]),
    )


def bound_terms(ladder, x, noise):
    bound = lower_bound(ladder, x, noise)
    return bound.log_px - bound.kl.sum(0)


@pytest.mark.parametrize("proposal", ["mean", "sample"])
def test_sharing_work_changes_nothing(ladder, x, proposal):
    """One call against two full passes for each k, as the reference implementation makes them."""
    noise = make_noise(ladder, 4, 5)
    shared = score(ladder, x, noise, 4, 2, proposal).llr
    torch.testing.assert_close(
        shared, naive_scores(ladder, x, noise, 2, proposal), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("proposal", ["mean", "sample"])
@pytest.mark.parametrize("k", [1, 2])
def test_a_bound_ignores_the_posterior_samples_at_and_below_k(ladder, x, k, proposal):
    """Change how far those posteriors spread: their means stay, their samples do not."""
    noise = make_noise(ladder, 2, 5)
    before = lower_bound(ladder, x, noise, k, proposal=proposal).lower_bound
    elbo = lower_bound(ladder, x, noise).lower_bound
    with torch.no_grad():
        for i in range(1, k + 1):
            head = ladder.posterior[str(i)].project
            head.bias[head.bias.shape[0] // 2 :] += 1.5  # the raw scales
    after = lower_bound(ladder, x, noise, k, proposal=proposal).lower_bound
    assert torch.equal(before, after)
    assert not torch.allclose(elbo, lower_bound(ladder, x, noise).lower_bound)


@pytest.mark.parametrize("k", [1, 2])
def test_a_bound_pays_no_kl_at_and_below_k(ladder, x, k):
    kl = lower_bound(ladder, x, make_noise(ladder, 2, 5), k).kl
    assert (kl[:k] == 0).all() and (kl[k:] != 0).any()


def test_the_mean_proposal_needs_no_noise_below_k(ladder, x):
    noise = make_noise(ladder, 1, 5)
    other = make_noise(ladder, 1, 5, seed=9)
    mixed = [other[0], other[1], noise[2]]
    first = lower_bound(ladder, x, noise, 2, proposal="mean").lower_bound
    assert torch.equal(first, lower_bound(ladder, x, mixed, 2, proposal="mean").lower_bound)
    sampled = lower_bound(ladder, x, noise, 2, proposal="sample").lower_bound
    assert not torch.allclose(
        sampled, lower_bound(ladder, x, mixed, 2, proposal="sample").lower_bound
    )


def test_the_top_kl_agrees_with_its_closed_form(ladder, x):
    """KL(q(z_L|.) || N(0, I)) is analytic, given the way up (Appendix F)."""
    n_samples = 4000
    noise = make_noise(ladder, n_samples, 5)
    rungs = climb_means(ladder, x, 3)
    top = rungs[2].posterior  # of the pass for k = 2, which goes up by means alone
    analytic = kl_divergence(Normal(*top), Normal(0.0, 1.0)).sum(1)
    sampled = lower_bound(ladder, x, noise, k=2).kl[2]
    torch.testing.assert_close(sampled, analytic, atol=0.15, rtol=0.05)


def test_importance_weighting_does_not_loosen_the_bound_on_average(ladder, x):
    noise = make_noise(ladder, 256, 5)
    means = []
    for n_samples in (1, 4, 16, 64):
        groups = [eps.unflatten(0, (-1, n_samples)) for eps in noise]
        bounds = [
            lower_bound(ladder, x, [group[g] for group in groups]).lower_bound
            for g in range(256 // n_samples)
        ]
        means.append(torch.stack(bounds).mean(0))
    for looser, tighter in itertools.pairwise(means):
        assert (tighter >= looser - 1e-3).all()


def test_a_bound_that_does_not_exist_is_an_error(ladder, x):
    noise = make_noise(ladder, 1, 5)
    for k, l in ((3, None), (-1, None), (1, 2), (0, 5)):
        with pytest.raises(ValueError, match="no bound"):
            lower_bound(ladder, x, noise, k, l)


@given(
    means=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    scales=st.lists(st.floats(0.1, 3), min_size=4, max_size=4),
)
def test_log_ratio_against_torch_distributions(means, scales):
    q = Gaussian(torch.tensor([means[:2]]), torch.tensor([scales[:2]]))
    p = Gaussian(torch.tensor([means[2:]]), torch.tensor([scales[2:]]))
    z = q.sample(torch.randn(3, 1, 2))
    expected = (Normal(*q).log_prob(z) - Normal(*p).log_prob(z)).sum(1)
    torch.testing.assert_close(log_ratio(q, p, z), expected, atol=1e-3, rtol=1e-4)
    assert (log_ratio(q, q, z) == 0).all()


def test_raw_zero_is_a_standard_gaussian():
    g = Gaussian.from_raw(torch.zeros(2, 6))
    torch.testing.assert_close(g.scale, torch.ones(2, 3))
    assert Gaussian.from_raw(torch.full((1, 2), -1e6)).scale > 0


def test_log_mean_exp_and_bits():
    log_w = torch.log(torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(log_mean_exp(log_w), torch.log(torch.tensor([2.0])))
    torch.testing.assert_close(bits_per_dim(torch.tensor(-2.0794415), 3), torch.tensor(1.0))


@st.composite
def architectures(draw):
    """Ladders of any depth, spatial layers below dense ones."""
    n_layers = draw(st.integers(2, 4))
    n_spatial = draw(st.integers(0, n_layers))
    strides = draw(st.lists(st.sampled_from([1, 2]), min_size=n_layers, max_size=n_layers))
    while 2 ** sum(s == 2 for s in strides) > 8:
        strides[strides.index(2)] = 1
    layers = tuple(
        LayerConfig(
            latent=draw(st.integers(1, 3)),
            spatial=i < n_spatial,
            channels=draw(st.integers(2, 5)),
            n_blocks=draw(st.integers(1, 2)),
            kernel=draw(st.sampled_from([1, 3, 5])),
            head_kernel=draw(st.sampled_from([1, 3])),
            stride=strides[i],
        )
        for i in range(n_layers)
    )
    return ModelConfig(image_size=8, stem_kernel=3, layers=layers)


@settings(max_examples=15, deadline=None)
@given(config=architectures())
def test_any_architecture_agrees_with_the_naive_way(config):
    ladder = make_ladder(config, gain=1.5)
    x = (torch.rand(3, 1, 8, 8) > 0.5).float()
    noise = make_noise(ladder, 2, 3)
    scores = score(ladder, x, noise, 2, 2, "sample")
    assert scores.llr.shape == (3, config.n_layers - 1)
    torch.testing.assert_close(
        scores.llr, naive_scores(ladder, x, noise, 2, "sample"), atol=2e-2, rtol=1e-3
    )


def test_the_kl_of_channels_is_the_analytic_one(ladder, x):
    noise = make_noise(ladder, 3, len(x))
    seen = {}

    def seen_at(k, descent):
        seen.setdefault(k, descent)

    found = score(ladder, x, noise, 3, visit=seen_at)
    q, p = seen[0].posteriors[1], seen[0].priors[1]
    rows = [Normal(*(part.repeat(3 * len(x) // len(part), *[1] * (part.dim() - 1)) for part in g))
            for g in (q, p)]  # fmt: skip
    each = kl_divergence(*rows).unflatten(0, (3, len(x)))  # (S, B, C, ...)
    each = each.flatten(3) if each.dim() > 3 else each.unsqueeze(2)
    torch.testing.assert_close(found.kl_of_channels, each.mean(dim=(0, 3)), rtol=1e-4, atol=1e-5)
