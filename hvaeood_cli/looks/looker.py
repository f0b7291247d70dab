"""Reads the images of a score file again, and reconstructs them with the model that scored them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.errors import CalibrationError, HvaeoodError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hvaeood_cli.calibration.usual_maps import UsualMaps
    from hvaeood_cli.images.decode import Decoded
    from hvaeood_cli.images.reader import ImageReader
    from hvaeood_cli.looks.look import Look
    from hvaeood_cli.model.bundle import Bundle
    from hvaeood_cli.scoring.folds import FoldScorer
    from hvaeood_cli.scoring.scorer import Scorer
    from hvaeood_cli.store.score_file import ScoreFile


def bundle_of(scores: ScoreFile, model: str | None) -> Bundle:
    """The bundle that made a score file: the one that `model` names, else one with its hash.

    Raises ModelError if it is not among the models here, or if the named one did not make the
    scores.
    """
    from hvaeood_cli.model.bundle import bundle_by_hash, find_bundle

    name, sha256 = scores.header.model_name, scores.header.model_sha256
    if model is not None:
        bundle = find_bundle(model)
        if bundle.sha256 != sha256:
            raise ModelError(
                f"{scores.path} was scored with {name} ({sha256[:12]}), not with {bundle.name} "
                f"({bundle.sha256[:12]})",
                "name the model that made the scores, or score again",
            )
        return _of_one_shape(scores, bundle)
    found = bundle_by_hash(sha256, Path(scores.header.model_path))
    if found is not None:
        return _of_one_shape(scores, found)
    raise ModelError(
        f"the model {name} ({sha256[:12]}) that made {scores.path} is not among the models here",
        "--model FOLDER says where it is",
    )


def _of_one_shape(scores: ScoreFile, bundle: Bundle) -> Bundle:
    """The bundle. Raises ModelError where the score file says that it has other layers.

    Its hash says that it made the scores: so the file is not what was written.
    """
    there, here = scores.n_layers, bundle.config.n_layers
    if there != here:
        raise ModelError(
            f"{scores.path} says that {bundle.name} has {there} layers; it has {here}",
            "score the images again",
        )
    return bundle


class Glancing:
    """A `Looker` that shows images alone, without reconstructions: it needs no model."""

    def __init__(self, scores: ScoreFile, reader: ImageReader) -> None:
        self._scores = scores
        self._reader = reader

    def __call__(self, rows: Sequence[int]) -> list[Look | HvaeoodError]:
        """A look at each row, or the error that prevents it, in the order of `rows`."""
        return [self._glance(row) for row in rows]

    def _glance(self, row: int) -> Look | HvaeoodError:
        import numpy as np

        from hvaeood_cli.images.preprocess import preprocess
        from hvaeood_cli.looks.look import Look

        try:
            image = self._reader.read(bytes(self._scores.names[row]))
        except HvaeoodError as error:
            return error
        run = self._scores.header
        pixels = preprocess(image, run).pixels
        observed, none = (pixels / 255.0).astype("f4"), np.zeros((0, *pixels.shape), "f4")
        return Look(image.pixels, observed, none, _is_changed(self._scores, row, pixels))


class Looking:
    """A `Looker` for one score file. The model is loaded at the first look."""

    def __init__(
        self,
        scores: ScoreFile,
        reader: ImageReader,
        model: str | None = None,
        device: str = "auto",
        calibration: Path | None = None,
    ) -> None:
        """model: a name or a folder; None: the model that made the scores, found by its hash.

        calibration: one that was named, beside which alone the usual maps are looked for; None:
        beside those of the model. Raises ModelError as `bundle_of` does. Loads neither the model
        nor torch.
        """
        self._scores = scores
        self._reader = reader
        self._device = device
        self.bundle = bundle_of(scores, model)
        self._calibrations = [calibration] if calibration else self.bundle.calibrations

    def __call__(self, rows: Sequence[int]) -> list[Look | HvaeoodError]:
        """A look at each row, or the error that prevents it, in the order of `rows`."""
        read = [self._read(row) for row in rows]
        readable = [
            (row, image)
            for row, image in zip(rows, read, strict=True)
            if not isinstance(image, HvaeoodError)
        ]
        looks = iter(self._looks(readable))
        return [image if isinstance(image, HvaeoodError) else next(looks) for image in read]

    def _read(self, row: int) -> Decoded | HvaeoodError:
        try:
            return self._reader.read(bytes(self._scores.names[row]))
        except HvaeoodError as error:
            return error

    def _looks(self, images: Sequence[tuple[int, Decoded]]) -> list[Look]:
        """A look at each image that could be read, given with its row; reconstructs all at once."""
        from hvaeood_cli.images.preprocess import box_of, preprocess
        from hvaeood_cli.looks.look import Look, Maps
        from hvaeood_cli.scoring.views import views

        if not images:
            return []
        config = self.bundle.config
        pixels = [preprocess(image, config).pixels for _, image in images]
        usual, why_nats = self._usual
        looks = []
        seen = views(self._scorer, pixels, usual)
        for (row, image), one, view in zip(images, pixels, seen, strict=True):
            box = box_of(config, *image.pixels.shape[:2])
            maps = Maps(view.maps, box, why_nats)
            changed = _is_changed(self._scores, row, one)
            looks.append(Look(image.pixels, view.observed, view.from_k, changed, maps))
        return looks

    @property
    def why_nats(self) -> str:
        """Why maps are in nats; empty if it is known what is usual of them."""
        return self._usual[1]

    @cached_property
    def _usual(self) -> tuple[UsualMaps | None, str]:
        """What is usual of these maps, or why nobody knows."""
        from hvaeood_cli.calibration.calibration import settings_of
        from hvaeood_cli.calibration.usual_maps import NOT_KNOWN, find_usual_maps
        from hvaeood_cli.scoring.maps import rule_of

        run = self._scores.header
        wanted = settings_of(run) | {"map": rule_of(self.bundle.config)}
        try:
            found = find_usual_maps(self._calibrations, wanted, run.n_layers, run.image_size)
        except CalibrationError as error:
            return None, error.message
        return found, "" if found else NOT_KNOWN

    @cached_property
    def _scorer(self) -> Scorer | FoldScorer:
        """The model, with the proposal and seed with which it scored."""
        from hvaeood_cli.device import choose_device
        from hvaeood_cli.scoring.folds import scorer_of
        from hvaeood_cli.settings import ScoreSettings

        settings = ScoreSettings(
            n_importance_samples=1,
            proposal=self._scores.header.proposal,
            seed=self._scores.header.seed,
        )
        return scorer_of(self.bundle, settings, choose_device(self._device))


def _is_changed(scores: ScoreFile, row: int, pixels: NDArray[np.uint8]) -> bool:
    """Whether these are not the pixels, (C, H, W), that a row was scored from."""
    from hvaeood_cli.images.content import short_key

    scored = int(scores.content[row])  # 0: the score file does not say
    return scored not in (0, short_key(pixels))
