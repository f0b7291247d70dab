"""Cross-fitting: several models of one kind, and each image is scored by one that has not seen it.

The images are split into folds by their content, so that copies of an image are in one fold, and so
that an image is in the same fold whatever its name and its neighbours are. Fold f's model is
trained on all images but those of fold f.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hvaeood_cli.images.content import content_key
from hvaeood_cli.model.bundle import Bundle
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.scorer import Float, ImageNoise, Pixels, Reconstructions, Scorer
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.columns import Sizes

Part = TypeVar("Part")

_PASSES = 4


def fold_of(content: bytes, n_folds: int) -> int:
    """The fold of an image, by its `content_key`. All tiles of an image are in its fold."""
    return int.from_bytes(content[8:16], "little") % n_folds


def folds_of(pixels: Pixels, n_folds: int) -> NDArray[np.int64]:
    """The fold of each image, (N,). pixels: (N, C, H, W)."""
    return np.array([fold_of(content_key(image), n_folds) for image in pixels], np.int64)


@dataclass(frozen=True)
class FoldScorer:
    """A scorer of a cross-fitted model: each image goes to its fold's scorer."""

    scorers: Sequence[Scorer]

    @property
    def config(self) -> ModelConfig:
        return self.scorers[0].config

    @property
    def sizes(self) -> Sizes:
        """As `Scorer.sizes`."""
        return self.scorers[0].sizes

    @property
    def device(self) -> torch.device:
        return self.scorers[0].device

    @property
    def runtime(self) -> str:
        return self.scorers[0].runtime

    @property
    def images_per_pass(self) -> int:
        return self.scorers[0].images_per_pass

    @property
    def images_per_batch(self) -> int:
        """Several passes of each fold: chance does not split images evenly, and padding is lost."""
        return _PASSES * self.images_per_pass * len(self.scorers)

    def computing(self) -> AbstractContextManager[None]:
        """As `Scorer.computing`."""
        return self.scorers[0].computing()

    def noises(self, contents: Sequence[bytes]) -> list[ImageNoise]:
        """As `Scorer.noises`: it depends on the images and the seed, not on the weights."""
        return self.scorers[0].noises(contents)

    def score(
        self,
        pixels: Pixels,
        noises: list[ImageNoise] | None = None,
        folds: NDArray[np.int64] | None = None,
    ) -> dict[str, Float]:
        """As `Scorer.score`, and the fold of each image, (N,).

        folds: of each; None where they are whole images, whose content says it.
        """
        folds = folds_of(pixels, len(self.scorers)) if folds is None else folds

        def of(scorer: Scorer, rows: NDArray[np.int64]) -> dict[str, Float]:
            return scorer.score(pixels[rows], noises and [noises[row] for row in rows])

        parts = self._by_fold(folds, of)
        return {
            name: _joined([(rows, part[name]) for rows, part in parts]) for name in parts[0][1]
        } | {"fold": folds.astype(np.int8)}

    def reconstruct(
        self, pixels: Pixels, folds: NDArray[np.int64] | None = None
    ) -> Reconstructions:
        """As `Scorer.reconstruct`. folds: as in `score`."""
        folds = folds_of(pixels, len(self.scorers)) if folds is None else folds
        parts = self._by_fold(folds, lambda scorer, rows: scorer.reconstruct(pixels[rows]))
        observed = _joined([(rows, part.observed) for rows, part in parts])
        from_k, maps = (
            _joined([(rows, part[i].swapaxes(0, 1)) for rows, part in parts]).swapaxes(0, 1)
            for i in (1, 2)
        )
        return Reconstructions(observed, from_k, maps)

    @property
    def of_one_sample(self) -> FoldScorer:
        """As `Scorer.of_one_sample`."""
        return FoldScorer([scorer.of_one_sample for scorer in self.scorers])

    def ratio(self, pixels: Pixels, k: int, l: int | None = None) -> Float:
        """As `Scorer.ratio`."""
        folds = folds_of(pixels, len(self.scorers))
        return _joined(self._by_fold(folds, lambda scorer, rows: scorer.ratio(pixels[rows], k, l)))

    def _by_fold(
        self, folds: NDArray[np.int64], of: Callable[[Scorer, NDArray[np.int64]], Part]
    ) -> list[tuple[NDArray[np.int64], Part]]:
        """What each fold's scorer makes of its images, beside their rows."""
        rows_of = [np.flatnonzero(folds == fold) for fold in range(len(self.scorers))]
        return [
            (rows, of(scorer, rows))
            for scorer, rows in zip(self.scorers, rows_of, strict=True)
            if len(rows)
        ]


def _joined(parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Float:
    """The values of each part put in their rows, (N, ...)."""
    n = sum(len(rows) for rows, _ in parts)
    first = parts[0][1]
    whole = np.empty((n, *first.shape[1:]), first.dtype)
    for rows, values in parts:
        whole[rows] = values
    return whole


def scorer_of(bundle: Bundle, settings: ScoreSettings, device: torch.device) -> Scorer | FoldScorer:
    """The scorer of any model, on a device. Raises as `Scorer.on` and `Bundle.load_ladder` do."""
    if not bundle.folds:
        return Scorer.on(bundle.load_ladder(), settings, device)
    return FoldScorer([Scorer.on(one.load_ladder(), settings, device) for one in bundle.folds])
