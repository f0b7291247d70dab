"""A worker of a cluster: it holds a model, reads images by their names, and gives back rows."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.version import __version__

if TYPE_CHECKING:
    from hvaeood_cli.scoring.engines.engine import Engine

_PASSES = 4  # of a stretch: about a second of a core
_TILED = 16  # images of a stretch where each has many tiles


@dataclass(frozen=True)
class Work:
    """What every worker of a run is told as it begins."""

    model: dict[str, bytes]  # `packed` of model/bundle.py
    settings: ScoreSettings
    device: str  # "auto", "cpu", "cuda" or "mps"
    runtime: str  # as `on_runtime` takes it
    batch_size: int | None
    folder: str  # where the names of images begin


@dataclass(frozen=True)
class Place:
    """Where a worker computes, and by what: all but the node must be the same for all workers."""

    node: str
    device: str
    runtime: str
    versions: tuple[tuple[str, str], ...]
    images_per_stretch: int
    images_per_pass: int

    @property
    def kind(self) -> tuple[str, str]:
        return self.device, self.runtime


def versions() -> tuple[tuple[str, str], ...]:
    """The versions that scores may depend on, by package."""
    names = ("torch", "numpy", "pillow")
    return ("hvaeood", __version__), *((name, version(name)) for name in names)


class Worker:
    """An actor of Ray, which calls its methods one after the other."""

    _held: tuple[Any, Manifest] | None = None

    def begin(self, work: Work) -> Place:
        """Load the model. Raises HvaeoodError for what this node lacks, with its name."""
        try:
            return self._begin(work)
        except HvaeoodError as error:
            error.message = f"node {platform.node()}: {error.message}"
            raise

    def _begin(self, work: Work) -> Place:
        from hvaeood_cli.device import choose_device
        from hvaeood_cli.model.bundle import unpacked
        from hvaeood_cli.scoring.engines.choosing import engine_for
        from hvaeood_cli.scoring.folds import scorer_of
        from hvaeood_cli.scoring.runtimes import on_runtime

        try:
            os.chdir(work.folder)
        except OSError as error:
            raise HvaeoodError(
                f"no folder {work.folder} ({error.strerror})",
                "start hvaeood in a folder that every node has, on storage that they share",
            ) from None
        device = choose_device(work.device)
        with TemporaryDirectory(prefix="hvaeood-") as folder:
            bundle = unpacked(work.model, Path(folder))
            scorer = scorer_of(bundle, work.settings, device)
            scorer, _ = on_runtime(work.runtime or "torch", scorer, bundle, 0)
        self._engine: Engine = engine_for(scorer, work.batch_size, workers=1)
        tiled = scorer.config.fit == "tile"
        one_pass = 1 if tiled else scorer.images_per_pass
        wanted = _TILED if tiled else max(_PASSES * one_pass, scorer.images_per_batch)
        device_, runtime = self._engine.device, self._engine.runtime
        return Place(platform.node(), device_, runtime, versions(), wanted, one_pass)

    def score(self, manifest: list[Any], first: int, last: int) -> list[Batch]:
        """The rows of images first to last - 1. manifest: its reference alone, fetched once."""
        import ray

        reference = manifest[0]
        if self._held is None or self._held[0] != reference:
            self._held = reference, ray.get(reference)
        part = self._held[1].pick(np.arange(first, last))
        return [
            Batch(
                first + batch.first,
                batch.rows,
                {first + i: why for i, why in batch.errors.items()},
                batch.tiles,
            )
            for batch in self._engine.score(part)
        ]
