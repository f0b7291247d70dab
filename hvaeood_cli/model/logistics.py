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
    log_sharpness: Tensor  # (N, C, K, ...): -log scale, within its limits
    coefficients: Tensor  # (N, 3, K, ...): a, b and c in (-1, 1); (N, 0, K, ...) for grey


def n_parameters(channels: int) -> int:
    """Numbers for a pixel: K logits, C K locations, C K scales and, for RGB, 3 K coefficients."""
    return N_COMPONENTS * (1 + 2 * channels + (3 if channels == 3 else 0))


@torch.no_grad()
def mixture(raw: Tensor, channels: int, in_place: bool = False) -> Mixture:
    """A decoder's output (N, n_parameters, ...) as a mixture. in_place: it overwrites that."""
    n_channels = (1, channels, channels, raw.shape[1] // N_COMPONENTS - 1 - 2 * channels)
    blocks = raw.unflatten(1, (-1, N_COMPONENTS)).split(n_channels, dim=1)
    logits, means, log_sharpness, coefficients = blocks
    n = N_COMPONENTS
    spread = (2.0 * torch.arange(n, device=raw.device) + 1.0) / n - 1.0  # (K,)
    spread = spread.view(-1, *[1] * (raw.dim() - 2))
    add, mul = (Tensor.add_, Tensor.mul_) if in_place else (Tensor.add, Tensor.mul)
    log_sharpness = add(log_sharpness, _RAW_LOG_SHARPNESS)
    return Mixture(
        logits.squeeze(1),
        add(means, spread),
        F.hardtanh_(log_sharpness, *_LOG_SHARPNESS),  # clamp, only faster
        mul(coefficients, 2.0).sigmoid_().mul_(2.0).sub_(1.0),  # tanh, in a fifth of its time
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

    raw: (N, n_parameters, ...), of any layout; x: (N, C, ...), 8-bit values as [-1, 1].
    """
    log_p: Tensor = _LogProb.apply(raw, x.contiguous())
    return log_p


class _LogProb(torch.autograd.Function):
    """`log_prob`, a few images at a time, with the gradient that autograd would find.

    A dozen operations on a hundred numbers for each pixel fill more than a processor's cache, and
    autograd keeps them all. Taking a few images at a time, always in the same memory, and computing
    the gradient on the way forward from the values at hand, needs 0.6 of autograd's time.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return _evaluate(_in_planes(raw), x, [None] * 7, None)
        n_images = _images_at_a_time(raw)
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = raw.new_empty(raw.shape, dtype=torch.float32)
        log_p = x.new_empty(len(raw), *raw.shape[2:])
        planes = x.new_empty(n_images, *raw.shape[1:])
        room = x.new_empty(7, n_images, x.shape[1], N_COMPONENTS, *raw.shape[2:])
        for begin in range(0, len(raw), n_images):
            few = slice(begin, begin + n_images)
            n = len(raw[few])
            of_few = None if gradient is None else gradient[few]
            log_p[few] = _evaluate(planes[:n].copy_(raw[few]), x[few], room[:, :n].unbind(), of_few)
        ctx.save_for_backward(gradient)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_p: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_log_p.unsqueeze(1), None


def _images_at_a_time(raw: Tensor) -> int:
    """How many images of (N, n_parameters, ...) are taken at once: on a CPU, few."""
    if raw.device.type != "cpu":
        return len(raw)
    return min(len(raw), max(1, _PIXELS_AT_A_TIME // raw[0, 0].numel()))


def _in_planes(raw: Tensor) -> Tensor:
    """Each parameter's numbers side by side, in float32: twice as fast as channels last."""
    return raw.float().contiguous()


def _evaluate(
    raw: Tensor, x: Tensor, room: Sequence[Tensor | None], gradient: Tensor | None
) -> Tensor:
    """log p(x_i | z), (N, ...) nats.

    raw: (N, n_parameters, ...), float32 in planes. room: seven tensors (N, C, K, ...) to compute
    in, since on a CPU one that is new takes several times as long; raw is then overwritten, too.
    gradient: (N, n_parameters, ...), to be filled with log p's own.
    """
    parameters = mixture(raw, x.shape[1], in_place=room[0] is not None)
    sharpness = torch.exp(parameters.log_sharpness, out=room[0])  # (N, C, K, ...), as all below
    before = x.split(1, dim=1)  # C times (N, 1, ...)
    located = zip(before, _locations(parameters, before), strict=True)
    lower = torch.stack([value - location for value, location in located], dim=1, out=room[1])
    # A bin's two sides, in scales from the location. The outermost bins reach to infinity.
    x = x.unsqueeze(2)  # (N, C, 1, ...)
    above = torch.where(x > 1.0 - _HALF_BIN, _FAR, _HALF_BIN)
    below = torch.where(x < -1.0 + _HALF_BIN, _FAR, _HALF_BIN)
    upper = torch.add(lower, above, out=room[2]).mul_(sharpness)
    lower.sub_(below).mul_(sharpness)
    minus_width = torch.mul(sharpness, -(above + below), out=room[3])

    # With s = sigmoid: s(u) - s(l) = (1 - e^(l-u)) s(u) s(-l), and s(t) = s(|t|) e^min(t, 0). So
    # P(x) is e^far times a product of factors that do not vanish, however far from the bin the
    # mass is, and a side at infinity drops out: a pixel needs one logarithm, not one for each
    # component. (softplus and log1p, the usual way, cost ten times an exp on a CPU.)
    inside = torch.exp(minus_width, out=room[4]).neg_().add_(1.0)
    far = torch.clamp(upper, max=0.0, out=room[5]).sum(1)  # (N, K, ...)
    far.sub_(torch.clamp(lower, min=0.0, out=room[5]).sum(1))
    factors = torch.abs(upper, out=room[5]).sigmoid_().mul_(inside)
    factors.mul_(torch.abs(lower, out=room[6]).sigmoid_())
    logits = parameters.logits
    exponent = far.add_(logits)
    largest = exponent.amax(1, keepdim=True)  # (N, 1, ...)
    joint = exponent.sub_(largest).exp_()
    for factor in factors.unbind(1):
        joint.mul_(factor)  # in the end pi_j P_j(x), but for a factor of all j
    total = joint.sum(1, keepdim=True)
    normaliser = logits.logsumexp(1, keepdim=True)
    log_p = (total.log() + largest - normaliser).squeeze(1)
    if gradient is None:
        return log_p

    # d/du = s(-u) + w and d/dl = -s(l) - w with w = e^(l-u) / (1 - e^(l-u)); u and l are
    # sharpness times something minus the location, so w drops out of the location's gradient.
    channels, n_coefficients = x.shape[1], parameters.coefficients.shape[1]
    of_logits, of_means, of_sharpness, of_coefficients = gradient.unflatten(
        1, (-1, N_COMPONENTS)
    ).split((1, channels, channels, n_coefficients), dim=1)
    responsibility = joint.div_(total)  # (N, K, ...): p(j | x)
    each = responsibility.unsqueeze(1)
    s_upper = torch.sigmoid(upper, out=room[5])
    s_lower = torch.sigmoid(lower, out=room[6])
    torch.add(s_upper, s_lower, out=of_means).sub_(1.0).mul_(sharpness).mul_(each)
    torch.sub(1.0, s_upper, out=of_sharpness).mul_(upper).sub_(s_lower.mul_(lower))
    of_sharpness.sub_(minus_width.div_(inside).mul_(1.0 - inside)).mul_(each)  # of its logarithm
    least, most = _LOG_SHARPNESS
    of_sharpness.mul_((parameters.log_sharpness > least) & (parameters.log_sharpness < most))
    for i, (channel, earlier) in enumerate(_DEPENDENCIES[:n_coefficients]):
        slope = 1.0 - parameters.coefficients[:, i].square()
        of_coefficients[:, i] = slope.mul_(of_means[:, channel]).mul_(before[earlier])
    torch.sub(responsibility, (logits - normaliser).exp_(), out=of_logits[:, 0])
    return log_p


def pit(raw: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
    """P(below x) + uniform * P(x) of each channel, given the pixel's earlier ones: (N, C, ...).

    raw: (N, n_parameters, ...), of any layout; x and uniform: (N, C, ...).
    """
    if torch.compiler.is_exporting():
        return _pit(_in_planes(raw), x, uniform)
    parts = (part.split(_images_at_a_time(raw)) for part in (raw, x, uniform))
    return torch.cat([_pit(_in_planes(few), *others) for few, *others in zip(*parts, strict=True)])


def _pit(raw: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
    channels = x.shape[1]
    parameters = mixture(raw, channels)
    weights = parameters.logits.softmax(1)  # (N, K, ...): of the components, given earlier channels
    levels = []
    for channel, location in enumerate(_locations(parameters, x.split(1, dim=1))):
        value, sharpness = x[:, channel : channel + 1], parameters.log_sharpness[:, channel].exp()
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
