"""Views: what a model makes of images of any size, whether it takes them whole or by tiles.

What is made of overlapping tiles is joined by its mean, tile by tile, so that no more is in memory
than the image's own views and one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hvaeood_cli.calibration.usual_maps import UsualMaps
from hvaeood_cli.images.content import content_key
from hvaeood_cli.images.preprocess import tiling_of
from hvaeood_cli.images.tiling import Places, Tiling
from hvaeood_cli.scoring.folds import FoldScorer, fold_of
from hvaeood_cli.scoring.maps import closed
from hvaeood_cli.scoring.scorer import Float, Pixels, Reconstructions, Scorer


class View(NamedTuple):
    """What a model makes of one image; pictures are on the scale 0 (black) to 1 (white).

    h and w are those of the image as the model takes it: of one that is cut into tiles, scaled.
    """

    observed: Float  # (C, h, w): the x that was scored
    from_k: Float  # (L, C, h, w): E[x|z] by k, where z_{<=k} came from the prior
    maps: Float  # (L - 1, h, w): spreads above what is usual, or nats where that is not known


def views(
    scorer: Scorer | FoldScorer, images: Sequence[Pixels], usual: UsualMaps | None
) -> list[View]:
    """A view of each image. images: as the model takes them, (C, h, w) each.

    usual: None where it is not known what is usual of a map.
    """
    tiling = tiling_of(scorer.config)
    if tiling is not None:
        return [_joined(scorer, tiling, image, usual) for image in images]
    found = _calibrated(scorer.reconstruct(np.stack(images)), usual)
    return [View(x, found.from_k[:, i], found.maps[:, i]) for i, x in enumerate(found.observed)]


def tiles_of(
    scorer: Scorer | FoldScorer, tiling: Tiling, image: Pixels, places: Places
) -> Reconstructions:
    """What a model makes of some tiles of an image. places: theirs, (n, 2)."""
    tiles = tiling.cut(image, places)
    if isinstance(scorer, FoldScorer):
        fold = fold_of(content_key(image), len(scorer.scorers))
        return scorer.reconstruct(tiles, np.full(len(tiles), fold))
    return scorer.reconstruct(tiles)


def _joined(
    scorer: Scorer | FoldScorer, tiling: Tiling, image: Pixels, usual: UsualMaps | None
) -> View:
    """The view of an image, (C, h, w), made of its tiles'."""
    height, width = image.shape[1:]
    places, size = tiling.places(height, width), scorer.images_per_pass
    n_layers, channels = scorer.config.n_layers, scorer.config.image_channels

    def parts() -> Iterator[tuple[Places, Float]]:
        for few in (places[first : first + size] for first in range(0, len(places), size)):
            found = _calibrated(tiles_of(scorer, tiling, image, few), usual)
            from_k = found.from_k.swapaxes(0, 1).reshape(len(few), -1, tiling.size, tiling.size)
            yield few, np.concatenate([found.observed, from_k, found.maps.swapaxes(0, 1)], axis=1)

    planes = tiling.joined(parts(), height, width)  # (C + L C + L - 1, h, w)
    observed, from_k, maps = np.split(planes, [channels, channels + n_layers * channels])
    from_k = from_k.reshape(n_layers, channels, height, width)
    if usual is not None:
        maps = closed(maps, tiling.size) - usual.raised[:, None, None]
    return View(observed, from_k, maps)


def _calibrated(found: Reconstructions, usual: UsualMaps | None) -> Reconstructions:
    return found if usual is None else found._replace(maps=usual.spreads(found.maps))
