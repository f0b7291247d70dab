"""Mixture of discretised logistics: a distribution, exact at its edges, and safe in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import kstest
from torch import nn

from hvaeood_cli.model import logistics
from hvaeood_cli.model.likelihoods import Bernoulli, DiscretizedLogistics
from hvaeood_cli.scoring.bounds import bits_per_dim

VALUES = torch.arange(256, dtype=torch.uint8)


def raw_parameters(channels: int, spread: float, n: int = 1, size: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, logistics.n_parameters(channels), size, size)
    return spread * torch.randn(shape, generator=generator)


def pixels_of(*channels: torch.Tensor) -> torch.Tensor:
    """(256, C, 1, 1) uint8 from a channel's 256 values or one value for them all."""
    return torch.stack([c.expand(256) for c in channels], dim=1)[:, :, None, None]


def log_prob(likelihood, raw, pixels):
    x = likelihood.observe(pixels, torch.zeros(pixels.shape))
    return likelihood.log_prob(raw.expand(len(x), -1, -1, -1), x)


def by_definition(raw: np.ndarray, pixel: np.ndarray) -> float:
    """log p of one pixel, float64, straight from the paper's formula."""
    n, channels = 10, len(pixel)
    logits, rest = raw[:n], raw[n:].reshape(-1, n)
    means = rest[:channels] + (2 * np.arange(n) + 1) / n - 1
    scales = np.exp(-np.clip(rest[channels : 2 * channels] + 1.5, -2, 7))
    coefficients = np.tanh(rest[2 * channels :])
    x = pixel / 127.5 - 1
    total = np.zeros(n)
    for c in range(channels):
        mu = means[c].copy()
        if c == 1:
            mu += coefficients[0] * x[0]
        if c == 2:
            mu += coefficients[1] * x[0] + coefficients[2] * x[1]
        upper = 1.0 if pixel[c] == 255 else expit((x[c] + 1 / 255 - mu) / scales[c])
        lower = 0.0 if pixel[c] == 0 else expit((x[c] - 1 / 255 - mu) / scales[c])
        total += np.log(upper - lower)
    weights = logits - np.log(np.exp(logits).sum())
    return float(np.log(np.exp(weights + total).sum()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixel", [(0, 0, 255), (255, 0, 0), (1, 254, 128), (90, 91, 92)])
def test_it_is_the_papers_formula(channels, pixel):
    raw = raw_parameters(channels, 0.7)
    pixels = torch.tensor(pixel[:channels], dtype=torch.uint8)[None, :, None, None]
    found = log_prob(DiscretizedLogistics(channels), raw, pixels)
    expected = by_definition(raw.double().flatten().numpy(), np.array(pixel[:channels], float))
    assert found.item() == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(spread=st.sampled_from([0.0, 0.3, 1.0, 4.0]), seed=st.integers(0, 99))
def test_grey_values_sum_to_one(spread, seed):
    raw = raw_parameters(1, spread, seed=seed)
    log_p = log_prob(DiscretizedLogistics(1), raw, pixels_of(VALUES))
    assert log_p.double().exp().sum().item() == pytest.approx(1.0, abs=2e-4)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    spread=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    seed=st.integers(0, 99),
    red=st.sampled_from([0, 7, 128, 255]),
    green=st.sampled_from([0, 100, 255]),
)
def test_each_channel_sums_to_one_given_those_before(spread, seed, red, green):
    """p(r,g,b) over b is p(r,g), that over g is p(r), and p(r) is a grey model's."""
    likelihood, raw = DiscretizedLogistics(3), raw_parameters(3, spread, seed=seed)
    red, green = torch.tensor(red, dtype=torch.uint8), torch.tensor(green, dtype=torch.uint8)
    over_blue = log_prob(likelihood, raw, pixels_of(red, green, VALUES)).double().logsumexp(0)
    over_green = log_prob(likelihood, raw, every_green_and_blue(red)).double()
    over_green = over_green.unflatten(0, (256, 256)).logsumexp(1)  # p(r, g) for every g
    assert over_blue.item() == pytest.approx(over_green[int(green)].item(), abs=2e-4)
    grey = torch.cat([raw.unflatten(1, (-1, 10))[:, [i]] for i in (0, 1, 4)], dim=1).flatten(1, 2)
    of_red = log_prob(DiscretizedLogistics(1), grey, pixels_of(red))[0]
    assert over_green.logsumexp(0).item() == pytest.approx(of_red.item(), abs=2e-4)


def every_green_and_blue(red: torch.Tensor) -> torch.Tensor:
    """(65536, 3, 1, 1): one red, all greens, and for each all blues."""
    pairs = torch.cartesian_prod(VALUES, VALUES)
    return torch.cat([red.expand(len(pairs), 1), pairs], dim=1)[:, :, None, None]


def test_the_gradient_is_that_of_the_value():
    """Also where a scale is clipped, and at both ends of the range."""
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        shape = (5, logistics.n_parameters(channels), 2)
        raw = (2.0 * torch.randn(shape, generator=generator)).double().requires_grad_()
        x = torch.randint(0, 256, (5, channels, 2), generator=generator) / 127.5 - 1.0
        x[0], x[1] = -1.0, 1.0
        assert torch.autograd.gradcheck(logistics._LogProb.apply, (raw, x.double()), fast_mode=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 300.0])
