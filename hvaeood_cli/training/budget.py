"""How long scoring will take: what a training run must leave of its time."""

from __future__ import annotations

import time

import numpy as np
import torch

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.training.loop import build_seeded

_MARGIN = 1.3  # for reading and decoding, and for a machine that is busier then


def scoring_seconds(config: ModelConfig, device: torch.device, n_images: int) -> float:
    """About how long it takes to score n images with a model, as `score` does by default.

    It is measured, with weights that are not trained yet.
    """
    scorer = Scorer.on(build_seeded(config, 0), ScoreSettings(), device)
    size = scorer.images_per_pass
    pixels = np.zeros((size, config.image_channels, config.image_size, config.image_size), np.uint8)
    scorer.score(pixels)  # the first pass takes longer
    started = time.monotonic()
    scorer.score(pixels)
    return _MARGIN * (time.monotonic() - started) * -(-n_images // size)
