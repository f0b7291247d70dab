"""The engine of one machine: threads read and decode images ahead, and one network scores them.

Where the network runs on a CPU, the threads draw the noise too; any other device draws its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.content import content_key, shortened, stamp_key
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.scorer import ImageNoise, Scorer
from hvaeood_cli.store.columns import Rows, blank_rows
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.status import STATUS_CODES

I = TypeVar("I")
T = TypeVar("T")


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
    for one pass. workers: threads that read ahead; 0 for none.
    """

    scorer: Scorer | FoldScorer
    batch_size: int | None = None
    workers: int = 1

    @property
    def device(self) -> str:
        return self.scorer.device.type

    def score(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        """Yield the rows of the images from `start` on, batch by batch, in order."""
        scorer, one_pass = self.scorer, self.scorer.images_per_pass
        size = -(-(self.batch_size or one_pass) // one_pass) * one_pass

        def prepare(first: int) -> _Prepared:
            return _prepare(manifest, scorer, first, min(first + size, len(manifest)))

        for batch in ahead(prepare, range(start, len(manifest), size), self.workers):
            readable = batch.rows["status"] == 0
            if batch.pixels:
                for name, values in scorer.score(np.stack(batch.pixels), batch.noises).items():
                    batch.rows[name][readable] = values
            yield Batch(batch.first, batch.rows, batch.errors)


def _prepare(manifest: Manifest, scorer: Scorer | FoldScorer, first: int, last: int) -> _Prepared:
    config = scorer.config
    rows = blank_rows(last - first, config.n_layers)
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


def ahead(function: Callable[[I], T], items: Iterable[I], workers: int) -> Iterator[T]:
    """The function's results in order, up to `workers` + 1 of them computed ahead in threads.

    With 0 workers there are no threads and nothing is computed ahead.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hvaeood-read")
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