def test_log_probabilities_and_gradients_are_finite(channels, spread):
    """Also where every component misses the pixel by hundreds of its scales."""
    raw = raw_parameters(channels, spread, n=4, size=8).requires_grad_()
    pixels = torch.randint(0, 2, (4, channels, 8, 8)).mul(255).to(torch.uint8)
    log_p = log_prob(DiscretizedLogistics(channels), raw, pixels)
    log_p.sum().backward()
    assert torch.isfinite(log_p).all() and (log_p <= 0).all() and torch.isfinite(raw.grad).all()


def test_bfloat16_autocast_computes_in_float32():
    likelihood, raw = DiscretizedLogistics(3), raw_parameters(3, 1.0, n=2, size=4)
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    half = raw.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = log_prob(likelihood, half, pixels)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, log_prob(likelihood, half.float(), pixels))


def test_samples_share_their_image():
    likelihood = DiscretizedLogistics(3)
    raw = raw_parameters(3, 1.0, n=6, size=4)
    x = likelihood.observe(torch.randint(0, 256, (2, 3, 4, 4)).to(torch.uint8), torch.zeros(()))
    one_by_one = [likelihood.log_prob(raw[i : i + 1], x[i % 2 : i % 2 + 1]) for i in range(6)]
    torch.testing.assert_close(likelihood.log_prob(raw, x), torch.cat(one_by_one))


def test_observing_is_exact_without_noise():
    likelihood = DiscretizedLogistics(1)
    x = likelihood.observe(VALUES, torch.rand(256))
    assert x.dtype == torch.float32 and x[0] == -1.0 and x[255] == 1.0
    assert torch.equal(((x + 1.0) * 127.5).round().to(torch.uint8), VALUES)


