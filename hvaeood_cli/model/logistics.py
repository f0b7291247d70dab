"""Mixture of discretised logistics: p(x | z) of 8-bit grey or RGB pixels (Salimans et al., 2017).

A pixel is a mixture of K = 10 components. In component j each channel is a logistic variable,
rounded to the 256 values that a channel can take; what lies beyond 0 or 255 counts as 0 or 255.
In an RGB pixel, green's location depends on the red value and blue's on both:

    p(r, g, b) = sum_j pi_j P(r; mu_j^r) P(g; mu_j^g + a_j r) P(b; mu_j^b + b_j r + c_j g)

Values are scaled to [-1, 1], so neighbours stand 2/255 apart. A network's raw output of zero is a
sensible mixture: locations spread evenly over the range, scales of a ninth of it. In shapes,
"..." is any arrangement of an image's pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

N_COMPONENTS = 10

_HALF_BIN = 1.0 / 255.0
_TINY = 1e-37
_FAR = 1e30  # stands for infinity, and unlike it times 0 is 0: gradients stay finite
_RAW_LOG_SHARPNESS = 1.5  # of a raw 0
# A component with a scale below e^-7 fits into a bin; of one at e^2, 93 % lies beyond the ends.
_LOG_SHARPNESS = (-2.0, 7.0)
# Which channel's location depends on which earlier one, through a, b and c.
_DEPENDENCIES = ((1, 0), (2, 0), (2, 1))
_PIXELS_AT_A_TIME = 4096  # on a CPU: what its cache holds


class Mixture(NamedTuple):
    """The parameters of N images' pixels, K components each; C = 1 or 3 channels."""

    logits: Tensor  # (N, K, ...): of pi
    means: Tensor  # (N, C, K, ...): mu
    sharpness: Tensor  # (N, C, K, ...): 1 / scale
    unclipped: Tensor  # (N, C, K, ...): where the scale is within its limits
    coefficients: Tensor  # (N, 3, K, ...): a, b and c in (-1, 1); (N, 0, K, ...) for grey


def n_parameters(channels: int) -> int:
    """Numbers for a pixel: K logits, C K locations, C K scales and, for RGB, 3 K coefficients."""
    return N_COMPONENTS * (1 + 2 * channels + (3 if channels == 3 else 0))


