"""Maps: where in an image do the upper latents fail to explain it?

The map of k says what each pixel costs when the k lowest latents come from the prior: -log p(x_i|z)
in the pass of k. A binarised pixel costs what chance made of it, too, in every pass alike: there
the map is what a pixel costs more at k than at 0, which leaves that out. Before smoothing, the sum
of a map is minus log_px of k; of binarised images log_px of 0 minus log_px of k. Of images that are
taken by tiles, what odd pixels enclose is as odd as they are (`closed`), in spreads, not in nats: a
defect may be plain inside, which costs little. All that is measured in docs/decisions.md. What a
map is, is said here and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from hvaeood_cli.model.config import ModelConfig

SMOOTHING = 2.0  # pixels: the Gaussian's standard deviation
_REACH = 3  # standard deviations, after which the Gaussian is cut off


def rule_of(config: ModelConfig) -> str:
    """What a map of this model is, in words. Usual maps of another rule do not count."""
    cost = "-log p(x_i|z) in the pass of k"
    cost += ", less that in the pass of 0" if _is_binarised(config) else ""
    rule = f"{cost}; mean over samples; Gaussian of {SMOOTHING} pixels"
    return f"{rule}; closed by a square of a tile's size" if config.fit == "tile" else rule


def maps(log_px_of_pixels: Tensor, config: ModelConfig) -> Tensor:
    """The map of each k = 1 ... L - 1, smoothed: (L - 1, B, H, W) nats.

    log_px_of_pixels: (L, B, H, W) nats, log p(x_i|z) in the pass of each k = 0 ... L - 1.
    """
    return smoothed(costs(log_px_of_pixels, config))


def costs(log_px_of_pixels: Tensor, config: ModelConfig) -> Tensor:
    """The same before it is smoothed: (L, B, H, W) -> (L - 1, B, H, W) nats."""
    first, rest = log_px_of_pixels[:1], log_px_of_pixels[1:]
    return first - rest if _is_binarised(config) else -rest


def _is_binarised(config: ModelConfig) -> bool:
    return config.likelihood == "bernoulli"


def smoothed(maps: Tensor, sigma: float = SMOOTHING) -> Tensor:
    """Each pixel's weighted mean over its surroundings, (N, B, H, W).

    The weights are a Gaussian's; beyond the edge is nothing, and weighs nothing.
    """
    import torch

    height, width = maps.shape[-2:]
    rows, columns = (_weights(n, sigma).to(maps) for n in (height, width))
    return torch.einsum("ih,nbhw,jw->nbij", rows, maps, columns)


def closed(maps: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The grey closing of maps by a square, (n, h, w): no pixel loses.

    A pixel is raised to what every square that holds it has somewhere: to what encloses it, where
    that leaves no room for a square. size: of the square; an even one counts as the next odd one.
    """
    import torch

    planes = torch.from_numpy(maps)
    return _highest(_highest(planes, size).neg(), size).neg().numpy()


def _highest(planes: Tensor, size: int) -> Tensor:
    """The highest value in the square around each pixel; nothing is beyond the edge."""
    from torch.nn.functional import max_pool2d

    half = size // 2
    rows = max_pool2d(planes, (2 * half + 1, 1), 1, (half, 0))
    return max_pool2d(rows, (1, 2 * half + 1), 1, (0, half))


def _weights(n: int, sigma: float) -> Tensor:
    """The weights of n pixels in a row, (to, from): (n, n), each row's sum 1."""
    import torch

    at = torch.arange(n)
    distance = (at[:, None] - at).abs() / sigma
    weights = torch.exp(-0.5 * distance.square()) * (distance <= _REACH)
    return weights / weights.sum(1, keepdim=True)
