"""Every kind of ladder makes the same promises: what its bounds may depend on, what they are."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from benchmarks.naive import naive_lower_bound, naive_scores
from hvaeood_cli.errors import ModelError
from hvaeood_cli.model.bundle import read_bundle, write_bundle
from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.initialisation import narrow_posteriors
from hvaeood_cli.model.ladder import Route
from hvaeood_cli.scoring.bounds import climb_means, follow, log_mean_exp, lower_bound, score
from tests.conftest import make_images, make_ladder, make_noise

KINDS = ("hvae", "lvae", "biva")
N_LAYERS = 4

LAYERS = (
    LayerConfig(latent=2, spatial=True, channels=4, n_blocks=1),
    LayerConfig(latent=2, spatial=True, channels=5, n_blocks=1, stride=2),
    LayerConfig(latent=3, spatial=False, channels=6, n_blocks=1),
    LayerConfig(latent=2, spatial=False, channels=6, n_blocks=1),
)
CONFIG = ModelConfig(image_size=8, stem_kernel=3, stem_stride=2, layers=LAYERS)


def config_of(kind: str, **changes) -> ModelConfig:
    return ModelConfig.model_validate(CONFIG.model_dump() | {"kind": kind} | changes)


@pytest.fixture(params=KINDS)
def ladder(request):
    return make_ladder(config_of(request.param))


@pytest.fixture
def x() -> torch.Tensor:
    return (torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.5).float()


def perturb_posteriors(ladder, k, monkeypatch):
    """Other posteriors for the layers <= k: only the means that go up stay.

    What the way up infers of those layers spreads wider, what the way down infers of them is
    nonsense. L^{>k} must not notice.
    """
    first, following, down = ladder.first_rung, ladder.next_rung, ladder.posterior_down

    def wider(i, rung):
        if i > k or rung.posterior is None:
            return rung
        return rung._replace(posterior=rung.posterior._replace(scale=rung.posterior.scale * 7))

    def nonsense(i, rung, d):
        posterior = down(i, rung, d)
        if i > k or posterior is None:
            return posterior
        return Gaussian(posterior.mean + 100.0, posterior.scale * 7)

    monkeypatch.setattr(ladder, "first_rung", lambda x: wider(1, first(x)))
    monkeypatch.setattr(ladder, "next_rung", lambda i, b, z: wider(i, following(i, b, z)))
    monkeypatch.setattr(ladder, "posterior_down", nonsense)


@pytest.mark.parametrize("proposal", ["mean", "sample"])
@pytest.mark.parametrize("k", range(1, N_LAYERS))
def test_a_bound_ignores_the_posteriors_at_and_below_k(ladder, x, k, proposal, monkeypatch):
    noise = make_noise(ladder, 2, 5)
    before = lower_bound(ladder, x, noise, k, proposal=proposal)
    elbo = lower_bound(ladder, x, noise).lower_bound
    perturb_posteriors(ladder, k, monkeypatch)
    after = lower_bound(ladder, x, noise, k, proposal=proposal)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.allclose(elbo, lower_bound(ladder, x, noise).lower_bound)


@pytest.mark.parametrize("k", range(1, N_LAYERS))
def test_the_mean_proposal_needs_no_noise_at_and_below_k(ladder, x, k):
    noise, other = make_noise(ladder, 2, 5), make_noise(ladder, 2, 5, seed=9)
    first = lower_bound(ladder, x, noise, k).lower_bound
    assert torch.equal(first, lower_bound(ladder, x, other[:k] + noise[k:], k).lower_bound)
    for i in range(k, N_LAYERS):
        changed = [*noise[:i], other[i], *noise[i + 1 :]]
        assert not torch.allclose(first, lower_bound(ladder, x, changed, k).lower_bound)


@pytest.mark.parametrize("k", range(N_LAYERS))
def test_a_bound_pays_kl_above_k_alone(ladder, x, k):
    kl = lower_bound(ladder, x, make_noise(ladder, 2, 5), k).kl
    assert (kl[:k] == 0).all() and (kl[k:] != 0).all()


@pytest.mark.parametrize("k", range(1, N_LAYERS))
def test_every_element_of_the_noise_above_k_counts(ladder, x, k):
    """Both of BIVA's variables of a layer are drawn, each from its own part of the noise."""
    noise = [eps.requires_grad_() for eps in make_noise(ladder, 1, 5)]
    lower_bound(ladder, x, noise, k, proposal="mean").lower_bound.sum().backward()
    for i, eps in enumerate(noise, start=1):
        if i <= k:
            assert eps.grad is None or (eps.grad == 0).all()
        else:
            assert (eps.grad != 0).float().mean() > 0.95


