"""Makes the usual maps of a model, from images that belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.maps import rule_of
from hvaeood_cli.scoring.scorer import Float, Scorer
from hvaeood_cli.scoring.views import tiles_of
from hvaeood_cli.store.score_file import ScoreFile

_AT_ONCE = 64  # images
_TILES = 4 * ENOUGH  # of all images together: those of one image are much alike
_SEED = 0  # of which tiles they are


def usual_maps(
    scorer: Scorer | FoldScorer, settings: Mapping[str, Any], manifest: Manifest
) -> UsualMaps:
    """What is usual of the maps of images that belong, from `ENOUGH` of them at most.

    settings: of the scores of these images. Of a model that takes tiles it is what is usual of the
    map of a tile. Raises CalibrationError where too few images can be read.
    """

    def read(row: int) -> Decoded:
        return manifest.read(row)[0]

    rows = _spread(len(manifest), ENOUGH)
    pixels = (_preprocessed(read, scorer.config, int(row)) for row in rows)
    return _of(scorer, settings, pixels, len(rows))


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
    if tiling_of(scorer.config) is None:
        return UsualMaps.of(settings, _whole(one_sample, there))
    n_tiles = -(-_TILES // max(n_images, 1))  # of each
    return UsualMaps.of(settings, _tiles(one_sample, there, n_tiles))


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


def _tiles(scorer: Scorer | FoldScorer, images: Iterator[Pixels], n_tiles: int) -> Iterator[Float]:
    """The maps of some tiles of each image, drawn by chance: (L - 1, n, H, W) nats."""
    tiling = tiling_of(scorer.config)
    assert tiling is not None
    random = np.random.Generator(np.random.Philox(key=_SEED))
    for image in images:
        places = tiling.places(*image.shape[1:])
        drawn = random.choice(len(places), min(n_tiles, len(places)), replace=False)
        yield tiles_of(scorer, tiling, image, places[drawn]).maps


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
