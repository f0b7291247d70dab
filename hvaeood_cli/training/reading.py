"""Reads the images to train on, all at once, and checks whether they suit the model.

Of images that are taken by tiles, only tiles are kept: as many as there is room for, and no image
gives more than its share.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, TrainingError, UsageError
from hvaeood_cli.images.content import content_key, shortened
from hvaeood_cli.images.preprocess import preprocess, tiling_of
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.images.tiling import Tiling
from hvaeood_cli.model.config import ModelConfig

Pixels = NDArray[np.uint8]

# Reading may meet a few bad files; a folder of them is a mistake that training must not hide.
_MAX_UNUSABLE = 0.1
_MOST_TILES = 60_000  # in memory; 60 MB of them where they are 32x32 and grey
_SAMPLED = 50  # images by which the number of all tiles is estimated


class Images(NamedTuple):
    """The M images that N rows of pixels are of: each row is one of them, or a tile of one."""

    of_row: NDArray[np.int64]  # (N,) which image
    contents: list[bytes]  # the `content_key` of each image as a whole
    n_tiles: NDArray[np.int64]  # (M,) by how many each is scored
    manifest: Manifest  # of these images alone

    def __len__(self) -> int:
        return len(self.contents)

    def of(self, images: NDArray[np.int64]) -> Images:
        """Some of these images, and the rows that `rows_of` gives. images: in order, (m,)."""
        of_row = np.searchsorted(images, self.of_row[self.rows_of(images)])
        contents = [self.contents[image] for image in images]
        return Images(of_row, contents, self.n_tiles[images], self.manifest.pick(images))

    def rows_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of some images, in order. images: which, (m,)."""
        return np.flatnonzero(np.isin(self.of_row, images))

    def short_keys(self, images: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The shortened `content_key` of some images, (m,)."""
        return np.array([shortened(self.contents[image]) for image in images], np.uint64)


class Read(NamedTuple):
    """Images to train on, as the model takes them."""

    pixels: Pixels  # (N, C, H, W) uint8: images, or tiles of them
    images: Images
    unusable: list[str]  # names of the other images, and why they cannot be used
    conversions: Counter[str]  # how many images had each `Conversion`, by its name
    n_coloured: int  # how many images have more than shades of grey


def read_pixels(manifest: Manifest, config: ModelConfig) -> Read:
    """Read every image of a manifest that is readable and not smaller than the model's stride.

    Raises TrainingError if more than a tenth is left out.
    """
    parts, contents, places = list[Pixels](), list[bytes](), list[int]()
    n_tiles, unusable, conversions, n_coloured = list[int](), list[str](), Counter[str](), 0
    tiling, share = tiling_of(config), max(1, _MOST_TILES // len(manifest))
    for i in range(len(manifest)):
        try:
            image, _ = manifest.read(i)
            height, width = image.pixels.shape[:2]
            if min(height, width) * (config.tile_scale or 1.0) < config.stride:
                raise ImageError(
                    "too_small",
                    f"{width}x{height} pixels, where one latent spans {config.stride} each way",
                )
        except ImageError as error:
            unusable.append(f"{manifest.name(i).decode('utf-8', 'backslashreplace')}: {error}")
            continue
        pixels, done = preprocess(image, config)
        content = content_key(pixels)
        parts.append(pixels[None] if tiling is None else some_tiles(tiling, pixels, content, share))
        contents.append(content)
        places.append(i)
        n_tiles.append(1 if tiling is None else len(tiling.places(*pixels.shape[1:])))
        conversions.update((one.name or "").lower() for one in done)
        n_coloured += image.pixels.ndim == 3 and bool(np.ptp(image.pixels, axis=2).any())
    if len(unusable) > _MAX_UNUSABLE * len(manifest):
        raise TrainingError(
            f"{len(unusable)} of {len(manifest)} images cannot be used; {unusable[0]}",
            "remove or mend them first; hvaeood score lists those that cannot be read",
        )
    of_row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    usable = manifest.pick(np.array(places, np.int64))
    images = Images(of_row, contents, np.array(n_tiles, np.int64), usable)
    return Read(np.concatenate(parts), images, unusable, conversions, n_coloured)


def some_tiles(tiling: Tiling, pixels: Pixels, content: bytes, most: int) -> Pixels:
    """Tiles of a scaled image, (C, h, w) -> (n, C, T, T): all, or `most` of them, drawn at random.

    content: the image's `content_key`, which is the seed: the same image gives the same tiles.
    """
    places = tiling.places(*pixels.shape[1:])
    if len(places) > most:
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(content[:8], "little")))
        places = places[np.sort(random.choice(len(places), most, replace=False))]
    return tiling.cut(pixels, places)


def about_how_many_tiles(manifest: Manifest, config: ModelConfig) -> int:
    """How many images or tiles there are to score, estimated from a few images."""
    tiling = tiling_of(config)
    if tiling is None:
        return len(manifest)
    counts = []
    for i in np.unique(np.linspace(0, len(manifest) - 1, _SAMPLED).astype(np.int64)):
        with suppress(ImageError):
            counts.append(tiling.count(*manifest.read(int(i))[0].pixels.shape[:2]))
    return round(len(manifest) * float(np.mean(counts or [1])))


def check_channels(read: Read, config: ModelConfig) -> None:
    """Raise UsageError if a grey model gets mostly colour images, or a colour model only grey ones.

    A user who means it says so by --channels, and this check is left out.
    """
    if config.image_channels == 1 and read.n_coloured > len(read.images) / 2:
        raise UsageError(
            "most of these images are in colour, and the preset is for grey ones",
            "take an RGB preset, or --channels 1: they are then made grey",
        )
    if config.image_channels == 3 and read.n_coloured == 0:
        raise UsageError(
            "all of these images are grey, and the preset is for colour",
            "take a grey preset, or --channels 3: grey is then repeated into three channels",
        )
