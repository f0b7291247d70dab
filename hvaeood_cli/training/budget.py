"""How long scoring will take: what a training run must leave of its time."""

from __future__ import annotations

import time

import numpy as np
import torch

from hvaeood_cli.device import threads
from hvaeood_cli.images.arrays import array_in_memory
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.engines.local import LocalEngine
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import usual_settings
from hvaeood_cli.training.loop import build_seeded

_MARGIN = 1.3  # for reading and decoding, and for a machine that is busier then
_TIMES = 3  # the fastest counts: other work may have held up the others


def scoring_seconds(config: ModelConfig, device: torch.device, n_images: int) -> float:
    """About how long it takes to score n images or tiles with a model, as `score` does by default.

    It is measured, with weights that are not trained yet.
    """
    scorer = Scorer.on(build_seeded(config, 0), usual_settings(config.fit == "tile"), device)
    engine = LocalEngine(scorer)
    n_measured = scorer.images_per_pass * (threads() if device.type == "cpu" else 1)
    colours = (3,) if config.image_channels == 3 else ()
    shape = (n_measured, config.image_size, config.image_size, *colours)
    blank = Manifest([array_in_memory(np.zeros(shape, np.uint8))])
    _seconds(engine, blank)  # the first pass takes longer
    seconds = min(_seconds(engine, blank) for _ in range(_TIMES))
    return _MARGIN * seconds * -(-n_images // n_measured)


def _seconds(engine: LocalEngine, manifest: Manifest) -> float:
    started = time.monotonic()
    for _ in engine.score(manifest):
        pass
    return time.monotonic() - started