@pytest.mark.parametrize("l", range(2, N_LAYERS + 1))
def test_the_complementary_bound_counts_the_layers_below_l_alone(ladder, x, l):
    kl = lower_bound(ladder, x, make_noise(ladder, 2, 5), l=l, proposal="sample").kl
    assert (kl[: l - 1] != 0).all() and (kl[l - 1 :] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_kl_terms_vanish_where_the_posterior_is_the_prior(kind, x):
    """All heads silent: every q and every p is N(0, I)."""
    ladder = make_ladder(config_of(kind))
    with torch.no_grad():
        for name, parameter in ladder.named_parameters():
            if ".project." in name and name.split(".")[0].startswith(("posterior", "prior")):
                parameter.zero_()
    for k in range(N_LAYERS):
        assert lower_bound(ladder, x, make_noise(ladder, 3, 5), k).kl.abs().max() < 1e-4


def test_the_top_kl_agrees_with_its_closed_form(ladder, x):
    top = climb_means(ladder, x, N_LAYERS)[-1].posterior
    analytic = kl_divergence(Normal(*top), Normal(0.0, 1.0)).sum(1)
    sampled = lower_bound(ladder, x, make_noise(ladder, 4000, 5), k=N_LAYERS - 1).kl[-1]
    torch.testing.assert_close(sampled, analytic, atol=0.15, rtol=0.05)


@pytest.mark.parametrize("k", [0, 2])
def test_more_samples_tighten_the_bound_on_average(ladder, x, k):
    """Other noise for every S: with the same, it would be Jensen's inequality that is tested."""
    averages = []
    for n_samples, n_repeats in ((1, 64), (8, 16), (64, 4)):
        bounds = [
            lower_bound(ladder, x, make_noise(ladder, n_samples, 5, seed), k, proposal="sample")
            for seed in range(n_repeats)
        ]
        averages.append(torch.stack([bound.lower_bound for bound in bounds]).mean())
    assert all(tighter > looser for looser, tighter in itertools.pairwise(averages))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bound_reaches_log_p_of_the_generative_model(kind):
    """log p(x) by sampling from the prior alone, which no posterior has a part in.

    Weights are small enough for 20,000 samples to be exact to 0.01 nats, and large enough for the
    terms of a bound to matter: without the importance weights, L is half a nat below.
    """
    layers = [layer.model_copy(update={"stride": 1}) for layer in LAYERS[1:]]
    ladder = make_ladder(config_of(kind, image_size=4, stem_stride=1, layers=layers), gain=0.6)
    x = (torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    n_samples, n_layers = 20_000, len(layers)
    with torch.no_grad():
        noise = make_noise(ladder, n_samples, 2, seed=1)
        prior = ladder.descend({}, {}, Route(noise, n_layers, n_layers + 1, "sample"))
        log_px = ladder.likelihood.log_prob(prior.parameters, x)
        evidence = log_mean_exp(log_px.unflatten(0, (n_samples, 2)).double())
        for k in range(n_layers):
            noise = make_noise(ladder, n_samples, 2, seed=2 + k)
            bound = lower_bound(ladder, x, noise, k, proposal="sample")
            torch.testing.assert_close(bound.lower_bound.double(), evidence, atol=0.03, rtol=0)
            if k == 0:
                assert (bound.log_px - bound.kl.sum(0) < evidence - 0.3).all()


def test_bfloat16_keeps_the_bounds_in_float32(ladder, x):
    noise = make_noise(ladder, 2, 5)
    full = score(ladder, x, noise, 2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        low = score(ladder, x, noise, 2, 1)
    assert low.lower_bound.dtype == torch.float32
    torch.testing.assert_close(low.log_px, full.log_px, rtol=0.1, atol=5.0)


def test_every_parameter_is_trained(ladder, x):
    bound = lower_bound(ladder, x, make_noise(ladder, 1, 5)).lower_bound.sum()
    bound.backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in ladder.parameters())


@st.composite
def architectures(draw):
    """Ladders of any kind and depth, grey or RGB, spatial layers below dense ones."""
    n_layers = draw(st.integers(2, 4))
    n_spatial = draw(st.integers(0, n_layers))
    strides = draw(st.sampled_from([(1, 1, 2, 1), (2, 1, 1, 2), (1, 2, 2, 1), (1, 1, 1, 1)]))
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
    channels, likelihood = draw(
        st.sampled_from([(1, "bernoulli"), (1, "logistics"), (3, "logistics")])
    )
    return ModelConfig(
        kind=draw(st.sampled_from(KINDS)),
        image_channels=channels,
        image_size=8,
        likelihood=likelihood,
        stem_kernel=3,
        stem_stride=draw(st.sampled_from([1, 2])),
        layers=layers,
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(config=architectures())
def test_any_architecture_agrees_with_the_naive_way(config):
    ladder = make_ladder(config, gain=1.2)
    pixels = torch.from_numpy(make_images(3, channels=config.image_channels))
    x = ladder.likelihood.observe(pixels, torch.rand(pixels.shape))
    noise = make_noise(ladder, 2, 3)
    scores = score(ladder, x, noise, 2, 2, "sample")
    assert scores.llr.shape == (3, config.n_layers - 1)
    tolerance = {"atol": 5e-2, "rtol": 1e-3}
    torch.testing.assert_close(scores.llr, naive_scores(ladder, x, noise, 2, "sample"), **tolerance)
    for k in range(config.n_layers):
        alone = lower_bound(ladder, x, noise, k, proposal="mean").lower_bound
        naive = naive_lower_bound(ladder, x, noise, k, "mean")
        torch.testing.assert_close(alone, naive, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_gives_back_the_ladder_of_its_kind(kind, tmp_path, x):
    ladder = make_ladder(config_of(kind))
    hashes = make_images(1)[0, 0, 0].astype("uint64")
    write_bundle(tmp_path, "m", ladder.config, ladder, {}, hashes)
    loaded = read_bundle(tmp_path).load_ladder()
    assert type(loaded) is type(ladder)
    noise = make_noise(ladder, 1, 5)
    assert torch.equal(
        lower_bound(ladder, x, noise, 1).lower_bound, lower_bound(loaded, x, noise, 1).lower_bound
    )


@pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(KINDS, 2)))
def test_weights_of_another_kind_are_an_error_that_says_so(kind, other, tmp_path):
    ladder = make_ladder(config_of(kind))
    write_bundle(tmp_path, "m", ladder.config, ladder, {}, make_images(1)[0, 0, 0])
    described = json.loads((tmp_path / "config.json").read_text())
    described["model"]["kind"] = other
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"do not fit its config\.json") as caught:
        read_bundle(tmp_path).load_ladder()
    assert "mixes two models" in caught.value.hint


def test_posteriors_start_as_narrow_as_asked(ladder, x):
    """Both of BIVA's parts of a layer; what weights add to the bias is left as it is."""
    scales = (0.1, 0.5, 1.0, 2.0)
    narrow_posteriors(ladder, scales)
    for i in range(1, N_LAYERS + 1):
        for head in ladder.posterior_heads(i):
            torch.nn.init.zeros_(head.project.weight)
    with torch.no_grad():
        descent = follow(
            ladder,
            climb_means(ladder, x, 1),
            Route(make_noise(ladder, 1, 5), 0, N_LAYERS + 1, "mean"),
        )
    for i, scale in enumerate(scales, start=1):
        posterior = descent.posteriors[i].scale
        assert torch.allclose(posterior, torch.full_like(posterior, scale), rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(config=architectures(), data=st.data())
def test_no_bound_of_any_architecture_knows_the_posteriors_at_and_below_k(config, data):
    ladder = make_ladder(config, gain=1.5)
    k = data.draw(st.integers(1, config.n_layers - 1))
    pixels = torch.from_numpy(make_images(2, channels=config.image_channels))
    x = ladder.likelihood.observe(pixels, torch.full(pixels.shape, 0.5))
    noise = make_noise(ladder, 1, 2)
    before = lower_bound(ladder, x, noise, k, proposal="sample")
    with pytest.MonkeyPatch.context() as patch:
        perturb_posteriors(ladder, k, patch)
        after = lower_bound(ladder, x, noise, k, proposal="sample")
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
