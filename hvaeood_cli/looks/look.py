"""A look at a scored image, and how its arrays become pictures.

The code that shows images knows nothing of models: it is given a `Looker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.errors import HvaeoodError

Box = tuple[float, float, float, float]


class Maps(NamedTuple):
    """What each pixel of an image costs at each k, as `scoring.maps` says."""

    values: NDArray[np.float32]  # (L - 1, h, w), the map of k at k - 1: spreads, else nats
    box: Box  # what they cover of the image: left, top, right and bottom, pixels of the image
    why_nats: str = ""  # why the values are nats; empty if they are spreads: above what is usual


class Look(NamedTuple):
    """An image beside its reconstructions."""

    image: NDArray[np.uint8]  # (H, W) or (H, W, 3), as it was read
    observed: NDArray[np.float32]  # (C, H, W): the x that was scored, on the scale 0 to 1
    from_k: NDArray[np.float32]  # (L, C, H, W): E[x|z] from k = 0 ... L - 1, on the same scale
    changed: bool  # whether the image is no longer the one that was scored
    maps: Maps | None = None  # None without a model


Looker = Callable[[Sequence[int]], list[Look | HvaeoodError]]
"""Takes rows of a score file; returns a look at each, or the error that prevents it."""


def to_pixels(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(C, H, W) on the scale 0 to 1 -> (H, W) for one channel, (H, W, 3) for three."""
    values = np.nan_to_num(np.clip(picture, 0.0, 1.0))
    pixels = np.rint(values * 255.0).astype(np.uint8)
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def to_image(picture: NDArray[np.float32]) -> Image.Image:
    """(C, H, W) on the scale 0 to 1 -> an RGB image."""
    return Image.fromarray(to_pixels(picture)).convert("RGB")
