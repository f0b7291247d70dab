"""Which engine scores the images of a model."""

from __future__ import annotations

from hvaeood_cli.images.preprocess import tiling_of
from hvaeood_cli.scoring.engines.local import LocalEngine
from hvaeood_cli.scoring.engines.tiled import TiledEngine
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.scorer import Scorer


def engine_for(
    scorer: Scorer | FoldScorer,
    batch_size: int | None = None,
    workers: int | None = None,
    note: str = "",
) -> LocalEngine | TiledEngine:
    """The engine of one machine for a model. The rest is as in `LocalEngine`."""
    tiling = tiling_of(scorer.config)
    if tiling is None:
        return LocalEngine(scorer, batch_size, workers, note)
    return TiledEngine(scorer, tiling, batch_size, workers, note)
