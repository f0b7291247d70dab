"""The scores that `store/columns.py` names, each as a function of an evaluation.

To add one, write its function here, name it in `STATISTICS`, and enter a column of the same name
in `hvaeood_cli.store.columns.TABLE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hvaeood_cli.scoring.asked import ASKED
from hvaeood_cli.scoring.bounds import bits_per_dim
from hvaeood_cli.scoring.evaluation import Evaluation
from hvaeood_cli.store.columns import columns

_LEAST_COST = 1.0  # nats: a binarised blank image may cost nothing
_SPOT = 5  # pixels, height and width of what a peak is a mean over
_RARE_PIXELS = 0.01  # the share of pixels that cost more than `spot_cost`
_END = 5e-4  # how near to 0 and 1 a probability is taken
_LEAST_KL = 1e-6  # nats a place: a channel that nothing goes through has about as much


def lower_bound(of: Evaluation) -> Tensor:
    """L^{>k}, k = 0 ... L - 1: (B, L) nats."""
    return of.bounds.lower_bound


def kl(of: Evaluation) -> Tensor:
    """log q - log p of each z_i in the pass of L: (B, L) nats."""
    return of.bounds.kl


def log_px(of: Evaluation) -> Tensor:
    """log p(x|z) in the pass of each k: (B, L) nats."""
    return of.bounds.log_px


def llr(of: Evaluation) -> Tensor:
    """LLR^{>k}, k = 1 ... L - 1: (B, L - 1) nats."""
    return of.bounds.llr


def llr_share(of: Evaluation) -> Tensor:
    """LLR^{>k} / -L = L^{>k} / L - 1, the ratio as a share of what the image costs: (B, L - 1)."""
    cost = -of.bounds.lower_bound[:, :1]
    return of.bounds.llr / cost.clamp(min=_LEAST_COST)


def bits(of: Evaluation) -> Tensor:
    """-L / (D ln 2): (B,) bits/dim."""
    elbo = of.bounds.lower_bound[:, 0].cpu().double()  # not every device has float64
    return bits_per_dim(elbo, of.ladder.config.n_dims)


def peak(of: Evaluation) -> Tensor:
    """The largest mean of -log p(x_i|z) over 5x5 pixels, for each k: (B, L) nats."""
    surprise = -of.bounds.log_px_of_pixels
    return F.avg_pool2d(surprise, min(_SPOT, surprise.shape[-1]), stride=1).amax(dim=(2, 3))


def residual(of: Evaluation) -> Tensor:
    """What the residuals r have in common: (B, 4).

    r is where each number of the image lies in its distribution p(x|z), as a normal variable: of
    independent standard normal ones if the model is right (the probability integral transform,
    randomised as x is discrete). log of the mean of r^2; its correlation at a distance of 1 and 2
    pixels, the mean of both directions; and at 1 pixel diagonally.
    """
    level = of.bounds.pit.clamp(_END, 1.0 - _END)
    r = math.sqrt(2.0) * torch.erfinv(2.0 * level - 1.0)  # (B, C, H, W)
    square = _mean(r * r)  # (B,)
    products = [
        _mean(r[..., d:] * r[..., :-d]) + _mean(r[..., d:, :] * r[..., :-d, :]) for d in (1, 2)
    ]
    falling, rising = r[..., 1:, 1:] * r[..., :-1, :-1], r[..., 1:, :-1] * r[..., :-1, 1:]
    products.append(_mean(falling) + _mean(rising))
    return torch.stack([square.log(), *(0.5 * both / square for both in products)], dim=1)


def _mean(of_pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B,)."""
    return of_pixels.mean(dim=(1, 2, 3))


def spot_cost(of: Evaluation) -> Tensor:
    """The -log p(x_i|z) that one pixel in a hundred exceeds, for each k > 0: (B, L - 1) nats."""
    cost = -of.bounds.log_px_of_pixels[:, 1:].flatten(2)  # (B, L - 1, pixels)
    n_above = max(1, math.ceil(_RARE_PIXELS * cost.shape[2]))
    return cost.topk(n_above, dim=2).values[..., -1]


def kl_channel(of: Evaluation) -> Tensor:
    """log KL(q || p) of each channel of z_1, nats a place: (B, channels)."""
    return of.bounds.kl_of_channels.clamp(min=_LEAST_KL).log()


STATISTICS: dict[str, Callable[[Evaluation], Tensor]] = {
    "lower_bound": lower_bound,
    "kl": kl,
    "log_px": log_px,
    "llr": llr,
    "llr_share": llr_share,
    "bits_per_dim": bits,
    "peak": peak,
    "residual": residual,
    "spot_cost": spot_cost,
    "kl_channel": kl_channel,
}


def measure(evaluation: Evaluation, asked: Collection[str] = ()) -> dict[str, NDArray[np.float32]]:
    """Every score of the column table, by name: (B,) or (B, n). asked: which others as well."""
    return {
        column.name: STATISTICS[column.name](evaluation).float().cpu().numpy()
        for column in columns("scores", asked=())
    } | {
        name: values.float().cpu().numpy()
        for statistic in asked
        for name, values in ASKED[statistic](evaluation).items()
    }
