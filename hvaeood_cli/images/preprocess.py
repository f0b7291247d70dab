"""From any 8-bit image to what a model takes, by rules that every score file names."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.images.decode import Conversion, Decoded
from hvaeood_cli.images.tiling import Tiling

Pixels = NDArray[np.uint8]
Fit = Literal["crop", "pad", "tile"]

_BEFORE = (
    "EXIF orientation applied; transparency composited over white; 16 bit scaled to 8; colour to "
    "grey by ITU-R 601 luma, grey to colour by repetition; "
)
_SQUARE: dict[Fit, str] = {
    "crop": "the largest centred square, then antialiased bilinear to the model's size",
    "pad": "continued on both sides by its mirror image to a square, then antialiased bilinear to "
    "the model's size",
}


class Takes(Protocol):
    """What a model takes: a `ModelConfig`, or the header of a run that it scored."""

    @property
    def image_channels(self) -> Literal[1, 3]: ...
    @property
    def image_size(self) -> int:
        """Height and width of an image, or of a tile."""
        ...

    @property
    def fit(self) -> Fit:
        """How an image of another size becomes one of this size, or several."""
        ...

    @property
    def tile_stride(self) -> int | None: ...
    @property
    def tile_scale(self) -> float | None: ...


class Preprocessed(NamedTuple):
    """An image as the model takes it, and what was done to make it so."""

    pixels: Pixels  # (C, size, size); of a model that takes tiles (C, h, w), to be cut
    conversions: Conversion


def tiling_of(takes: Takes) -> Tiling | None:
    """How images are cut into tiles; None for a model that takes them whole."""
    if takes.fit != "tile" or takes.tile_stride is None or takes.tile_scale is None:
        return None
    return Tiling(takes.image_size, takes.tile_stride, takes.tile_scale)


def rules_of(takes: Takes) -> str:
    """The rules by which `preprocess` makes an image what the model takes, in words."""
    tiling = tiling_of(takes)
    return _BEFORE + (_SQUARE[takes.fit] if tiling is None else tiling.rule)


def preprocess(image: Decoded, takes: Takes) -> Preprocessed:
    """Make an image what the model takes, by `rules_of`."""
    pixels, done = image
    if pixels.ndim == 3 and takes.image_channels == 1:
        done |= Conversion.GREYED
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    elif pixels.ndim == 2 and takes.image_channels == 3:
        done |= Conversion.COLOURED
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    tiling = tiling_of(takes)
    if tiling is not None:
        scaled = tiling.scaled(pixels)
        return Preprocessed(scaled.pixels, done | (Conversion.PADDED if scaled.padded else 0))
    height, width = pixels.shape[:2]
    if height != width:
        done |= Conversion.PADDED if takes.fit == "pad" else Conversion.CROPPED
        pixels = _padded(pixels) if takes.fit == "pad" else _cropped(pixels)
    size = takes.image_size
    if pixels.shape[0] != size:
        done |= Conversion.RESIZED
        square = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    if pixels.ndim == 2:
        return Preprocessed(pixels[None], done)  # (1, H, W)
    return Preprocessed(np.ascontiguousarray(pixels.transpose(2, 0, 1)), done)  # (3, H, W)


def box_of(takes: Takes, height: int, width: int) -> tuple[float, float, float, float]:
    """What a model sees of an image: left, top, right and bottom, in pixels of the image.

    They lie beyond the image where it is continued by its mirror image. height, width: of the image
    as it was read.
    """
    tiling = tiling_of(takes)
    if tiling is not None:
        h, w = tiling.scaled_size(height, width)
        return 0, 0, max(w, tiling.size) * width / w, max(h, tiling.size) * height / h
    side = max(height, width) if takes.fit == "pad" else min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _cropped(pixels: Pixels) -> Pixels:
    """The largest centred square."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _padded(pixels: Pixels) -> Pixels:
    """The smallest square around it, filled by its mirror image."""
    lacking = [max(pixels.shape[:2]) - n for n in pixels.shape[:2]]
    around = [(n // 2, n - n // 2) for n in lacking]
    return np.pad(pixels, around + [(0, 0)] * (pixels.ndim - 2), mode="reflect")
