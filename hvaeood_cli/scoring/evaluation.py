"""What statistics are measured of: images, with the passes that their bounds took."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hvaeood_cli.model.ladder import Ladder, Noise
from hvaeood_cli.scoring.bounds import Scores


class Evaluation(NamedTuple):
    """B images and their bounds. What always is measured needs no more than the first three."""

    ladder: Ladder
    x: Tensor  # (B, C, H, W), observed
    bounds: Scores
    pixels: Tensor | None = None  # (B, C, H, W) uint8
    uniform: Tensor | None = None  # (B, C, H, W) in [0, 1): what x was observed with
    noise: Noise = ()  # of the latents, by layer, (1, B, ...)
