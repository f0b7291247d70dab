"""Reads the images to train on, all at once, and checks whether they suit the model."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, TrainingError, UsageError
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.config import ModelConfig

Pixels = NDArray[np.uint8]

# Reading may meet a few bad files; a folder of them is a mistake that training must not hide.
_MAX_UNUSABLE = 0.1


class Read(NamedTuple):
    """Images to train on, as the model takes them."""

    pixels: Pixels  # (N, C, H, W) uint8
    unusable: list[str]  # names of the other images, and why they cannot be used
    conversions: Counter[str]  # how many images had each `Conversion`, by its name
    n_coloured: int  # how many images have more than shades of grey


def read_pixels(manifest: Manifest, config: ModelConfig) -> Read:
    """Read every image of a manifest that is readable and not smaller than the model's stride.

    Raises TrainingError if more than a tenth is left out.
    """
    images, unusable, conversions, n_coloured = [], list[str](), Counter[str](), 0
    for i in range(len(manifest)):
        try:
            image, _ = manifest.read(i)
            height, width = image.pixels.shape[:2]
            if min(height, width) < config.stride:
                raise ImageError(
                    "too_small",
                    f"{width}x{height} pixels, where one latent spans {config.stride} each way",
                )
        except ImageError as error:
            unusable.append(f"{manifest.name(i).decode('utf-8', 'backslashreplace')}: {error}")
            continue
        pixels, done = preprocess(image, config.image_channels, config.image_size)
        images.append(pixels)
        conversions.update((one.name or "").lower() for one in done)
        n_coloured += image.pixels.ndim == 3 and bool(np.ptp(image.pixels, axis=2).any())
    if len(unusable) > _MAX_UNUSABLE * len(manifest):
        raise TrainingError(
            f"{len(unusable)} of {len(manifest)} images cannot be used; {unusable[0]}",
            "remove or mend them first; hvaeood score lists those that cannot be read",
        )
    return Read(np.stack(images), unusable, conversions, n_coloured)


def check_channels(read: Read, config: ModelConfig) -> None:
    """Raise UsageError if a grey model gets mostly colour images, or a colour model only grey ones.

    A user who means it says so by --channels, and this check is left out.
    """
    if config.image_channels == 1 and read.n_coloured > len(read.pixels) / 2:
        raise UsageError(
            "most of these images are in colour, and the preset is for grey ones",
            "take an RGB preset, or --channels 1: they are then made grey",
        )
    if config.image_channels == 3 and read.n_coloured == 0:
        raise UsageError(
            "all of these images are grey, and the preset is for colour",
            "take a grey preset, or --channels 3: grey is then repeated into three channels",
        )
