"""A model, its settings, its calibration and what runs it: what commands and `Detector` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hvaeood_cli.calibration.calibration import (
    MUST_AGREE,
    Calibration,
    find_calibration,
)
from hvaeood_cli.calibration.usual_maps import UsualMaps, find_usual_maps
from hvaeood_cli.errors import CalibrationError, ImageError, UsageError
from hvaeood_cli.images.preprocess import preprocess, rules_of, tiling_of
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.bundle import DEFAULT_MODEL, Bundle, find_bundle
from hvaeood_cli.scoring.maps import rule_of
from hvaeood_cli.scoring.run import ScoringRun
from hvaeood_cli.settings import ScoreSettings, usual_samples
from hvaeood_cli.store.score_file import ScoreFile

if TYPE_CHECKING:
    from hvaeood_cli.images.tiling import Tiling
    from hvaeood_cli.scoring.engines.engine import Engine
    from hvaeood_cli.scoring.folds import FoldScorer
    from hvaeood_cli.scoring.scorer import Scorer

T = TypeVar("T")


class Assembly:
    """A model with all that it takes to score by it. Each part is loaded at its first use.

    The parameters are those of `Detector`, which is this with scikit-learn's methods.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        n_importance_samples: int | None = None,
        n_importance_samples_k: int = 1,
        proposal: str = "mean",
        seed: int = 0,
        precision: str = "float32",
        statistics: str = "",
        device: str = "auto",
        runtime: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        engine: str = "local",
        address: str = "auto",
    ) -> None:
        self.model = model
        self.n_importance_samples = n_importance_samples
        self.n_importance_samples_k = n_importance_samples_k
        self.proposal = proposal
        self.seed = seed
        self.precision = precision
        self.statistics = statistics
        self.device = device
        self.runtime = runtime
        self.batch_size = batch_size
        self.workers = workers
        self.engine = engine
        self.address = address

    def run(self, manifest: Manifest, label: int | None = None) -> ScoringRun:
        """A run over a manifest, which can then be scored into memory or into a file.

        label: 0 if all its images belong, 1 if none does, None if that is not known.
        """
        device = "" if self.device == "auto" else self.device.partition(":")[0]
        self._check_engine(manifest)
        return ScoringRun(
            manifest,
            self.bundle,
            self.settings,
            lambda runtime: self._engine(runtime, len(manifest)),
            cast(Any, label),
            device,
            self._named_runtime,
        )

    @property
    def bundle(self) -> Bundle:
        """The bundle that `model` names. Raises ModelError."""
        name = os.fspath(self.model)
        return self._kept("bundle", name, lambda: find_bundle(name))

    @property
    def settings(self) -> ScoreSettings:
        """The parameters that can change a score, validated. Raises UsageError."""
        given = {name: getattr(self, name) for name in ScoreSettings.model_fields}
        if self.n_importance_samples is None:
            given["n_importance_samples"] = usual_samples(self.bundle.config.fit == "tile")
        try:
            return ScoreSettings.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            what = first["msg"].removeprefix("Value error, ")
            raise UsageError(
                f"{name}: {what}, not {getattr(self, name)!r}", f"give another {name}"
            ) from None

    @property
    def scorer(self) -> Scorer | FoldScorer:
        """The model on its device; it is loaded at the first use."""
        from hvaeood_cli.device import choose_device
        from hvaeood_cli.scoring.folds import scorer_of

        return self._kept(
            "scorer",
            (self.bundle, self.settings, self.device),
            lambda: scorer_of(self.bundle, self.settings, choose_device(self.device)),
        )

    @property
    def calibration(self) -> Calibration | None:
        """The model's calibration for these settings; None if it has none."""
        wanted = self.wanted_settings
        found = self._kept(
            "calibration",
            tuple(wanted.values()),
            lambda: find_calibration(self.bundle.calibrations, wanted),
        )
        return None if found is None or found.mismatches(wanted) else found

    @property
    def usual_maps(self) -> UsualMaps | None:
        """What is usual of a map, as it is kept beside a calibration; None if it is not.

        Raises CalibrationError for a file that cannot be read.
        """
        config = self.bundle.config
        places = self.bundle.calibrations
        return find_usual_maps(places, self._of_maps, config.n_layers, config.image_size)

    @property
    def _of_maps(self) -> dict[str, Any]:
        """The settings that what is usual of a map must share with this model's maps."""
        return self.calibration_settings | {"map": rule_of(self.bundle.config)}

    @property
    def calibration_settings(self) -> dict[str, Any]:
        """The settings that a calibration must share with this detector's scores."""
        known = self.settings.model_dump(mode="json")
        rules = rules_of(self.bundle.config)
        known |= {"model_sha256": self.bundle.sha256, "preprocessing": rules}
        return {key: known[key] for key in MUST_AGREE}

    @property
    def wanted_settings(self) -> dict[str, Any]:
        """The same, and the statistics that its scores have for a calibration to take."""
        return self.calibration_settings | {"statistics": self.settings.statistics}

    def calibration_from(
        self, scores: ScoreFile, allow_training_images: bool = False
    ) -> Calibration:
        """A calibration of this model from scores of held-out in-distribution images.

        Raises CalibrationError for scores of another model, for images that the model was trained
        on (unless they are allowed), and for too few images.
        """
        there, here = scores.header.model_sha256, self.bundle.sha256
        if there != here:
            raise CalibrationError(
                f"{scores.path} was scored with model {scores.header.model_name} "
                f"({there[:12]}), this is {self.bundle.name} ({here[:12]})",
                "name the model that made the scores, or score again",
            )
        if not allow_training_images:
            self.check_held_out(scores.content, scores.name)
        return Calibration.of(scores)

    def check_held_out(self, content: NDArray[np.uint64], name: Callable[[int], str]) -> None:
        """Raise CalibrationError if the model was trained on any of these images.

        content: their keys, (N,), 0 for those that cannot be read. name: of the image at a place.
        """
        seen = np.flatnonzero(self.bundle.trained_on(content))
        if len(seen):
            raise CalibrationError(
                f"{len(seen):,} of {np.count_nonzero(content):,} images were in the training "
                f"set, {name(int(seen[0]))} among them: thresholds from them would be too low",
                "calibrate on images held out of training: --skip-training-images leaves these "
                "out, --allow-training-images takes them",
            )

    def preprocessed(self, manifest: Manifest) -> list[NDArray[np.uint8]]:
        """Each image as the model takes it, (C, h, w) uint8. Raises ImageError, naming it."""
        return list(self._each(manifest))

    def _each(self, manifest: Manifest) -> Iterator[NDArray[np.uint8]]:
        """As `preprocessed`, one at a time."""
        for i in range(len(manifest)):
            try:
                image, _ = manifest.read(i)
            except ImageError as error:
                name = os.fsdecode(manifest.name(i))
                raise ImageError(error.code, f"{name}: {error}", error.sha256) from None
            yield preprocess(image, self.bundle.config).pixels

    @property
    def _tiling(self) -> Tiling | None:
        return tiling_of(self.bundle.config)

    @property
    def _named_runtime(self) -> str:
        """The runtime as score files name it, empty for "auto". Raises UsageError."""
        if self.runtime in ("auto", "torch"):
            return self.runtime.replace("auto", "")
        from hvaeood_cli.scoring.runtimes import named_runtime

        return named_runtime(self.runtime)

    def _engine(self, runtime: str, n_images: int) -> Engine:
        if self.engine == "ray":
            return self._ray_engine(runtime)
        from hvaeood_cli.scoring.engines.choosing import engine_for
        from hvaeood_cli.scoring.runtimes import on_runtime

        scorer, note = self._kept(
            "on_runtime",
            (self.bundle, self.settings, self.device, runtime or n_images),
            lambda: on_runtime(runtime, self.scorer, self.bundle, n_images),
        )
        return engine_for(scorer, self.batch_size, self.workers, note)

    def _ray_engine(self, runtime: str) -> Engine:
        from hvaeood_cli.model.bundle import packed
        from hvaeood_cli.scoring.engines.ray import RayEngine
        from hvaeood_cli.scoring.engines.worker import Work

        model, folder = packed(self.bundle), str(Path.cwd())
        work = Work(model, self.settings, self.device, runtime, self.batch_size, folder)
        return RayEngine(work, self.address, self.workers)

    def _check_engine(self, manifest: Manifest) -> None:
        """Raise UsageError or SourceError for what an engine cannot do, before any work."""
        if self.engine not in ("local", "ray"):
            raise UsageError(f"no engine is called {self.engine!r}", "engines: local, ray")
        if self.engine == "ray":
            from hvaeood_cli.scoring.engines.ray import check_ray, check_travels

            check_ray()
            check_travels(manifest)
            if ":" in self.device:
                raise UsageError(
                    f"device {self.device} is one of many: Ray gives each worker its own",
                    "--device cuda",
                )

    def _kept(self, what: str, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave last time, made anew only if `key` has changed since."""
        kept: dict[str, tuple[Hashable, Any]] = self.__dict__.setdefault("_derived", {})
        if what not in kept or kept[what][0] != key:
            kept[what] = (key, make())
        return cast(T, kept[what][1])
