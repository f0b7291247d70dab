"""The scores that `store/columns.py` names, each as a function of an evaluation.

To add one, write its function here, name it in `STATISTICS`, and enter a column of the same name
in `hvaeood_cli.store.columns.TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.scoring.bounds import Scores, bits_per_dim
from hvaeood_cli.store.columns import columns

_LEAST_COST = 1.0  # nats: a binarised blank image may cost nothing
_SPOT = 5  # pixels, height and width of what a peak is a mean over


class Evaluation(NamedTuple):
    """B images and their bounds."""

    ladder: Ladder
    x: Tensor  # (B, C, H, W), observed
    bounds: Scores


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


STATISTICS: dict[str, Callable[[Evaluation], Tensor]] = {
    "lower_bound": lower_bound,
    "kl": kl,
    "log_px": log_px,
    "llr": llr,
    "llr_share": llr_share,
    "bits_per_dim": bits,
    "peak": peak,
}


def measure(evaluation: Evaluation) -> dict[str, NDArray[np.float32]]:
    """Every score of the column table, by name: (B,) or (B, n)."""
    return {
        column.name: STATISTICS[column.name](evaluation).float().cpu().numpy()
        for column in columns("scores")
    }
