"""The engine of a model that takes images by tiles: photographs of any size, in bounded memory.

    images  ->  tiles, in passes of one size  ->  scores of tiles  ->  a row for each image
    read         each as full as can be,           kept until the       its mean tile, its peak
    ahead        across images                     image is whole

At any time it holds the few images that are read ahead, the tiles of a few passes with their noise,
and the scores of one image's tiles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hvaeood_cli.device import threads
from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.content import content_key, shortened, stamp_key
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.images.tiling import Places, Tiling
from hvaeood_cli.scoring.folds import FoldScorer, fold_of
from hvaeood_cli.scoring.scorer import Float, ImageNoise, Pixels, Scorer
from hvaeood_cli.scoring.side_by_side import side_by_side
from hvaeood_cli.store.columns import Rows, Sizes, Tiles, blank_rows, columns, tile_dtype
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.status import STATUS_CODES


@dataclass
class _Image:
    """An image on its way to a row. What cannot be read has no tiles, and its row says why."""

    row: Rows  # (1,): hashes, conversions and status filled in
    error: str = ""
    pixels: Pixels | None = None  # (C, h, w), scaled
    places: Places = field(default_factory=lambda: np.zeros((0, 2), np.int64))  # of its tiles there
    size: tuple[int, int] = (0, 0)  # height and width before it was scaled
    found: list[dict[str, Float]] = field(default_factory=list)  # scores of its tiles so far
    n_found: int = 0

    @property
    def is_whole(self) -> bool:
        return self.n_found == len(self.places)


class _Piece(NamedTuple):
    """Consecutive tiles of an image."""

    image: _Image
    first: int
    last: int


_Scored = tuple[_Piece, dict[str, Float]]
"""A piece, and the scores of its tiles by name."""


class _Pass(NamedTuple):
    """Tiles that are scored together, and the noise of each."""

    pieces: list[_Piece]
    tiles: Pixels  # (n, C, T, T)
    noises: list[ImageNoise]


@dataclass(frozen=True)
class TiledEngine:
    """Scores images by tiles. Scores do not depend on batch_size or workers; speed does.

    batch_size: tiles scored together, rounded up to whole passes of the network; None for one pass.
    workers: threads that read images ahead, and as many that cut tiles, draw their noise and, on a
    CPU, score them; 0 for none, None for one a core on a CPU and one else.
    """

    scorer: Scorer | FoldScorer
    tiling: Tiling
    batch_size: int | None = None
    workers: int | None = None
    note: str = ""

    @property
    def device(self) -> str:
        return self.scorer.device.type

    @property
    def runtime(self) -> str:
        return self.scorer.runtime

    def score(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        """Yield the rows of the images from `start` on, with their tiles, in order."""
        first, waiting = start, deque[_Image]()
        for pieces in self._passes(manifest, start):
            for piece, scores in pieces:
                if piece.first == 0:
                    waiting.append(piece.image)
                if piece.last:
                    piece.image.found.append(scores)
                    piece.image.n_found = piece.last
            whole = []
            while waiting and waiting[0].is_whole:
                whole.append(waiting.popleft())
            if whole:
                yield _batch(first, whole, self.tiling)
                first += len(whole)

    def _passes(self, manifest: Manifest, start: int) -> Iterator[list[_Scored]]:
        """The scores of the tiles of each pass, in order; on a CPU a pass a core."""
        on_cpu = self.device == "cpu"
        workers = (threads() if on_cpu else 1) if self.workers is None else self.workers
        places = range(start, len(manifest))
        pieces = self._pieces(side_by_side(lambda i: self._read(manifest, i), places, workers))
        if on_cpu:
            with self.scorer.computing():
                yield from side_by_side(
                    lambda some: self._scored(self._prepared(some)), pieces, workers
                )
        else:
            yield from map(self._scored, side_by_side(self._prepared, pieces, workers))

    def _read(self, manifest: Manifest, i: int) -> _Image:
        """An image, scaled, with the places of its tiles."""
        config = self.scorer.config
        row = blank_rows(1, self.scorer.sizes)
        row["stamp"] = stamp_key(manifest.stamp(i))  # before it is read: it may change meanwhile
        try:
            image, sha256 = manifest.read(i)
            pixels, conversions = preprocess(image, config)
        except ImageError as error:
            row["status"] = STATUS_CODES.get(error.code, STATUS_CODES["unreadable"])
            row["sha256"] = np.frombuffer(error.sha256 or bytes(32), np.uint8)
            return _Image(row, str(error))
        content = content_key(pixels)
        row["sha256"] = np.frombuffer(sha256, np.uint8)
        row["content"], row["conversions"] = shortened(content), int(conversions)
        if isinstance(self.scorer, FoldScorer):
            row["fold"] = fold_of(content, len(self.scorer.scorers))
        places = self.tiling.places(*pixels.shape[1:])
        row["n_tiles"] = len(places)
        return _Image(row, "", pixels, places, (image.pixels.shape[0], image.pixels.shape[1]))

    def _pieces(self, images: Iterator[_Image]) -> Iterator[list[_Piece]]:
        """Fill each pass with the tiles of one image after the other."""
        one_pass = self.scorer.images_per_pass
        size = -(-(self.batch_size or one_pass) // one_pass) * one_pass
        pieces, room = list[_Piece](), size
        for image in images:
            n = len(image.places)
            if n == 0:
                pieces.append(_Piece(image, 0, 0))
            first = 0
            while first < n:
                last = min(n, first + room)
                pieces.append(_Piece(image, first, last))
                first, room = last, room - (last - first)
                if room == 0:
                    yield pieces
                    pieces, room = [], size
        if pieces:
            yield pieces

    def _prepared(self, pieces: list[_Piece]) -> _Pass:
        """Cut the tiles of a pass and draw their noise."""
        cut = [
            self.tiling.cut(image.pixels, image.places[first:last])
            for image, first, last in pieces
            if image.pixels is not None
        ]
        config = self.scorer.config
        none = np.zeros((0, config.image_channels, config.image_size, config.image_size), np.uint8)
        tiles = np.concatenate(cut or [none])
        return _Pass(pieces, tiles, self.scorer.noises([content_key(tile) for tile in tiles]))

    def _scored(self, one: _Pass) -> list[_Scored]:
        """The scores of each piece's tiles, by name."""
        scores: dict[str, Float] = {}
        if len(one.tiles) and isinstance(self.scorer, FoldScorer):
            n_tiles = [piece.last - piece.first for piece in one.pieces]
            folds = np.repeat([int(piece.image.row["fold"][0]) for piece in one.pieces], n_tiles)
            scores = self.scorer.score(one.tiles, one.noises, folds)
        elif len(one.tiles):
            scores = self.scorer.score(one.tiles, one.noises)
        found, begin = list[_Scored](), 0
        for piece in one.pieces:
            end = begin + piece.last - piece.first
            found.append((piece, {name: values[begin:end] for name, values in scores.items()}))
            begin = end
        return found


def _batch(first: int, images: list[_Image], tiling: Tiling) -> Batch:
    """The rows of consecutive images whose tiles are all scored."""
    tiles = np.concatenate([_finished(image, tiling) for image in images])
    rows = np.concatenate([image.row for image in images])
    errors = {first + i: image.error for i, image in enumerate(images) if image.error}
    return Batch(first, rows, errors, tiles)


def _finished(image: _Image, tiling: Tiling) -> Tiles:
    """Fill in the scores of an image's row, and return its tiles."""
    n = len(image.places)
    tiles = np.zeros(n, tile_dtype(Sizes(image.row["lower_bound"].shape[1])))
    if image.pixels is None or n == 0:
        return tiles
    measured = set(image.found[0])
    for column in columns("scores"):
        if column.name not in measured:
            continue
        values = np.concatenate([part[column.name] for part in image.found])  # (n, ...)
        if column.over_tiles == "max":
            image.row[column.name] = values.max(0)
        else:  # the order in which they are added is that of the tiles, whatever the passes
            image.row[column.name] = values.mean(0, dtype=np.float64)
        if column.of_each_tile:
            tiles[column.name] = values
    tiles["place"] = tiling.in_original(image.places, *image.size)
    return tiles