def test_dequantising_keeps_each_value_in_its_bin():
    likelihood = DiscretizedLogistics(1, dequantize=True)
    low = likelihood.observe(VALUES, torch.zeros(256))
    high = likelihood.observe(VALUES, torch.full((256,), 0.999))
    assert (low >= -1).all() and (high < 1).all() and (high[:-1] < low[1:]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_narrow_components_show_their_own_mean(channels):
    """Where no component reaches an end, the mean shown is E[x|z] over all 256 values."""
    likelihood = DiscretizedLogistics(channels)
    raw = raw_parameters(channels, 0.02)
    blocks = raw.unflatten(1, (-1, 10))
    blocks[:, 1 : 1 + channels] *= 5.0
    blocks[:, 1 : 1 + channels, [0, 1, 8, 9]] = 0.0
    blocks[:, 0, [0, 1, 2, 7, 8, 9]] = -30.0  # the components near the ends have no weight
    blocks[:, 1 + channels : 1 + 2 * channels] += 3.0
    raw = blocks.flatten(1, 2)
    x = likelihood.observe(pixels_of(VALUES), torch.zeros(()))
    if channels == 1:
        p = log_prob(likelihood, raw, pixels_of(VALUES)).exp()
        expected = (p * VALUES / 255.0).sum()
        assert likelihood.mean(raw).item() == pytest.approx(expected.item(), abs=1e-3)
        return
    generator = torch.Generator().manual_seed(1)
    x = sample(logistics.mixture(raw, 3), 100_000, generator)
    shown = likelihood.mean(raw).flatten()
    torch.testing.assert_close(shown, 0.5 + 0.5 * x.mean(0), atol=4e-3, rtol=0)


def sample(parameters, n, generator):
    """n RGB pixels of a (1, ..., 1, 1) mixture, (n, 3), by drawing a component first."""
    pi = parameters.logits.flatten().softmax(0)
    j = torch.multinomial(pi, n, replacement=True, generator=generator)
    means = parameters.means[0, :, :, 0, 0]
    scales = (-parameters.log_sharpness[0, :, :, 0, 0]).exp()
    a, b, c = parameters.coefficients[0, :, :, 0, 0]
    u = torch.rand(3, n, generator=generator).clamp(1e-6, 1 - 1e-6)
    noise = scales[:, j] * u.logit()
    red = (means[0, j] + noise[0]).clamp(-1, 1)
    green = (means[1, j] + a[j] * red + noise[1]).clamp(-1, 1)
    blue = (means[2, j] + b[j] * red + c[j] * green + noise[2]).clamp(-1, 1)
    return torch.stack((red, green, blue), dim=1)


def test_the_mean_stays_within_the_range():
    mean = DiscretizedLogistics(3).mean(raw_parameters(3, 20.0, n=2, size=8))
    assert mean.shape == (2, 3, 8, 8) and (mean >= 0).all() and (mean <= 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_zero_and_raw_noise_start_below_nine_bits(channels):
    """On uniform noise, where 8 bits/dim is the least that any model reaches."""
    pixels = torch.randint(0, 256, (2, channels, 32, 32), dtype=torch.uint8)
    for spread, limit in ((0.0, 8.7), (0.5, 9.0)):
        raw = raw_parameters(channels, spread, n=2, size=32)
        log_p = log_prob(DiscretizedLogistics(channels), raw, pixels)
        bits = bits_per_dim(log_p, channels * 32 * 32)
        assert (bits < limit).all() and (bits > 8.0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_untrained_mixture_moves_as_one(channels):
    """Whatever the features say, it says to all ten components; colours go together."""
    torch.manual_seed(0)
    likelihood = DiscretizedLogistics(channels, stride=2)
    last = nn.Conv2d(6, likelihood.n_parameters * 4, 1)
    likelihood.initialise(last)
    with torch.no_grad():
        raw = last(torch.randn(3, 6, 4, 4)).unflatten(1, (likelihood.n_parameters, 4))
    mixture = logistics.mixture(raw, channels)
    start = logistics.mixture(torch.zeros_like(raw), channels)
    moved = mixture.means - start.means  # (N, C, K, ...)
    assert torch.allclose(moved, moved[:, :, :1].expand_as(moved), atol=1e-6)
    assert moved.std() > 0.1, "and it does move"
    assert torch.allclose(
        mixture.log_sharpness, mixture.log_sharpness[:, :, :1].expand_as(mixture.log_sharpness)
    )
    for i, expected in enumerate((np.tanh(1.0), 0.0, np.tanh(1.0))[: 3 * (channels == 3)]):
        assert mixture.coefficients[:, i].mean().item() == pytest.approx(expected, abs=0.1)


# -- the probability integral transform ------------------------------------------------------------


def grey_mixture(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, logistics.n_parameters(1), 1, generator=torch.manual_seed(seed))


def test_the_transform_is_the_sum_of_the_probabilities_below():
    """Of a grey pixel at each of its 256 values: no probability is left out, and none is twice."""
    raw = grey_mixture(1, 0).expand(256, -1, -1)
    x = (torch.arange(256.0) / 127.5 - 1.0).view(256, 1, 1)
    p = logistics.log_prob(raw, x).exp().flatten()  # (256,)
    upper = torch.cumsum(p, 0)
    for share in (0.0, 0.25, 1.0):
        level = logistics.pit(raw, x, torch.full_like(x, share)).flatten()
        torch.testing.assert_close(level, upper - p + share * p, atol=1e-5, rtol=0.0)


def test_of_values_that_the_model_draws_the_transform_is_uniform():
    """Each colour given the pixel's earlier ones, too; a model that is wrong is not uniform."""
    n, generator = 4000, torch.Generator().manual_seed(0)
    raw = torch.randn(1, logistics.n_parameters(3), 1, generator=generator).expand(n, -1, -1)
    values = torch.arange(256.0) / 127.5 - 1.0
    x = torch.zeros(n, 3, 1)
    for channel in range(3):  # by the transform itself at uniform 1, which is monotone in the value
        wanted = torch.rand(n, generator=generator)
        low, high = torch.zeros(n, dtype=torch.long), torch.full((n,), 255)
        while (low < high).any():
            middle = (low + high) // 2
            x[:, channel, 0] = values[middle]
            reached = logistics.pit(raw, x, torch.ones_like(x))[:, channel, 0] >= wanted
            low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
        x[:, channel, 0] = values[low.clamp(max=255)]
    levels = logistics.pit(raw, x, torch.rand(x.shape, generator=generator))
    for level in levels.squeeze(2).T:
        assert kstest(level.numpy(), "uniform").pvalue > 1e-3
    other = logistics.pit(raw.roll(1, dims=1), x, torch.rand(x.shape, generator=generator))
    assert kstest(other[:, 0, 0].numpy(), "uniform").pvalue < 1e-6


def test_what_is_left_of_the_noise_that_binarised_is_uniform_whatever_came_of_it():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.full((20_000, 1, 1, 1), 60, dtype=torch.uint8)
    uniform = torch.rand(pixels.shape, generator=generator)
    likelihood = Bernoulli()
    x, left = likelihood.observe(pixels, uniform), likelihood.remainder(pixels, uniform)
    for value in (0.0, 1.0):
        assert kstest(left[x == value].numpy(), "uniform").pvalue > 1e-3
    logit = torch.full((1, 1, 1, 1), float(np.log(60 / 195)))  # what the pixels are drawn with
    level = likelihood.pit(logit.expand(len(x), 1, 1, 1), x, left).flatten()
    assert kstest(level.numpy(), "uniform").pvalue > 1e-3
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert (likelihood.remainder(ends, torch.full((2, 1, 1, 1), 0.5)) - 0.5).abs().max() < 1e-6
