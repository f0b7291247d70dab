"""Mixture of discretised logistics: p(x | z) of 8-bit grey or RGB pixels (Salimans et al., 2017).

A pixel is a mixture of K = 10 components. In component j each channel is a logistic variable,
rounded to the 256 values that a channel can take; what lies beyond 0 or 255 counts as 0 or 255.
In an RGB pixel, green's location depends on the red value and blue's on both:

    p(r, g, b) = sum_j pi_j P(r; mu_j^r) P(g; mu_j^g + a_j r) P(b; mu_j^b + b_j r + c_j g)

Values are scaled to [-1, 1], so neighbours stand 2/255 apart. "..." in a shape is any arrangement
of an image's pixels. A network's raw output of zero is a
sensible mixture: locations spread evenly over the range, scales of about a tenth of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

N_COMPONENTS = 10

_HALF_BIN = 1.0 / 255.0
_FAR = 1e30  # stands for infinity, and unlike it times 0 is 0: gradients stay finite
_RAW_LOG_SHARPNESS = 1.5  # of a raw 0
# A component with a scale below e^-7 fits into a bin; of one at e^2 all but a tenth lies beyond
# both ends.
_LOG_SHARPNESS = (-2.0, 7.0)


class Mixture(NamedTuple):
    """The parameters of N images' pixels, K components each; C = 1 or 3 channels."""

    logits: Tensor  # (N, K, ...): of pi
    means: Tensor  # (N, C, K, ...): mu
    sharpness: Tensor  # (N, C, K, ...): 1 / scale
    coefficients: Tensor  # (N, 3, K, ...): a, b and c in (-1, 1); (N, 0, K, ...) for grey


def n_parameters(channels: int) -> int:
    """Numbers a pixel: K logits, C K locations, C K scales and, for RGB, 3 K coefficients."""
    return N_COMPONENTS * (1 + 2 * channels + (3 if channels == 3 else 0))


def mixture(raw: Tensor, channels: int) -> Mixture:
    """A decoder's output (N, n_parameters, ...) as a mixture, in float32."""
    n_channels = (1, channels, channels, raw.shape[1] // N_COMPONENTS - 1 - 2 * channels)
    blocks = raw.unflatten(1, (-1, N_COMPONENTS)).split(n_channels, dim=1)
    logits, means, log_sharpness, coefficients = blocks
    n = N_COMPONENTS
    spread = (2.0 * torch.arange(n, device=raw.device) + 1.0) / n - 1.0  # (K,)
    spread = spread.view(-1, *[1] * (raw.dim() - 2))
    return Mixture(
        logits.squeeze(1),
        means + spread,
        F.hardtanh(log_sharpness + _RAW_LOG_SHARPNESS, *_LOG_SHARPNESS).exp(),
        2.0 * torch.sigmoid(2.0 * coefficients) - 1.0,  # tanh, in a fifth of its time
    )


def log_prob(parameters: Mixture, x: Tensor) -> Tensor:
    """log p(x | z) in nats, summed over pixels: (N,). x: (N, C, ...), 8-bit values as [-1, 1]."""
    x = x.contiguous().unsqueeze(2)  # (N, C, 1, ...)
    means = torch.stack(list(_locations(parameters, x.unbind(1))), dim=1)  # (N, C, K, ...)
    # A bin's two sides. The outermost bins reach to infinity.
    upper = torch.where(x > 1.0 - _HALF_BIN, _FAR, x + _HALF_BIN)
    lower = torch.where(x < -1.0 + _HALF_BIN, -_FAR, x - _HALF_BIN)
    sharpness = parameters.sharpness
    components = _log_interval(
        (lower - means) * sharpness, (upper - means) * sharpness, (lower - upper) * sharpness
    )
    joint = parameters.logits + components.sum(1)  # (N, K, ...)
    log_p: Tensor = joint.logsumexp(1) - parameters.logits.logsumexp(1)  # (N, ...)
    return log_p.flatten(1).sum(1)


def mean(parameters: Mixture) -> Tensor:
    """The mean that is shown for x: (N, C, ...) in [-1, 1].

    The expected location, sum_j pi_j m_j with m_j^r = mu_j^r, m_j^g = mu_j^g + a_j m_j^r and
    m_j^b = mu_j^b + b_j m_j^r + c_j m_j^g, each m held to [-1, 1] as a pixel is. For components
    well inside the range it is E[x | z]; one that reaches beyond an end is shown at that end.
    """
    located: list[Tensor] = []  # of (N, K, ...)
    for location in _locations(parameters, located):
        located.append(location.clamp(-1.0, 1.0))
    weights = parameters.logits.softmax(1).unsqueeze(1)  # (N, 1, K, ...)
    return (weights * torch.stack(located, 1)).sum(2)


def _log_interval(lower: Tensor, upper: Tensor, minus_width: Tensor) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)) elementwise, minus_width = lower - upper < 0.

    With s = sigmoid: s(u) - s(l) = (1 - e^(l-u)) s(u) s(-l), and s(t) = s(|t|) e^min(t, 0). So
    one logarithm takes factors between 1/2 and 1, however far from the interval the mass is,
    and a side at infinity drops out. (softplus and log1p cost ten times an exp on a CPU.)
    """
    factors = (1.0 - minus_width.exp()) * upper.abs().sigmoid() * lower.abs().sigmoid()
    # hardtanh is min(upper, 0), with a gradient ten times faster than clamp's
    return factors.log() + (F.hardtanh(upper, -math.inf, 0.0) - F.relu(lower))


def _locations(parameters: Mixture, before: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each channel's locations in turn, (N, K, ...), given the pixel's channels before it.

    before: may grow meanwhile; a channel reads the entries that precede its own.
    """
    coefficients = iter(parameters.coefficients.unbind(1))  # a for green, b and c for blue
    for channel, location in enumerate(parameters.means.unbind(1)):
        for value in before[:channel]:
            location = location + next(coefficients) * value  # noqa: PLW2901
        yield location
