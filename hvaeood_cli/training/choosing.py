"""Chooses the preset that suits a folder of images, by looking at some of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hvaeood_cli.errors import ImageError, TrainingError
from hvaeood_cli.images.decode import Decoded
from hvaeood_cli.images.sources import Manifest

_MOST = 500  # images that are looked at
_NEAR = 0.1  # of the scale: how near to black or white a pixel is nearly so
_BINARY = 0.4  # the share of such pixels from which grey images are taken for drawings


class Choice(NamedTuple):
    """A preset, and why."""

    preset: str
    why: str


class _Seen(NamedTuple):
    """What one image is like."""

    coloured: bool
    extreme: float  # the share of its pixels that are nearly black or white


def choose_preset(manifest: Manifest, channels: int | None = None) -> Choice:
    """The preset for most of these images.

    Colour images get the colour preset. Grey ones whose pixels are mostly black or white, as those
    of drawings, digits and masks, get the preset that makes them so; other grey ones the preset for
    photographs, which keeps their shades. channels: 1 or 3 where that was asked for, None where the
    images decide. Raises TrainingError where none can be read.
    """
    seen = []
    for i in np.unique(np.linspace(0, len(manifest) - 1, _MOST).astype(np.int64)):
        try:
            image, _ = manifest.read(int(i))
        except ImageError:
            continue
        seen.append(_see(image))
    if not seen:
        raise TrainingError(
            "none of these images can be read", "hvaeood score lists what is wrong with each"
        )
    n_coloured, n = sum(one.coloured for one in seen), len(seen)
    if channels == 3:
        return Choice("compact-rgb", "3 channels are asked for")
    if n_coloured > n / 2 and channels is None:
        return Choice("compact-rgb", f"{n_coloured} of {n} images looked at are in colour")
    extreme = float(np.mean([one.extreme for one in seen]))
    shades = f"{100 * extreme:.0f} % of the pixels are nearly black or white"
    if extreme >= _BINARY:
        return Choice("compact-gray", f"the images are grey and {shades}, as in drawings")
    return Choice("compact-photo-gray", f"the images are grey and {shades}, as in photographs")


def _see(image: Decoded) -> _Seen:
    pixels = image.pixels
    coloured = pixels.ndim == 3 and bool(np.ptp(pixels, axis=2).any())
    low, high = 255 * _NEAR, 255 * (1.0 - _NEAR)
    return _Seen(coloured, float(((pixels < low) | (pixels > high)).mean()))
