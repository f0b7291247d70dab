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
from hvaeood_cli.images.preprocess import Pixels, preprocess
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.scorer import Float, Scorer
from hvaeood_cli.store.score_file import ScoreFile

_AT_ONCE = 64  # images


def usual_maps(
    scorer: Scorer | FoldScorer, settings: Mapping[str, Any], manifest: Manifest
) -> UsualMaps:
    """What is usual of the maps of images that belong, from `ENOUGH` of them at most.

    settings: of the scores of these images. Raises CalibrationError where too few can be read.
    """

    def read(row: int) -> Decoded:
        return manifest.read(row)[0]

    pixels = (_preprocessed(read, scorer.config, int(row)) for row in _some(len(manifest)))
    return UsualMaps.of(settings, _maps(scorer, pixels))


def usual_maps_of(scorer: Scorer | FoldScorer, scores: ScoreFile, reader: ImageReader) -> UsualMaps:
    """The same from the images of a score file, read again; what has changed since is left out."""
    rows, config = np.flatnonzero(scores.scored), scorer.config

    def read(row: int) -> Decoded:
        return reader.read(bytes(scores.names[row]))

    def unchanged() -> Iterator[Pixels | None]:
        for row in rows[_some(len(rows))]:
            pixels = _preprocessed(read, config, int(row))
            same = pixels is not None and scores.content[row] in (0, short_key(pixels))
            yield pixels if same else None

    return UsualMaps.of(settings_of(scores.header), _maps(scorer, unchanged()))


def _some(n: int) -> NDArray[np.int64]:
    """`ENOUGH` of n rows at most, from first to last."""
    return np.unique(np.linspace(0, n - 1, min(n, ENOUGH)).round().astype(np.int64))


def _preprocessed(read: Callable[[int], Decoded], config: ModelConfig, row: int) -> Pixels | None:
    """An image as the model takes it; None for one that cannot be read."""
    try:
        image = read(row)
    except HvaeoodError:
        return None
    return preprocess(image, config.image_channels, config.image_size).pixels


def _maps(scorer: Scorer | FoldScorer, images: Iterator[Pixels | None]) -> Iterator[Float]:
    """The maps of the images that there are, some at a time."""
    one_sample, batch = scorer.of_one_sample, []
    for pixels in images:
        if pixels is not None:
            batch.append(pixels)
        if len(batch) == _AT_ONCE:
            yield one_sample.reconstruct(np.stack(batch)).maps
            batch = []
    if batch:
        yield one_sample.reconstruct(np.stack(batch)).maps
