"""A training run: set some images aside, train on the rest, and write a bundle.

images  ->  train on most     ->  score those set aside  ->  bundle
            checkpoints,          a calibration              weights, provenance,
            resumable             to decide by               what was trained on
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import LEAST_IMAGES, Calibration
from hvaeood_cli.device import precision_of
from hvaeood_cli.errors import CalibrationError, TrainingError, UsageError
from hvaeood_cli.images.arrays import array_in_memory
from hvaeood_cli.images.content import content_key
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.bundle import CONFIG, Bundle, read_bundle, write_bundle
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.scoring.engines.choosing import engine_for
from hvaeood_cli.scoring.run import ScoringRun
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.scoring.usual import usual_maps
from hvaeood_cli.settings import TrainSettings, usual_settings
from hvaeood_cli.store.conversions import done_to_most
from hvaeood_cli.training.agreement import check_same_folder, check_same_images
from hvaeood_cli.training.budget import scoring_seconds
from hvaeood_cli.training.checkpoint import Checkpoints
from hvaeood_cli.training.loop import CHECKPOINT_SECONDS, Progress, Trained, train
from hvaeood_cli.training.pixels import PixelRows
from hvaeood_cli.training.reading import Images
from hvaeood_cli.version import __version__

Pixels = NDArray[np.uint8]

MADE_BY = "train"  # in `about` of a calibration that a training run made

Calibrating = Callable[[str, int, int], None]
"""Called with what is done, to how many images, and of how many."""

_MOST_VALIDATION, _MOST_CALIBRATION = 1000, 2000  # images that are set aside by default
# Images that a calibration needs to flag at a false-positive rate of 1 %.
_FOR_ONE_PER_CENT, _FOR_ONE_PER_CENT_BY_TILES = 150, 100


class Split(NamedTuple):
    """Rows of the images, (n,) each, in order."""

    trained_on: NDArray[np.int64]
    validation: NDArray[np.int64]
    calibration: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingRun:
    """The model to make, how to train it, and where to write it. `of` trains it on images.

    out: the bundle's folder. name: the model's. fabric, compiled, checkpoint_seconds: as in
    `train`. started: the minutes of the settings count from then on, and hold for all of the run,
    the scoring at its end too. command: the command line, which the bundle keeps for people.
    conversions: to how many
    of the images each was done; the bundle keeps them, so that `score` knows what is usual.
    """

    config: ModelConfig
    settings: TrainSettings
    fabric: Fabric
    out: Path
    name: str
    compiled: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    command: Sequence[str] = ()
    conversions: Mapping[str, int] = field(default_factory=dict)
    started: float | None = None  # when the command began, by time.monotonic(); None: now

    def of(
        self,
        pixels: PixelRows | Pixels,
        force: bool = False,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[Progress], None] = lambda progress: None,
        images: Images | None = None,
        calibrating: Calibrating = lambda what, done, total: None,
    ) -> Bundle:
        """Train on (N, C, H, W) 8-bit images or tiles and write the bundle.

        An interrupted run goes on from its last checkpoint, and one that was interrupted while it
        calibrated its model does that anew. The bundle of a finished one is returned as it is, or
        with force trained anew: the old model stays until the new one is written. stop, report: as
        in `train`. calibrating: called while the model is calibrated, with what is done, "scores"
        or "maps", to how many images, and of how many. images: which image each tile is of; None
        where each row is an image. What is set aside are images, with all their tiles. Raises
        UsageError for settings that do not fit the model, and TrainingError for too few images, for
        other settings than those of the run in `out`, for a loss that is not finite, and where
        several processes do not see the same images and the same `out`.
        """
        self._check_settings()
        pixels = PixelRows.of(pixels)
        if self.fabric.world_size > 1:
            check_same_images(self.fabric, pixels.sha256)
            check_same_folder(self.fabric, self.out)
        fingerprint = self._fingerprint(pixels)
        checkpoints = Checkpoints(self.out / "checkpoints", fingerprint)

        def show(what: str, done: int, total: int) -> None:
            if stop():
                raise KeyboardInterrupt
            calibrating(what, done, total)

        if (self.out / CONFIG).is_file() and not force:
            bundle = self._finished(fingerprint)
            if self.fabric.is_global_zero and checkpoints.exist:  # it did not end in order
                if not _is_calibrated(bundle):
                    images, split = self._divided(pixels, images)
                    self._calibrate(bundle, bundle.load_ladder(), images, split.calibration, show)
                checkpoints.clear()
            self.fabric.barrier()
            return bundle
        started = time.monotonic() if self.started is None else self.started
        images, split = self._divided(pixels, images)
        aside = pixels[_at_most(_MOST_VALIDATION, images.rows_of(split.validation))]
        used = pixels.pick(images.rows_of(split.trained_on))
        trained = train(
            used,
            aside,
            self.config,
            self.settings,
            checkpoints,
            self.fabric,
            force,
            self.compiled,
            self.checkpoint_seconds,
            stop,
            report,
            self._reserved_seconds(
                started, len(aside) + int(images.n_tiles[split.calibration].sum())
            ),
        )
        if not self.fabric.is_global_zero:
            self.fabric.barrier()  # process 0 writes the bundle
            return read_bundle(self.out)
        hashes = images.short_keys(split.trained_on)
        counts = {"n_images": len(images)}
        counts |= {f"n_{part}": len(rows) for part, rows in split._asdict().items()}
        if self.config.fit == "tile":
            counts["n_tiles"] = len(used)
        provenance = counts | self._provenance(trained, fingerprint)
        ladder = trained.ladder
        bundle = write_bundle(self.out, self.name, self.config, ladder, provenance, hashes)
        self._calibrate(bundle, ladder, images, split.calibration, show)
        checkpoints.clear()
        self.fabric.barrier()
        return bundle

    def _divided(self, pixels: PixelRows, images: Images | None) -> tuple[Images, Split]:
        """The images, each of which is a row where None are given, and the split of them."""
        images = _each_a_row(pixels) if images is None else images
        return images, self.split(len(images), len(pixels) / len(images))

    def _reserved_seconds(self, started: float, n_aside: int) -> float:
        """Of the minutes that the run may take: what has passed, and what scoring will take."""
        if self.settings.minutes is None:
            return 0.0
        scoring = scoring_seconds(self.config, self.fabric.device, n_aside) if n_aside else 0.0
        return time.monotonic() - started + scoring

    def _check_settings(self) -> None:
        """Raise UsageError for settings that do not go with the model, or with one another."""
        for key in ("free_nats", "posterior_scale"):
            n_values = len(getattr(self.settings, key))
            if n_values not in (0, self.config.n_layers):
                raise UsageError(
                    f"{key} has {n_values} values for {self.config.n_layers} layers",
                    "give one for each layer, z_1 first, or [] for none",
                )
        if precision_of(self.fabric) == "16-mixed" and self.settings.gradient_skip:
            raise UsageError(
                "gradient_skip is not for 16-mixed, whose scaler must see every gradient and "
                "skips those that overflow",
                "--precision bf16-mixed or 32-true",
            )

    def _fingerprint(self, pixels: PixelRows) -> dict[str, Any]:
        """What must be the same each time that the run goes on."""
        return {
            "model": self.config.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "precision": precision_of(self.fabric),
            "images_sha256": pixels.sha256,
        }

    def _finished(self, fingerprint: dict[str, Any]) -> Bundle:
        """The bundle that is in `out`. Raises TrainingError if another run made it."""
        bundle = read_bundle(self.out)
        if bundle.training.get("fingerprint") != fingerprint:
            raise TrainingError(
                f"{self.out} already holds a model, made from other images or settings",
                "choose another --out, or --force to replace it",
            )
        return bundle

    def split(self, n: int, rows_an_image: float = 1.0) -> Split:
        """Which of n images are trained on; the seed decides, so a resumed run agrees.

        rows_an_image: how many tiles of each image there are on average; 1 where it is whole.

        By default a twentieth is set aside for the curve, and a fifth to calibrate on: more of few,
        so that 1 % can be flagged, and none where even that is too little. Raises TrainingError for
        too few images to fill a batch.
        """
        settings = self.settings
        n_validation = settings.validation
        if n_validation is None:
            n_validation = min(_MOST_VALIDATION, n // 20)
        n_calibration = settings.calibration
        if n_calibration is None:
            by_tiles = self.config.fit == "tile"
            needed = _FOR_ONE_PER_CENT_BY_TILES if by_tiles else _FOR_ONE_PER_CENT
            share = min(_MOST_CALIBRATION, max(n // 5, min(needed, n // 3)))
            n_calibration = share if share >= LEAST_IMAGES else 0
        n_aside = n_validation + n_calibration
        if (n - n_aside) * rows_an_image < settings.batch_size:
            raise TrainingError(
                f"{n} images are too few: {n_validation} are set aside for validation, "
                f"{n_calibration} to calibrate on, and a batch takes {settings.batch_size}",
                "give more images, or lower --validation, --calibrate and --batch-size",
            )
        order = np.random.Generator(np.random.Philox(key=settings.seed)).permutation(n)
        ends = (n_validation, n_aside)
        validation, calibration, trained_on = map(np.sort, np.split(order, ends))
        return Split(trained_on, validation, calibration)

    def _calibrate(
        self,
        bundle: Bundle,
        ladder: Ladder,
        images: Images,
        aside: NDArray[np.int64],
        progress: Calibrating,
    ) -> None:
        """Calibrate the new model with the settings that `score` uses by default.

        Copies of images that it was trained on are left out. Fewer than a calibration takes make
        none.
        """
        fresh = aside[~np.isin(images.short_keys(aside), bundle.training_hashes())]
        if len(fresh) < LEAST_IMAGES:
            return
        settings = usual_settings(self.config.fit == "tile")
        engine = engine_for(Scorer.on(ladder, settings, self.fabric.device))
        manifest = images.manifest.pick(fresh)
        run = ScoringRun(manifest, bundle, settings, lambda _: engine)
        scores = run.in_memory(progress=partial(progress, "scores"))
        # Pixels in memory are converted already, so the run itself may not know how.
        converted = done_to_most(self.conversions, bundle.training["n_images"])
        about = {"made_by": MADE_BY, "converted": converted}
        calibration = Calibration.of(scores, about)
        place = bundle.calibration_place()
        with suppress(CalibrationError):  # without them maps stay in nats, and it is said there
            by = partial(progress, "maps")
            usual_maps(engine.scorer, calibration.settings, manifest, by).save(place)
        calibration.save(place)  # last: it is by this file that the model is known as calibrated

    def _provenance(self, trained: Trained, fingerprint: dict[str, Any]) -> dict[str, Any]:
        """How, from what and when the model was made, for `training.json`."""
        return {
            "command": list(self.command),
            "conversions": dict(self.conversions),
            "fingerprint": fingerprint,
            "n_parameters": trained.n_parameters,
            "minutes": round(trained.state.seconds / 60.0, 2),
            "steps": trained.state.step,
            "device": str(self.fabric.device),
            "n_processes": self.fabric.world_size,
            "precision": precision_of(self.fabric),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {
                "hvaeood": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "platform": f"{sys.platform} {platform.machine()}",
            },
            "curve": trained.state.curve,
        }


def _is_calibrated(bundle: Bundle) -> bool:
    """Whether a calibration of this very model is there, made by its training or since."""
    try:
        there = Calibration.load(bundle.calibration_place())
    except CalibrationError:
        return False
    return bool(there.settings["model_sha256"] == bundle.sha256)


def _each_a_row(pixels: PixelRows) -> Images:
    """Whole images, each of which is a row as the model takes it."""
    arrays = [a[:, 0] if a.shape[1] == 1 else a.transpose(0, 2, 3, 1) for a in pixels.arrays]
    manifest = Manifest([array_in_memory(array) for array in arrays])
    if pixels.chosen is not None:
        manifest = manifest.pick(pixels.chosen)
    contents = [content_key(image) for image in pixels]
    return Images(np.arange(len(pixels)), contents, np.ones(len(pixels), np.int64), manifest)


def _at_most(n: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows, or n of them that are spread evenly."""
    return rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)] if len(rows) > n else rows