def mixture(raw: Tensor, channels: int) -> Mixture:
    """A decoder's output (N, n_parameters, ...) as a mixture."""
    n_channels = (1, channels, channels, raw.shape[1] // N_COMPONENTS - 1 - 2 * channels)
    blocks = raw.unflatten(1, (-1, N_COMPONENTS)).split(n_channels, dim=1)
    logits, means, log_sharpness, coefficients = blocks
    n = N_COMPONENTS
    spread = (2.0 * torch.arange(n, device=raw.device) + 1.0) / n - 1.0  # (K,)
    spread = spread.view(-1, *[1] * (raw.dim() - 2))
    log_sharpness = log_sharpness + _RAW_LOG_SHARPNESS
    clipped = F.hardtanh(log_sharpness, *_LOG_SHARPNESS)  # clamp, only faster
    return Mixture(
        logits.squeeze(1),
        means + spread,
        clipped.exp(),
        clipped == log_sharpness,
        2.0 * torch.sigmoid(2.0 * coefficients) - 1.0,  # tanh, in a fifth of its time
    )


@torch.no_grad()
def start_as_one(weight: Tensor, bias: Tensor, channels: int) -> None:
    """Before training, let the K components of a pixel move as one, and its channels together.

    weight: (n_parameters, ...) and bias: (n_parameters, ...) of a decoder's last layer, changed in
    place. Otherwise the location of each component would start in a direction of its own, and the
    mixture would stay wide until all had turned to the pixel's value. Green and blue start near
    red, as they are in most images.
    """
    n = N_COMPONENTS
    logits, located, coefficients = weight.split(
        [n, 2 * channels * n, len(weight) - n - 2 * channels * n]
    )
    by_component = located.unflatten(0, (-1, n))  # (2 C, K, ...): locations and scales
    by_component.copy_(by_component[:, :1].clone().expand_as(by_component))
    logits.mul_(0.1)
    coefficients.mul_(0.1)
    bias.zero_()
    for i in (0, 2)[: len(coefficients) // n]:  # a and c; b would count red twice
        bias[len(bias) - len(coefficients) + i * n :][:n] = 1.0


def log_prob(raw: Tensor, x: Tensor) -> Tensor:
    """log p(x_i | z) in nats of each pixel, all its channels together: (N, ...).

    raw: (N, n_parameters, ...); x: (N, C, ...), 8-bit values as [-1, 1].
    """
    log_p: Tensor = _LogProb.apply(raw.float().contiguous(), x.contiguous())
    return log_p


class _LogProb(torch.autograd.Function):
    """`log_prob`, a few images at a time, with the gradient that autograd would find.

    A dozen operations on a hundred numbers for each pixel fill more than a processor's cache, and
    autograd keeps them all. Taking a few images at a time, and computing the gradient on the way
    forward from the values at hand, needs 0.6 of autograd's time.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, x: Tensor) -> Tensor:
        few_at_a_time = raw.device.type == "cpu" and not torch.compiler.is_exporting()
        n_images = max(1, _PIXELS_AT_A_TIME // x[0, 0].numel()) if few_at_a_time else len(raw)
        gradient = torch.empty_like(raw) if ctx.needs_input_grad[0] else None
        log_p = raw.new_empty(len(raw), *raw.shape[2:])
        for begin in range(0, len(raw), n_images):
            few = slice(begin, begin + n_images)
            log_p[few] = _evaluate(raw[few], x[few], None if gradient is None else gradient[few])
        ctx.save_for_backward(gradient)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_p: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_log_p.unsqueeze(1), None


def _evaluate(raw: Tensor, x: Tensor, gradient: Tensor | None) -> Tensor:
    """log p(x_i | z), (N, ...) nats. gradient: filled with its own, (N, n_parameters, ...)."""
    parameters = mixture(raw, x.shape[1])
    before = x.split(1, dim=1)  # C times (N, 1, ...)
    x = x.unsqueeze(2)  # (N, C, 1, ...)
    means = torch.stack(list(_locations(parameters, before)), dim=1)  # (N, C, K, ...)
    # A bin's two sides, in scales from the location. The outermost bins reach to infinity.
    upper = torch.where(x > 1.0 - _HALF_BIN, _FAR, x + _HALF_BIN)
    lower = torch.where(x < -1.0 + _HALF_BIN, -_FAR, x - _HALF_BIN)
    minus_width = (lower - upper) * parameters.sharpness
    upper = (upper - means).mul_(parameters.sharpness)
    lower = (lower - means).mul_(parameters.sharpness)

    # log(s(u) - s(l)) with s = sigmoid: s(u) - s(l) = (1 - e^(l-u)) s(u) s(-l), and
    # s(t) = s(|t|) e^min(t, 0). So one logarithm takes factors that do not vanish, however far
    # from the bin the mass is, and a side at infinity drops out. (softplus and log1p, the usual
    # way, cost ten times an exp on a CPU.)
    decay = minus_width.exp()
    inside = 1.0 - decay
    factors = upper.abs().sigmoid_().mul_(lower.abs().sigmoid_()).mul_(inside)
    components = factors.log_().sub_(F.relu(-upper)).sub_(F.relu(lower))  # (N, C, K, ...)
    joint = parameters.logits + components.sum(1)  # (N, K, ...)
    total = joint.logsumexp(1, keepdim=True)  # (N, 1, ...)
    normaliser = parameters.logits.logsumexp(1, keepdim=True)
    log_p = (total - normaliser).squeeze(1)
    if gradient is None:
        return log_p

    # d/du = s(-u) + w and d/dl = -s(l) - w with w = e^(l-u) / (1 - e^(l-u)); u and l are
    # sharpness times something minus the location, so w drops out of the location's gradient.
    responsibility = (joint - total).exp_()  # (N, K, ...): p(j | x)
    each = responsibility.unsqueeze(1)
    s_upper, s_lower = upper.sigmoid(), lower.sigmoid()
    of_means = (s_upper + s_lower).sub_(1.0).mul_(parameters.sharpness).mul_(each)
    of_sharpness = upper.mul_(1.0 - s_upper).sub_(lower.mul_(s_lower))  # of its logarithm
    of_sharpness.sub_(decay.div_(inside).mul_(minus_width)).mul_(each).mul_(parameters.unclipped)
    of_coefficients = [
        (1.0 - parameters.coefficients[:, i].square()) * of_means[:, channel] * before[earlier]
        for i, (channel, earlier) in enumerate(_DEPENDENCIES[: parameters.coefficients.shape[1]])
    ]
    of_logits = responsibility - (parameters.logits - normaliser).exp_()
    parts = (of_logits, of_means.flatten(1, 2), of_sharpness.flatten(1, 2), *of_coefficients)
    torch.cat(parts, dim=1, out=gradient)
    return log_p


def pit(raw: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
    """P(below x) + uniform * P(x) of each channel, given the pixel's earlier ones: (N, C, ...).

    raw: (N, n_parameters, ...); x and uniform: (N, C, ...).
    """
    few_at_a_time = raw.device.type == "cpu" and not torch.compiler.is_exporting()
    n_images = max(1, _PIXELS_AT_A_TIME // x[0, 0].numel()) if few_at_a_time else len(raw)
    parts = (part.split(n_images) for part in (raw, x, uniform))
    return torch.cat([_pit(*few) for few in zip(*parts, strict=True)])


def _pit(raw: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
    parameters, channels = mixture(raw, x.shape[1]), x.shape[1]
    weights = parameters.logits.softmax(1)  # (N, K, ...): of the components, given earlier channels
    levels = []
    for channel, location in enumerate(_locations(parameters, x.split(1, dim=1))):
        value, sharpness = x[:, channel : channel + 1], parameters.sharpness[:, channel]
        upper = torch.where(value > 1.0 - _HALF_BIN, _FAR, value + _HALF_BIN)
        lower = torch.where(value < -1.0 + _HALF_BIN, -_FAR, value - _HALF_BIN)
        below = (lower - location).mul_(sharpness).sigmoid_()
        mass = (upper - location).mul_(sharpness).sigmoid_().sub_(below)  # (N, K, ...)
        total = mass.mul_(weights).sum(1)
        levels.append(below.mul_(weights).sum(1).addcmul_(uniform[:, channel], total))
        if channel + 1 < channels:
            # Where no component has any mass, as the model has failed, they stay as they are.
            share = mass.div_(total.unsqueeze(1).clamp(min=_TINY))
            weights = torch.where((total > 0.0).unsqueeze(1), share, weights)
    return torch.stack(levels, dim=1)


def mean(parameters: Mixture) -> Tensor:
    """The mean of x, for showing: (N, C, ...) in [-1, 1].

    The expected location, sum_j pi_j m_j with m_j^r = mu_j^r, m_j^g = mu_j^g + a_j m_j^r and
    m_j^b = mu_j^b + b_j m_j^r + c_j m_j^g, each m held to [-1, 1] as a pixel is. For components
    well inside the range it is E[x | z]; one that reaches beyond an end is shown at that end.
    """
    located: list[Tensor] = []  # of (N, K, ...)
    for location in _locations(parameters, located):
        located.append(location.clamp(-1.0, 1.0))
    weights = parameters.logits.softmax(1).unsqueeze(1)  # (N, 1, K, ...)
    return (weights * torch.stack(located, 1)).sum(2)


def _locations(parameters: Mixture, before: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each channel's locations in turn, (N, K, ...), given the pixel's channels before it.

    before: the values of earlier channels, (N, 1 or K, ...) each; the list may grow meanwhile.
    """
    for channel, location in enumerate(parameters.means.unbind(1)):
        for i, (dependent, earlier) in enumerate(_DEPENDENCIES):
            if dependent == channel:
                location = location + parameters.coefficients[:, i] * before[earlier]  # noqa: PLW2901
        yield location
