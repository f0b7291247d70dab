"""How long scoring will take: what a training run must leave of its time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.training.loop import build_seeded

_MARGIN = 1.3  # for reading and decoding, and for a machine that is busier then
_PASSES = 3  # the fastest counts: other work may have held up the others


def scoring_seconds(config: ModelConfig, device: torch.device, n_images: int) -> float:
    """About how long it takes to score n images or tiles with a model, as `score` does by default.

    It is measured, with weights that are not trained yet.
    """
    scorer = Scorer.on(build_seeded(config, 0), ScoreSettings(), device)
    size = scorer.images_per_pass
    pixels = np.zeros((size, config.image_channels, config.image_size, config.image_size), np.uint8)
    scorer.score(pixels)  # the first pass takes longer
    seconds = min(_seconds(lambda: scorer.score(pixels)) for _ in range(_PASSES))
    return _MARGIN * seconds * -(-n_images // size)


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started
