"""Makes the usual maps of a model, from images that belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import settings_of
from hvaeood_cli.calibration.usual_maps import ENOUGH, UsualMaps
from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.images.content import short_key
from hvaeood_cli.images.decode import Decoded
from hvaeood_cli.images.preprocess import Pixels, preprocess, tiling_of
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.images.tiling import Places, Tiling
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.maps import closed, rule_of
from hvaeood_cli.scoring.scorer import Float, Scorer
from hvaeood_cli.scoring.views import tiles_of
from hvaeood_cli.store.score_file import ScoreFile

_AT_ONCE = 64  # images
_TILES = 4 * ENOUGH  # of all images together: those of one image are much alike
_PARTS, _PART = 16, 5  # images of which a part is closed, as many tiles high and wide at most
_SEED = 0  # of which tiles they are


def usual_maps(
    scorer: Scorer | FoldScorer,
    settings: Mapping[str, Any],
    manifest: Manifest,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UsualMaps:
    """What is usual of the maps of images that belong, from `ENOUGH` of them at most.

    settings: of the scores of these images. Of a model that takes tiles it is what is usual of the
    map of a tile. progress: called with how many images are done, and of how many. Raises
    CalibrationError where too few images can be read.
    """

    def read(row: int) -> Decoded:
        return manifest.read(row)[0]

    rows = _spread(len(manifest), ENOUGH)

    def pixels() -> Iterator[Pixels | None]:
        for i, row in enumerate(rows):
            progress(i, len(rows))
            yield _preprocessed(read, scorer.config, int(row))

    return _of(scorer, settings, pixels(), len(rows))


def usual_maps_of(scorer: Scorer | FoldScorer, scores: ScoreFile, reader: ImageReader) -> UsualMaps:
    """The same from the images of a score file, read again; what has changed since is left out."""
    scored = np.flatnonzero(scores.scored)
    rows = scored[_spread(len(scored), ENOUGH)]

    def read(row: int) -> Decoded:
        return reader.read(bytes(scores.names[row]))

    def unchanged() -> Iterator[Pixels | None]:
        for row in rows:
            pixels = _preprocessed(read, scorer.config, int(row))
            same = pixels is not None and scores.content[row] in (0, short_key(pixels))
            yield pixels if same else None

    return _of(scorer, settings_of(scores.header), unchanged(), len(rows))


def _of(
    scorer: Scorer | FoldScorer,
    settings: Mapping[str, Any],
    images: Iterator[Pixels | None],
    n_images: int,
) -> UsualMaps:
    """What is usual of the maps of these images; None stands for one that is not there."""
    one_sample, settings = scorer.of_one_sample, {**settings, "map": rule_of(scorer.config)}
    there = (image for image in images if image is not None)
    tiling = tiling_of(scorer.config)
    if tiling is None:
        return UsualMaps.of(settings, _whole(one_sample, there))
    tiles = _Tiles(one_sample, tiling, max(n_images, 1))
    usual = UsualMaps.of(settings, tiles.maps(there))
    return replace(usual, raised=tiles.raised(usual))


def _whole(scorer: Scorer | FoldScorer, images: Iterator[Pixels]) -> Iterator[Float]:
    """The maps of whole images, some at a time: (L - 1, n, H, W) nats."""
    batch: list[Pixels] = []
    for image in images:
        batch.append(image)
        if len(batch) == _AT_ONCE:
            yield scorer.reconstruct(np.stack(batch)).maps
            batch = []
    if batch:
        yield scorer.reconstruct(np.stack(batch)).maps


@dataclass(frozen=True)
class _Tiles:
    """The maps of tiles of n images."""

    scorer: Scorer | FoldScorer
    tiling: Tiling
    n_images: int
    parts: list[tuple[Places, Float]] = field(default_factory=list)  # of some images, for `raised`

    def maps(self, images: Iterator[Pixels]) -> Iterator[Float]:
        """The maps of some tiles of each image, drawn by chance: (L - 1, n, H, W) nats."""
        n_tiles, every = (-(-n // m) for n, m in ((_TILES, self.n_images), (self.n_images, _PARTS)))
        random = np.random.Generator(np.random.Philox(key=_SEED))
        for i, image in enumerate(images):
            places = self.tiling.places(*image.shape[1:])
            drawn = random.choice(len(places), min(n_tiles, len(places)), replace=False)
            yield tiles_of(self.scorer, self.tiling, image, places[drawn]).maps
            if i % every == 0:
                part = self._part(places, random)
                maps = tiles_of(self.scorer, self.tiling, image, part).maps
                self.parts.append((part - part[0], maps))

    def _part(self, places: Places, random: np.random.Generator) -> Places:
        """The places of some tiles of an image that make a rectangle, drawn by chance."""
        reach = (_PART - 1) * self.tiling.size  # from its first tile to its last
        firsts = places[(places <= np.maximum(places.max(axis=0) - reach, 0)).all(axis=1)]
        beyond = places - firsts[random.integers(len(firsts))]
        part: Places = places[((beyond >= 0) & (beyond <= reach)).all(axis=1)]
        return part

    def raised(self, usual: UsualMaps) -> Float:
        """The mean of the maps of parts of images when they are closed, (L - 1,) spreads.

        It would be 0 if they were not.
        """
        means = []
        for places, maps in self.parts:
            spreads = usual.spreads(maps).swapaxes(0, 1)  # (n, L - 1, H, W)
            height, width = (int(edge) for edge in places.max(axis=0) + self.tiling.size)
            joined = self.tiling.joined([(places, spreads)], height, width)
            means.append(closed(joined, self.tiling.size).mean(axis=(1, 2)))
        finite = [mean for mean in means if np.isfinite(mean).all()]  # a model may fail on an image
        return np.asarray(np.mean(finite or [np.zeros(len(usual.mean))], axis=0), np.float32)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of n rows, from the first to the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _preprocessed(read: Callable[[int], Decoded], config: ModelConfig, row: int) -> Pixels | None:
    """An image as the model takes it; None for one that cannot be read."""
    try:
        image = read(row)
    except HvaeoodError:
        return None
    return preprocess(image, config).pixels
