"""The engine of one machine.

On a CPU a pass a core: each thread reads, decodes and scores a batch of its own, so that no core
waits for another. Any other device takes one pass at a time, and threads read ahead for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.device import threads
from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.content import content_key, shortened, stamp_key
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.scorer import ImageNoise, Scorer
from hvaeood_cli.scoring.side_by_side import side_by_side
from hvaeood_cli.store.columns import Rows, blank_rows
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.status import STATUS_CODES


class _Prepared(NamedTuple):
    """A batch that has been read and waits to be scored."""

    first: int
    rows: Rows  # stamps, status, hashes and conversions filled in
    errors: dict[int, str]
    pixels: list[NDArray[np.uint8]]  # of the readable images, (C, H, W)
    noises: list[ImageNoise]


@dataclass(frozen=True)
class LocalEngine:
    """The engine of one machine. Scores do not depend on batch_size or workers; speed does.

    batch_size: images read and scored together, rounded up to whole passes of the network; None
    for as few as suit it. workers: threads that read images and, on a CPU, score them; 0 for none,
    None for one a core on a CPU and one else.
    """

    scorer: Scorer | FoldScorer
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
        """Yield the rows of the images from `start` on, batch by batch, in order."""
        scorer, on_cpu = self.scorer, self.device == "cpu"
        workers = (threads() if on_cpu else 1) if self.workers is None else self.workers
        size = self._batch(len(manifest) - start, workers if on_cpu else 1)
        starts = range(start, len(manifest), size)

        def prepare(first: int) -> _Prepared:
            return _prepare(manifest, scorer, first, min(first + size, len(manifest)))

        def scored(batch: _Prepared) -> Batch:
            readable = batch.rows["status"] == 0
            if batch.pixels:
                for name, values in scorer.score(np.stack(batch.pixels), batch.noises).items():
                    batch.rows[name][readable] = values
            return Batch(batch.first, batch.rows, batch.errors)

        if on_cpu:
            with scorer.computing():
                yield from side_by_side(lambda first: scored(prepare(first)), starts, workers)
        else:
            yield from map(scored, side_by_side(prepare, starts, workers))

    def _batch(self, n_images: int, n_at_once: int) -> int:
        """How many images make a batch: whole passes, and of few images fewer for each thread."""
        one_pass = self.scorer.images_per_pass
        share = -(-n_images // max(1, n_at_once))
        wanted = self.batch_size or min(self.scorer.images_per_batch, share)
        return max(1, -(-wanted // one_pass)) * one_pass


def _prepare(manifest: Manifest, scorer: Scorer | FoldScorer, first: int, last: int) -> _Prepared:
    config = scorer.config
    rows = blank_rows(last - first, scorer.sizes)
    batch, contents = _Prepared(first, rows, {}, [], []), []
    for row, i in zip(rows, range(first, last), strict=True):
        row["stamp"] = stamp_key(manifest.stamp(i))  # before it is read: it may change meanwhile
        try:
            image, sha256 = manifest.read(i)
            pixels, conversions = preprocess(image, config)
        except ImageError as error:
            row["status"] = STATUS_CODES.get(error.code, STATUS_CODES["unreadable"])
            row["sha256"] = np.frombuffer(error.sha256 or bytes(32), np.uint8)
            batch.errors[i] = str(error)
            continue
        row["sha256"] = np.frombuffer(sha256, np.uint8)
        content = content_key(pixels)
        row["content"] = shortened(content)
        row["n_tiles"] = 1
        row["conversions"] = int(conversions)
        batch.pixels.append(pixels)
        contents.append(content)
    batch.noises.extend(scorer.noises(contents))
    return batch
