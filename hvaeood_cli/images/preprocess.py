"""From any 8-bit image to the size and channels that a model takes, by `RULES`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.images.decode import Conversion, Decoded

Pixels = NDArray[np.uint8]

RULES = (
    "EXIF orientation applied; transparency composited over white; 16 bit scaled to 8; colour to "
    "grey by ITU-R 601 luma, grey to colour by repetition; the largest centred square, then "
    "antialiased bilinear to the model's size"
)


class Preprocessed(NamedTuple):
    """An image as the model takes it, (C, H, W), and what was done to make it so."""

    pixels: Pixels
    conversions: Conversion


def preprocess(image: Decoded, channels: int, size: int) -> Preprocessed:
    """Bring an image to `channels` channels (1 or 3) and size x size pixels, by `RULES`."""
    pixels, done = image
    if pixels.ndim == 3 and channels == 1:
        done |= Conversion.GREYED
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    elif pixels.ndim == 2 and channels == 3:
        done |= Conversion.COLOURED
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    height, width = pixels.shape[:2]
    if height != width:
        done |= Conversion.CROPPED
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if pixels.shape[0] != size:
        done |= Conversion.RESIZED
        square = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    if pixels.ndim == 2:
        return Preprocessed(pixels[None], done)  # (1, H, W)
    return Preprocessed(np.ascontiguousarray(pixels.transpose(2, 0, 1)), done)  # (3, H, W)


def box_of(height: int, width: int) -> tuple[float, float, float, float]:
    """Which part of an image a model sees: left, top, right and bottom, in pixels of the image."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return left, top, left + side, top + side
