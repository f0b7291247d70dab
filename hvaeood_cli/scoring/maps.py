"""Maps: where in an image is what only the lowest latents know?

The map of k says how many nats each pixel loses when the k lowest latents come from the prior:
log p(x_i|z) in the pass of k = 0 minus log p(x_i|z) in the pass of k. Before smoothing its sum over
the pixels is the part of LLR^{>k} that is not KL terms, log_px at 0 minus log_px at k. What a map
is, is said here and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHING = 2.0  # pixels: the Gaussian's standard deviation
_REACH = 3  # standard deviations, after which the Gaussian is cut off

RULE = f"log p(x_i|z) at 0 minus at k, mean over samples; Gaussian of {SMOOTHING} pixels"
"""What a map is, in words. Usual maps are kept with it: those of another rule do not count."""


def maps(log_px_of_pixels: Tensor) -> Tensor:
    """The map of each k = 1 ... L - 1, smoothed: (L - 1, B, H, W) nats.

    log_px_of_pixels: (L, B, H, W) nats, log p(x_i|z) in the pass of each k = 0 ... L - 1.
    """
    return smoothed(lost(log_px_of_pixels))


def lost(log_px_of_pixels: Tensor) -> Tensor:
    """What each pixel loses between k = 0 and k: (L, B, H, W) -> (L - 1, B, H, W) nats."""
    return log_px_of_pixels[:1] - log_px_of_pixels[1:]


def smoothed(maps: Tensor, sigma: float = SMOOTHING) -> Tensor:
    """Each pixel's weighted mean over its surroundings, (N, B, H, W).

    The weights are a Gaussian's; beyond the edge is nothing, and weighs nothing.
    """
    import torch

    height, width = maps.shape[-2:]
    rows, columns = (_weights(n, sigma).to(maps) for n in (height, width))
    return torch.einsum("ih,nbhw,jw->nbij", rows, maps, columns)


def _weights(n: int, sigma: float) -> Tensor:
    """The weights of n pixels in a row, (to, from): (n, n), each row's sum 1."""
    import torch

    at = torch.arange(n)
    distance = (at[:, None] - at).abs() / sigma
    weights = torch.exp(-0.5 * distance.square()) * (distance <= _REACH)
    return weights / weights.sum(1, keepdim=True)
