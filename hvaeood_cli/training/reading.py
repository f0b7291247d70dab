"""Reads the images to train on, each once, and checks whether they suit the model.

What was read is kept in files, from which a batch is taken at a time. Of images that are taken by
tiles, only tiles are kept: no image gives more than its share.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.device import threads
from hvaeood_cli.errors import ImageError, TrainingError, UsageError
from hvaeood_cli.images.content import content_key, shortened
from hvaeood_cli.images.preprocess import preprocess, tiling_of
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.images.tiling import Tiling
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.side_by_side import side_by_side
from hvaeood_cli.training.pixel_cache import About, Part, PixelCache
from hvaeood_cli.training.pixels import PixelRows
from hvaeood_cli.user_cache import bound_pixels

Pixels = NDArray[np.uint8]
Report = Callable[[int, int], None]
"""Called with the number of images that have been read, and how many there are to read."""

# Reading may meet a few bad files; a folder of them is a mistake that training must not hide.
_MAX_UNUSABLE = 0.1
_MOST_TILES = 60_000  # of all images together
_SAMPLED = 50  # images by which the number of all tiles is estimated
# How many parts there are at least, for processes to share, and what one has at most: it is in
# memory while it is made, and what a kill may cost.
_LEAST_PARTS, _MOST_IMAGES, _MOST_BYTES = 8, 1024, 1 << 26
_AT_ONCE = 16  # images that a thread reads in a row
_BRIEF_SECONDS = 0.0005  # for an image: in less it is mostly Python, which runs one thread at once
_MAY_PASS = ("unreadable", "missing")  # the codes of an ImageError after which to ask again


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

    pixels: PixelRows  # images, or tiles of them
    images: Images
    unusable: list[str]  # names of the other images, and why they cannot be used
    conversions: Counter[str]  # how many images had each `Conversion`, by its name
    n_coloured: int  # how many images have more than shades of grey


class Readers(NamedTuple):
    """The processes that read together, each a share of the images.

    wait: returns when all have read theirs.
    """

    process: int = 0
    n_processes: int = 1
    wait: Callable[[], None] = lambda: None


ALONE = Readers()


def read_pixels(
    manifest: Manifest,
    config: ModelConfig,
    cache: PixelCache | None = None,
    readers: Readers = ALONE,
    report: Report = lambda done, of: None,
) -> Read:
    """Read every image of a manifest that is readable and not smaller than the model's stride.

    cache: where pixels are kept and mapped from; None for in memory, which every process does for
    itself. readers: who shares the reading. report: called with the number of images that this
    process has read, and how many it will. Pixels are the same in each case. Raises TrainingError
    if more than a tenth is left out.
    """
    reader = _Reader(manifest, config, cache)
    parts = reader.together(readers, report) if cache else reader.alone(report)
    abouts = [part.about for part in parts]
    unusable = [one for about in abouts for one in about.unusable]
    if len(unusable) > _MAX_UNUSABLE * len(manifest):
        raise TrainingError(
            f"{len(unusable)} of {len(manifest)} images cannot be used; {unusable[0]}",
            "remove or mend them first; hvaeood score lists those that cannot be read",
        )
    if cache:
        bound_pixels(cache.folder)
    n_rows = [n for about in abouts for n in about.n_rows]
    images = Images(
        of_row=np.repeat(np.arange(len(n_rows)), n_rows),
        contents=[bytes.fromhex(one) for about in abouts for one in about.contents],
        n_tiles=np.array([n for about in abouts for n in about.n_tiles], np.int64),
        manifest=manifest.pick(np.array([i for about in abouts for i in about.places], np.int64)),
    )
    conversions = Counter[str]()
    for about in abouts:
        conversions.update(about.conversions)
    pixels = PixelRows([part.pixels for part in parts if len(part.pixels)])
    return Read(pixels, images, unusable, conversions, sum(a.n_coloured for a in abouts))


class _Usable(NamedTuple):
    """An image that can be trained on."""

    place: int  # in the manifest
    pixels: Pixels  # (n, C, H, W)
    n_tiles: int  # by how many it is scored
    content: bytes  # its `content_key`, as a whole
    conversions: list[str]
    coloured: bool


class _Unusable(NamedTuple):
    """An image that cannot be trained on."""

    why: str  # with its name
    may_pass: bool


@dataclass(frozen=True)
class _Reader:
    """Reads a manifest part by part: images in a row, the same whoever reads them."""

    manifest: Manifest
    config: ModelConfig
    cache: PixelCache | None

    def alone(self, report: Report) -> list[Part]:
        return list(self._made(range(len(self.parts)), report))

    def together(self, readers: Readers, report: Report) -> list[Part]:
        """Each process makes its share of what is not kept, then takes what the others made.

        An image that could not be read for a reason that may pass is asked for again. What another
        process has made is not here where machines do not share a cache: it is made here as well.
        """
        assert self.cache
        found: dict[int, Part | None] = {}
        numbers = range(len(self.parts))
        for number in numbers[readers.process :: readers.n_processes]:
            kept = self.cache.load(number)
            found[number] = None if kept and kept.about.may_pass else kept
        self._make_lacking(found, report)
        readers.wait()
        found |= {number: self.cache.load(number) for number in numbers if number not in found}
        self._make_lacking(found, report)
        return [part for _, part in sorted(found.items()) if part]

    def _make_lacking(self, found: dict[int, Part | None], report: Report) -> None:
        lacking = sorted(number for number, part in found.items() if part is None)
        found.update(zip(lacking, self._made(lacking, report), strict=True))

    def _made(self, numbers: Sequence[int], report: Report) -> Iterator[Part]:
        """Read some parts, several images at once, and keep each as soon as it is whole."""
        if not numbers:
            return
        chunks = [
            (number, self.parts[number][start : start + _AT_ONCE])
            for number in numbers
            for start in range(0, len(self.parts[number]), _AT_ONCE)
        ]
        n_done, n_all = 0, sum(len(self.parts[number]) for number in numbers)
        started = time.monotonic()
        first = self._chunk(chunks[0])
        brief = (time.monotonic() - started) / len(first) < _BRIEF_SECONDS
        read = chain([first], side_by_side(self._chunk, chunks[1:], 1 if brief else threads()))
        for number, of_part in groupby(zip(chunks, read, strict=True), lambda pair: pair[0][0]):
            images = list[_Usable | _Unusable]()
            for _, some in of_part:
                images += some
                n_done += len(some)
                report(n_done, n_all)
            part = self._joined(images)
            yield self.cache.keep(number, part) if self.cache else part

    def _chunk(self, chunk: tuple[int, range]) -> list[_Usable | _Unusable]:
        return [self._read(i) for i in chunk[1]]

    @cached_property
    def parts(self) -> list[range]:
        """Which images of the manifest each part has."""
        n, of_image = len(self.manifest), self._most_tiles * math.prod(self._shape)
        size = max(1, min(_MOST_IMAGES, -(-n // _LEAST_PARTS), _MOST_BYTES // of_image))
        return [range(start, min(start + size, n)) for start in range(0, n, size)]

    def _read(self, i: int) -> _Usable | _Unusable:
        config, tiling = self.config, self._tiling
        try:
            image, _ = self.manifest.read(i)
            height, width = image.pixels.shape[:2]
            if min(height, width) * (config.tile_scale or 1.0) < config.stride:
                raise ImageError(
                    "too_small",
                    f"{width}x{height} pixels, where one latent spans {config.stride} each way",
                )
        except ImageError as error:
            name = self.manifest.name(i).decode("utf-8", "backslashreplace")
            why = str(error).encode("utf-8", "backslashreplace").decode()  # fit for JSON
            return _Unusable(f"{name}: {why}", error.code in _MAY_PASS)
        coloured = _is_coloured(image.pixels)
        pixels, done = preprocess(image, config)
        content, names = content_key(pixels), [(one.name or "").lower() for one in done]
        if tiling is None:
            return _Usable(i, pixels[None], 1, content, names, coloured)
        n_tiles = len(tiling.places(*pixels.shape[1:]))
        tiles = some_tiles(tiling, pixels, content, self._most_tiles)
        return _Usable(i, tiles, n_tiles, content, names, coloured)

    def _joined(self, images: Sequence[_Usable | _Unusable]) -> Part:
        usable = [one for one in images if isinstance(one, _Usable)]
        others = [one for one in images if isinstance(one, _Unusable)]
        none = np.empty((0, *self._shape), np.uint8)
        pixels = np.concatenate([none, *(one.pixels for one in usable)])
        about = About(
            shape=pixels.shape,
            places=[one.place for one in usable],
            contents=[one.content.hex() for one in usable],
            n_rows=[len(one.pixels) for one in usable],
            n_tiles=[one.n_tiles for one in usable],
            unusable=[one.why for one in others],
            may_pass=any(one.may_pass for one in others),
            conversions=Counter(name for one in usable for name in one.conversions),
            n_coloured=sum(one.coloured for one in usable),
        )
        return Part(pixels, about)

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Of an image or tile, as the model takes it."""
        return self.config.image_channels, self.config.image_size, self.config.image_size

    @property
    def _tiling(self) -> Tiling | None:
        return tiling_of(self.config)

    @property
    def _most_tiles(self) -> int:
        """How many tiles are kept of an image."""
        return 1 if self._tiling is None else max(1, _MOST_TILES // len(self.manifest))


def _is_coloured(pixels: Pixels) -> bool:
    """Whether an image as it was read, (H, W) or (H, W, 3), has more than shades of grey."""
    if pixels.ndim == 2:
        return False
    red, green, blue = (pixels[..., i] for i in range(3))
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


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
