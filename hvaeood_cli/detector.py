"""The Python API: `Detector`, a scikit-learn estimator made of the same parts as the commands."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.base import BaseEstimator, OutlierMixin

from hvaeood_cli.assembly import Assembly
from hvaeood_cli.calibration.batch import BatchDensity
from hvaeood_cli.calibration.calibration import (
    Calibration,
)
from hvaeood_cli.calibration.conformal import conformal_p, threshold
from hvaeood_cli.calibration.ranking import AGAINST_BATCH
from hvaeood_cli.calibration.rules import check_level, decide
from hvaeood_cli.calibration.usual_maps import UsualMaps
from hvaeood_cli.errors import CalibrationError, ModelError, UsageError
from hvaeood_cli.images.memory import in_memory, open_memory
from hvaeood_cli.images.sources import Manifest, open_sources
from hvaeood_cli.model.bundle import DEFAULT_MODEL, Bundle
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.score_file import ScoreFile

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from hvaeood_cli.images.memory import OneImage
    from hvaeood_cli.scoring.scorer import Reconstructions

Name: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = "Name | Sequence[Name] | NDArray[Any] | Tensor | Sequence[OneImage]"


class Detector(OutlierMixin, Assembly, BaseEstimator):  # type: ignore[misc]
    """Scores images by LLR^{>k}: how much worse the upper latents alone explain an image.

    model: a model's name or folder (`hvaeood models` lists them). n_importance_samples: S, the
    samples of the ELBO; None: 16, or 1 of a model that takes images by tiles.
    n_importance_samples_k: S', the samples of each L^{>k}. proposal: how the k lowest latents leave
    the conditional prior, as its "mean" or as a "sample". seed: keys the noise, together with each
    image's pixels. precision: of the network, "float32", "tf32" or "bfloat16". statistics: what
    else is measured, by name with commas between, or "all": "complexity", "gradient", "path",
    "perturbed", "regret". device: "auto", "cpu", "cuda", "cuda:N" or "mps". runtime: what computes
    the scores on a CPU, "torch" or "openvino"; "auto" is what a score file was begun with, else
    "torch". batch_size: how many images are read and scored together; None: as many as one pass
    takes. workers: threads that read images and, on a CPU, score them side by side; None: one a
    core, or 1 on a GPU; 0: none. engine: "local", or "ray" for the machines of a Ray cluster, of
    which workers is then the number of processes; None: one a core or a GPU of it. address: of that
    cluster, HOST:PORT, "auto" for the one that this machine is in, or "local" to start one here.
    false_positive_rate: the share of images that belong that `predict` may call outliers.

    preset, taken, training: what `fit` trains. preset: its name; None: what suits the images.
    taken: how it takes them, any of "fit", "tile", "stride", "scale", "image_size" and "channels",
    as the options of `hvaeood train`; what is not there, the images decide: by tiles where they are
    large. training: the fields of `TrainSettings` to change. out: the folder of the model that
    `fit` makes; None: a temporary one, which is removed together with the detector.

    X is everywhere a folder, a list of paths, an array or a torch tensor of bytes, (N, H, W),
    (N, H, W, 3) or (N, 3, H, W), or a list of PIL images or of such arrays of one image each.

    >>> detector = Detector()
    >>> detector.score_samples("photos/")            # (N,), higher is more normal
    >>> detector.predict("photos/")                  # (N,), 1 inlier, -1 outlier
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
        false_positive_rate: float = 0.01,
        preset: str | None = None,
        taken: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            model,
            n_importance_samples=n_importance_samples,
            n_importance_samples_k=n_importance_samples_k,
            proposal=proposal,
            seed=seed,
            precision=precision,
            statistics=statistics,
            device=device,
            runtime=runtime,
            batch_size=batch_size,
            workers=workers,
            engine=engine,
            address=address,
        )
        self.false_positive_rate = false_positive_rate
        self.preset = preset
        self.taken = taken
        self.training = training
        self.out = out

    # -- scikit-learn's methods ---------------------------------------------------------------

    def fit(self, X: Images, y: object = None) -> Self:
        """Train a new model on X and use it from now on; y is ignored.

        Pixels of files are kept in the user's cache folder, as `hvaeood train` does, so that they
        need not fit in memory (`hvaeood cache --clear` removes them). With `out`, an interrupted
        training run is resumed. Raises UsageError for settings that do not fit the model,
        TrainingError where training cannot start or must stop.
        """
        from hvaeood_cli.device import choose_device, make_fabric
        from hvaeood_cli.training.choosing import Asked, choose
        from hvaeood_cli.training.pixel_cache import PixelCache
        from hvaeood_cli.training.reading import check_channels, read_pixels
        from hvaeood_cli.training.run import TrainingRun

        manifest = self.manifest(X)
        try:
            asked = Asked(self.preset, **(self.taken or {}))
        except TypeError:
            raise UsageError(
                f"taken: {', '.join(self.taken or ())}", f"any of {', '.join(Asked._fields[1:])}"
            ) from None
        chosen = choose(asked, manifest)
        try:
            settings = chosen.settings.model_validate(
                chosen.settings.model_dump() | dict(self.training or {})
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(
                f"training: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                f"settings: {', '.join(type(chosen.settings).model_fields)}",
            ) from None
        config = chosen.config
        folder = Path(self.out) if self.out else self._temporary_folder()
        held = any(map(in_memory, manifest.sources))
        read = read_pixels(manifest, config, None if held else PixelCache.of(manifest, config))
        if asked.channels is None:
            check_channels(read, config)
        fabric = make_fabric(choose_device(self.device))
        run = TrainingRun(
            config, settings, fabric, folder, folder.name, conversions=read.conversions
        )
        self.bundle_ = run.of(read.pixels, images=read.images)
        return self

    def score_samples(self, X: Images) -> NDArray[np.float64]:
        """Minus the combined score of each image, (N,) nats: higher is more normal.

        NaN if unreadable. Without a calibration for these settings, an image is compared with the
        others of X alone, and a UserWarning says so.
        """
        return self._normality(self.score(X))

    @property
    def offset_(self) -> float:
        """The threshold on `score_samples`: an image below it is an outlier.

        About `false_positive_rate` of the images that belong fall below it; it is the threshold of
        `hvaeood score --fpr`. Raises CalibrationError without a calibration for these settings, and
        for a rate that it has too few images to support.
        """
        calibration = self._supported_calibration()
        return -threshold(calibration.combined, self.false_positive_rate)

    def decision_function(self, X: Images) -> NDArray[np.float64]:
        """`score_samples` minus the threshold, (N,): negative for an outlier, as in `predict`."""
        offset = None if self.calibration is None else self.offset_  # raises before any work
        normal = self._normality(self.score(X))
        return self._above(normal, self._offset_in(normal) if offset is None else offset)

    def predict(self, X: Images) -> NDArray[np.int64]:
        """1 for an inlier, -1 for an outlier or an image that cannot be read, (N,).

        The outliers are what `hvaeood score --fpr` flags: the images whose p is at most
        `false_positive_rate`. Without a calibration for these settings they are the oddest of X, as
        large a share of it, whether or not they belong; a UserWarning says so.
        """
        if self.calibration is None:
            normal = self._normality(self.score(X))
            return np.where(normal >= self._offset_in(normal), 1, -1)
        usual = self._supported_calibration().combined
        p = conformal_p(usual, -self._normality(self.score(X)))
        return np.where(p > self.false_positive_rate, 1, -1)  # NaN is no inlier

    def fit_predict(self, X: Images, y: object = None) -> NDArray[np.int64]:
        """`fit` on X, then `predict` X; y is ignored.

        Images look too usual to a model that was trained on them, so that fewer are found than
        `predict` finds among images that are new to it.
        """
        return self.fit(X).predict(X)

    def __sklearn_is_fitted__(self) -> bool:
        """Always true: a detector has a model from the start, and `fit` replaces it."""
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # images are (N, H, W) or (N, H, W, 3)
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True  # paths
        tags.requires_fit = False
        return tags

    # -- methods that scikit-learn has no name for ----------------------------------------------

    def score(self, X: Images) -> ScoreFile:
        """L^{>k}, LLR^{>k} and their terms for every image, in memory: `.llr`, `["kl"]` ..., nats.

        An image that cannot be read has a row of NaN, and `.errors` says why.
        """
        return self.run(self.manifest(X)).in_memory()

    def p_values(self, X: Images) -> NDArray[np.float64]:
        """The conformal p-value of each image's combined score, (N,); NaN if unreadable.

        Raises CalibrationError where the model has no calibration with these settings.
        """
        usual = self._calibration_or_raise().combined
        return conformal_p(usual, -self._normality(self.score(X)))

    def to_frame(self, X: Images) -> DataFrame:
        """Every image with its scores, p-values and flag at `false_positive_rate`, as a DataFrame.

        A row for each image, the columns of CSV, and `why` a flagged one is odd. Without a
        calibration for these settings none is flagged, `combined` compares an image with the others
        of X alone, and a UserWarning says so. Raises UsageError where pandas is not installed.
        """
        from hvaeood_cli.report import frame

        frame.optional("pandas")
        calibration = self.calibration
        if calibration is None:
            warnings.warn(self._against_batch(), stacklevel=2)
            return frame.to_frame(self.score(X))
        check_level(self._rule, calibration, 1)
        scores = self.score(X)
        decision = decide(calibration, scores, self._rule)
        return frame.to_frame(replace(scores, decision=decision), calibration)

    def calibrate(self, X: Images, *, allow_training_images: bool = False) -> Calibration:
        """Calibrate this detector on held-out in-distribution images; returns the calibration.

        `Calibration.save` writes a file that `hvaeood score --calibration` takes. What is usual of
        a map is `usual_maps_`, whose `save` writes it beside a calibration. Raises CalibrationError
        as `calibration_from` does.
        """
        from hvaeood_cli.scoring.usual import usual_maps

        manifest = self.manifest(X)
        scores = self.run(manifest).in_memory()
        self.calibration_ = self.calibration_from(scores, allow_training_images)
        self.usual_maps_ = usual_maps(self.scorer, self.calibration_settings, manifest)
        return self.calibration_

    def likelihood_ratio(self, X: Images, k: int, l: int | None = None) -> NDArray[np.float32]:
        """LLR^{>k} of every image, (N,) nats; with l, LLR_{<l}^{>k} = L^{<l} - L^{>k} (eq. 21).

        In L^{<l} the latents z_l ... z_L come from the prior (Appendix E). Of an image that is
        taken by tiles it is the mean over them. Raises ImageError for
        an image that cannot be read, ValueError for a k or l that the model does not have.
        """
        manifest = self.manifest(X)
        if self._tiling is None:
            return self.scorer.ratio(self.pixels(manifest), k, l)
        tiles = (self._tiling.cut(image) for image in self._each(manifest))
        return np.array([self.scorer.ratio(one, k, l).mean() for one in tiles], np.float32)

    def reconstruct(self, X: Images) -> Reconstructions:
        """Each image as the model reconstructs it from k = 0 ... L - 1 (the paper's Figure 1).

        With its maps in nats: what each pixel costs at k = 1 ... L - 1. One sample of each latent
        is drawn, whatever S is. Raises ImageError for an image that cannot be read, UsageError for
        images of several sizes that a model takes by tiles.
        """
        from hvaeood_cli.scoring.scorer import Reconstructions
        from hvaeood_cli.scoring.views import views

        pixels = self.pixels(self.manifest(X))
        found = views(self.scorer.of_one_sample, list(pixels), None)
        by_kind = [np.stack(each) for each in zip(*found, strict=True)]
        return Reconstructions(by_kind[0], by_kind[1].swapaxes(0, 1), by_kind[2].swapaxes(0, 1))

    def maps(self, X: Images) -> list[NDArray[np.float32]]:
        """Where each image is odd: of each (L - 1, h, w), the map of k = 1 ... L - 1 at k - 1.

        A map is what each pixel costs when the k lowest latents come from the prior
        (`scoring.maps`), smoothed, in standard deviations above what is usual at that pixel. h and
        w are those of the image as the model takes it; of one that is cut into tiles, scaled.
        Raises ImageError for an image that cannot be read, CalibrationError where it is not known
        what is usual: `reconstruct(X).maps` is in nats and needs no calibration.
        """
        from hvaeood_cli.scoring.views import views

        usual = self.usual_maps
        if usual is None:
            raise CalibrationError(
                f"what is usual of the maps of model {self.bundle.name} is not known",
                "detector.calibrate(held_out), or hvaeood calibrate; reconstruct(X).maps is in "
                "nats and needs neither",
            )
        images = self.preprocessed(self.manifest(X))
        return [view.maps for view in views(self.scorer.of_one_sample, images, usual)]

    def manifest(self, X: Images) -> Manifest:
        """The manifest of X. Raises SourceError or UsageError, as `open_sources` does."""
        if isinstance(X, str | os.PathLike):
            return open_sources([os.fspath(X)])
        source = open_memory(X)
        if source is not None:
            return Manifest([source])
        return open_sources([os.fspath(path) for path in cast("Sequence[Name]", X)])

    def pixels(self, manifest: Manifest) -> NDArray[np.uint8]:
        """Every image as the model takes it, (N, C, H, W) uint8. Raises ImageError, naming it.

        Raises UsageError for images of several sizes that a model takes by tiles.
        """
        images = self.preprocessed(manifest)
        if len({image.shape for image in images}) > 1:
            raise UsageError(
                "these images are of several sizes, and make no array", "give one at a time"
            )
        return np.stack(images)

    # -- what `fit` and `calibrate` made, before what the model has ----------------------------

    @property
    def bundle(self) -> Bundle:
        """The bundle that `fit` made, else the one that `model` names. Raises ModelError."""
        fitted: Bundle | None = getattr(self, "bundle_", None)
        return super().bundle if fitted is None else fitted

    @property
    def calibration(self) -> Calibration | None:
        """What `calibrate` made, else the model's own; None if neither has these settings."""
        made: Calibration | None = getattr(self, "calibration_", None)
        if made is not None and not made.mismatches(self.wanted_settings):
            return made
        return super().calibration

    @property
    def usual_maps(self) -> UsualMaps | None:
        """What is usual of a map: from `calibrate`, else kept beside a calibration; else None.

        Raises CalibrationError for a file that cannot be read.
        """
        made: UsualMaps | None = getattr(self, "usual_maps_", None)
        return made if made is not None and made.fits(self._of_maps) else super().usual_maps

    @property
    def _rule(self) -> Rule:
        """What `predict` flags by. Raises CalibrationError for a rate that is none."""
        return Rule("fpr", self.false_positive_rate)

    def _uncalibrated(self) -> CalibrationError:
        return CalibrationError(
            f"model {self.bundle.name} has no calibration for these settings",
            "detector.calibrate(held_out), or hvaeood calibrate",
        )

    def _calibration_or_raise(self) -> Calibration:
        calibration = self.calibration
        if calibration is None:
            raise self._uncalibrated()
        return calibration

    def _supported_calibration(self) -> Calibration:
        """The calibration. Raises CalibrationError where it cannot support the rate."""
        calibration = self._calibration_or_raise()
        check_level(self._rule, calibration, 1)
        return calibration

    def _normality(self, scores: ScoreFile) -> NDArray[np.float64]:
        """Minus the combined score, (N,) nats; it warns where that is of the batch alone."""
        if self.calibration is None:
            warnings.warn(self._against_batch(), stacklevel=3)
            return -BatchDensity.of(scores).combine(scores)
        return np.where(scores.scored, -self.calibration.combine(scores.columns), np.nan)

    def _against_batch(self) -> str:
        """What a user must know of scores without a calibration, and what mends it."""
        error = self._uncalibrated()
        return f"{error.message}: {AGAINST_BATCH} ({error.hint})"

    def _offset_in(self, normal: NDArray[np.float64]) -> float:
        """The normality below which the oddest `false_positive_rate` of a batch lie; else NaN."""
        ordered = np.sort(normal[~np.isnan(normal)])
        if not len(ordered):
            return math.nan
        return float(ordered[math.ceil(self._rule.level * (len(ordered) - 1) - 1e-9)])

    @staticmethod
    def _above(normal: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
        """normal - offset, both of which may be infinite: where they are equal, 0, no outlier."""
        with np.errstate(invalid="ignore"):
            return np.where(normal == offset, 0.0, normal - offset)

    def _temporary_folder(self) -> Path:
        """A folder that goes when the detector goes, or is fitted again."""
        remove: finalize[..., Self] | None = vars(self).get("_remove")
        if remove is not None:
            remove()
        folder = mkdtemp(prefix="hvaeood-")
        self._remove = finalize(self, rmtree, folder, ignore_errors=True)
        return Path(folder)

    def __getstate__(self) -> dict[str, Any]:
        """The state without what is derived from the parameters: a copy loads its own model.

        Raises ModelError for a fitted model in a temporary folder, which a copy would lose.
        """
        if "_remove" in vars(self):
            raise ModelError(
                "this detector's model lies in a temporary folder and goes with it",
                "Detector(out=FOLDER) keeps the model that fit makes",
            )
        state = dict(super().__getstate__())
        state.pop("_derived", None)
        return state
