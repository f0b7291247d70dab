"""The diagonal Gaussian, which every posterior and every prior is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# sigma = softplus(raw; beta = ln 2): raw = 0 gives sigma = 1 (paper, Appendix B.1). Below
# raw = -15 (sigma = 4e-5) the softplus is close to underflow, and log sigma with it.
_BETA = math.log(2.0)
_MIN_RAW = -15.0


class Gaussian(NamedTuple):
    """N(mean, diag(scale^2)). Both have shape (N, ...), where N is B images or S * B samples."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> Gaussian:
        """From a network's output (N, 2C, ...): C channels of means, then C of raw scales.

        Always float32: a network may run in bfloat16, sums of thousands of terms may not.
        """
        mean, raw_scale = raw.float().chunk(2, dim=1)
        return cls(mean, _scale(raw_scale.clamp(min=_MIN_RAW)))

    @staticmethod
    def raw_scale(scale: float) -> float:
        """The raw number that `from_raw` turns into this scale."""
        return math.log2(2.0**scale - 1.0)

    @property
    def n_channels(self) -> int:
        """C: channels of a spatial variable, units of a dense one."""
        return self.mean.shape[1]

    def beside(self, other: Gaussian) -> Gaussian:
        """The joint Gaussian of two independent variables, stacked along C: (S * B, ...).

        other: (S * B, ...). self may have only B rows, which the S samples then share.
        """
        n_copies = other.mean.shape[0] // self.mean.shape[0]
        copies = (part.repeat(n_copies, *[1] * (part.dim() - 1)) for part in self)
        mean, scale = (torch.cat(parts, dim=1) for parts in zip(copies, other, strict=True))
        return Gaussian(mean, scale)

    def sample(self, eps: Tensor) -> Tensor:
        """mean + scale * eps, (S * B, ...). eps: (S, B, ...), standard normal.

        This Gaussian has B rows, which the S samples share, or S * B, each with an eps of its own.
        """
        rows = self.mean.shape[0]
        eps = eps.reshape(-1, rows, *self.mean.shape[1:])  # (S or 1, rows, ...)
        return (self.mean + self.scale * eps).flatten(0, 1)


def _scale(raw: Tensor) -> Tensor:
    """softplus(raw; beta = ln 2), to the last digits of a small one too: kl divides by it.

    A graph's runtime may take log(1 + e) where PyTorch takes log1p(e), and lose a part in a
    hundred at the smallest scale. Below e = 1/32 a graph is given the series instead.
    """
    if not torch.compiler.is_exporting():
        return F.softplus(raw, beta=_BETA)
    e = (raw * _BETA).exp()
    series = e * (1.0 - e * (1.0 / 2.0 - e * (1.0 / 3.0 - e * (1.0 / 4.0 - e / 5.0))))
    return torch.where(e < 1.0 / 32.0, series / _BETA, F.softplus(raw, beta=_BETA))


def log_ratio(q: Gaussian, p: Gaussian, z: Tensor) -> Tensor:
    """log q(z) - log p(z), summed over all but the first dimension. Nats.

    z: (S * B, ...); q and p: (S * B, ...) or (B, ...), repeated over the samples. Returns (S * B,).
    Its expectation under q is KL(q || p); one sample of it is one term of eq. 4.
    """
    elementwise = _log_prob(q, z) - _log_prob(p, z)  # the constants -log(2 pi)/2 cancel
    return elementwise.flatten(1).sum(1)


def kl_of_channels(q: Gaussian, p: Gaussian, n_images: int) -> Tensor:
    """KL(q || p) of each channel, in nats a place: (B, C), mean over places and samples.

    q and p: (B, ...) or (S * B, ...) rows. A variable that is not spatial is one channel, and each
    of its units a place.
    """
    q, p = (Gaussian(*(part.unflatten(0, (-1, n_images)) for part in g)) for g in (q, p))
    variance = (q.scale.square() + (q.mean - p.mean).square()) / p.scale.square()
    kl = 0.5 * variance - 0.5 + (p.scale / q.scale).log()  # (S, B, C, ...)
    kl = kl.flatten(3) if kl.dim() > 3 else kl.unsqueeze(2)  # (S, B, C, places)
    return kl.mean(dim=(0, 3))


def log_ratio_elementwise(q: Gaussian, p: Gaussian, z: Tensor) -> Tensor:
    """As `log_ratio`, unsummed, in the shape of z: what free nats per element clamp."""
    return _log_prob(q, z) - _log_prob(p, z)


def _log_prob(g: Gaussian, z: Tensor) -> Tensor:
    """log N(z; g) + log(2 pi)/2 elementwise, in the shape of z."""
    by_sample = z.unflatten(0, (-1, g.mean.shape[0]))  # (S, B, ...)
    standard: Tensor = (by_sample - g.mean) / g.scale
    return (-0.5 * standard.square() - g.scale.log()).flatten(0, 1)
