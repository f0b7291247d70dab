"""Chooses the model that suits a folder of images, and how they are taken, by looking at some."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, TrainingError, UsageError
from hvaeood_cli.images.decode import Decoded
from hvaeood_cli.images.preprocess import Fit, tiling_of
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.images.tiling import Tiling
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.presets import PRESETS_FOR_TILES, for_images, for_tiles, get_preset
from hvaeood_cli.settings import TrainSettings

_MOST = 500  # images that are looked at ...
_MOST_PIXELS = 250_000_000  # ... and about how many pixels they may have together
_NEAR = 0.1  # of the scale: how near to black or white a pixel is nearly so
_BINARY = 0.4  # the share of such pixels from which grey images are taken for drawings
_LARGER = 2.0  # model's sizes: how long an image's longer side is where tiles do better than one
_MANY_TILES = 200  # tiles of an image, from which it is scaled down first


class Choice(NamedTuple):
    """What was chosen, and why."""

    preset: str
    why: str


class _Seen(NamedTuple):
    """What one image is like."""

    coloured: bool
    extreme: float  # the share of its pixels that are nearly black or white
    height: int
    width: int


@dataclass(frozen=True)
class Survey:
    """Some images of a manifest, looked at when it is first asked for."""

    manifest: Manifest

    @cached_property
    def seen(self) -> list[_Seen]:
        """Raises TrainingError where none can be read."""
        seen, n_pixels = [], 0
        for i in self._places():
            try:
                image, _ = self.manifest.read(int(i))
            except ImageError:
                continue
            seen.append(_see(image))
            n_pixels += image.pixels.shape[0] * image.pixels.shape[1]
            if n_pixels > _MOST_PIXELS:
                break
        if not seen:
            raise TrainingError(
                "none of these images can be read", "hvaeood score lists what is wrong with each"
            )
        return seen

    @cached_property
    def size(self) -> tuple[int, int]:
        """The median height and width."""
        return _median([one.height for one in self.seen]), _median([one.width for one in self.seen])

    def _places(self) -> NDArray[np.int64]:
        """Spread over the manifest, wherever the looking ends."""
        places = np.unique(np.linspace(0, len(self.manifest) - 1, _MOST).astype(np.int64))
        return np.random.Generator(np.random.Philox(key=0)).permutation(places)


class Asked(NamedTuple):
    """What is asked of the model, as by the options of `train`; None where the images decide."""

    preset: str | None = None
    channels: int | None = None
    image_size: int | None = None
    fit: str | None = None
    tile: int | None = None
    stride: int | None = None
    scale: float | None = None


class Chosen(NamedTuple):
    """The model to train, and why, in words for people."""

    preset: str
    why: str  # to be put behind the preset's name
    taken: str  # how images are taken where it is by tiles; else empty
    config: ModelConfig
    settings: TrainSettings  # the preset's


def choose(asked: Asked, manifest: Manifest) -> Chosen:
    """The model that is asked for, completed by what suits the images.

    Raises UsageError for an unknown name and for what does not go together, TrainingError where no
    image can be read.
    """
    _check(asked)
    survey, why, named = Survey(manifest), "", asked.preset
    if named is None:
        named, reason = choose_preset(survey, asked.channels)
        why = f" ({reason}; --preset NAME takes another)"
    preset = get_preset(named)
    fit = asked.fit
    if fit is None and any(one is not None for one in (asked.tile, asked.stride, asked.scale)):
        fit = "tile"
    if fit is None:  # a size that was asked for is that of whole images
        fit = "crop" if asked.image_size else choose_fit(survey, preset.model.image_size)
    if fit == "tile" and asked.preset is None:
        named = PRESETS_FOR_TILES.get(named, named)
        preset = get_preset(named)
    if fit != "tile":
        config = for_images(preset.model, asked.image_size, asked.channels, fit)
        return Chosen(named, why, "", config, preset.train)
    config = _tiled(for_images(preset.model, None, asked.channels), asked, survey)
    return Chosen(named, why, _in_words(config, survey), config, preset.train)


def _check(asked: Asked) -> None:
    """Raise UsageError for options that do not go together."""
    of_tiles = {"--tile": asked.tile, "--stride": asked.stride, "--scale": asked.scale}
    given = next((name for name, value in of_tiles.items() if value is not None), None)
    if asked.fit not in (None, "crop", "pad", "tile"):
        raise UsageError(f"no fit is called {asked.fit!r}", "--fit crop, pad or tile")
    if given and asked.fit in ("crop", "pad"):
        raise UsageError(f"{given} is of tiles, and --fit {asked.fit} makes none", "--fit tile")
    if asked.image_size and (given or asked.fit == "tile"):
        raise UsageError("--image-size is of whole images", "--tile N is the size of a tile")


def _tiled(model: ModelConfig, asked: Asked, survey: Survey) -> ModelConfig:
    """A model for tiles: by default of the preset's size and half overlapping."""
    size = asked.tile or model.image_size
    stride = asked.stride or max(1, size // 2)
    Tiling(size, stride, asked.scale or 1.0)  # raises what is wrong with them
    for_tiles(model, size, stride, 1.0)
    scale = choose_scale(survey, size, stride) if asked.scale is None else asked.scale
    return for_tiles(model, size, stride, scale)


def _in_words(config: ModelConfig, survey: Survey) -> str:
    """How images are taken by tiles, in a line."""
    tiling = tiling_of(config)
    height, width = survey.size
    n = tiling.count(height, width) if tiling else 1
    return (
        f"images of about {width}x{height} are taken by tiles: {n:,} {tiling} "
        "(--tile, --stride, --scale or --fit take others)"
    )


def choose_preset(survey: Survey, channels: int | None = None) -> Choice:
    """The preset for most of these images.

    Colour images get the colour preset. Grey ones whose pixels are mostly black or white, as those
    of drawings, digits and masks, get the preset that makes them so; other grey ones the preset for
    photographs, which keeps their shades. channels: 1 or 3 where that was asked for, None where the
    images decide. Raises TrainingError where none can be read.
    """
    seen = survey.seen
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


def choose_fit(survey: Survey, size: int) -> Fit:
    """How images become of one size: `tile` where most are clearly larger than that, else `crop`.

    size: of the model's images, pixels. Raises TrainingError where none can be read.
    """
    return "tile" if max(survey.size) > _LARGER * size else "crop"


def choose_scale(survey: Survey, size: int, stride: int) -> float:
    """By how much images are scaled before they are cut: 1, 1/2, 1/4 ...

    It is the largest at which an image of the median size has no more than `_MANY_TILES`, as long
    as its shorter side is no less than a tile's. Raises TrainingError where none can be read.
    """
    scale = 1.0
    while (
        Tiling(size, stride, scale).count(*survey.size) > _MANY_TILES
        and min(survey.size) * scale / 2.0 >= size
    ):
        scale /= 2.0
    return scale


def _see(image: Decoded) -> _Seen:
    pixels = image.pixels
    coloured = pixels.ndim == 3 and bool(np.ptp(pixels, axis=2).any())
    low, high = 255 * _NEAR, 255 * (1.0 - _NEAR)
    extreme = float(((pixels < low) | (pixels > high)).mean())
    return _Seen(coloured, extreme, *pixels.shape[:2])


def _median(values: list[int]) -> int:
    return int(np.median(values))
