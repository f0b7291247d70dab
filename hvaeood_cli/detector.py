"""The Python API: a detector in scikit-learn's manners; the CLI's commands are its verbs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import SETTINGS, Calibration, settings_of
from hvaeood_cli.calibration.conformal import conformal_p, threshold
from hvaeood_cli.calibration.reference import Reference, load_reference
from hvaeood_cli.calibration.rules import Rule, check_level
from hvaeood_cli.errors import CalibrationError, ModelError, StoreError, UsageError
from hvaeood_cli.images.arrays import array_in_memory
from hvaeood_cli.images.decode import Conversion
from hvaeood_cli.images.preprocess import RULES, preprocess
from hvaeood_cli.images.sources import Manifest, open_sources
from hvaeood_cli.model.bundle import DEFAULT_MODEL, Bundle, find_bundle
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.reader import ScoreFile, read_scores
from hvaeood_cli.store.schema import RunHeader, differences
from hvaeood_cli.store.status import STATUS_CODES
from hvaeood_cli.version import __version__

if TYPE_CHECKING:
    from hvaeood_cli.scoring.scorer import BatchScores, Reconstructions, Scorer
    from hvaeood_cli.store.journal import Batch, Journal

Images = NDArray[np.uint8] | str | os.PathLike[str] | Sequence[str]


class Detector:
    """Scores images by LLR^{>k}: how much worse the model explains one from its upper latents.

    model: a name or a folder (`hvaeood models`). n_importance_samples: S, of the ELBO;
    n_importance_samples_k: S', of each L^{>k}. proposal: "mean" or "sample" of the conditional
    prior. seed: of the noise, which is keyed by it and each image's pixels. precision: of the
    network, "float32" or "bfloat16". device: "auto", "cpu", "cuda", "cuda:N", "mps".
    batch_size: images read and scored together, None for one pass; workers: threads that read
    ahead. false_positive_rate: of `predict`, on the model's validation images.

    >>> detector = Detector()
    >>> detector.score_samples("photos/")            # (N,), higher is more normal
    >>> detector.predict("photos/")                  # (N,), 1 inlier, -1 outlier
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        n_importance_samples: int = 16,
        n_importance_samples_k: int = 1,
        proposal: str = "mean",
        seed: int = 0,
        precision: str = "float32",
        device: str = "auto",
        batch_size: int | None = None,
        workers: int = 1,
        false_positive_rate: float = 0.01,
    ) -> None:
        self.model = model
        self.n_importance_samples = n_importance_samples
        self.n_importance_samples_k = n_importance_samples_k
        self.proposal = proposal
        self.seed = seed
        self.precision = precision
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.false_positive_rate = false_positive_rate

    # -- scikit-learn's manners ---------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, by name."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; what was derived from them is dropped."""
        unknown = params.keys() - self.get_params().keys()
        if unknown:
            raise ValueError(f"no parameter {sorted(unknown)[0]!r}")
        kept = {"bundle": self.bundle} if "model" not in params and "bundle" in vars(self) else {}
        derived = {"bundle", "settings", "scorer", "reference"}
        if params.keys() & {"model", *SETTINGS}:
            derived.add("calibration")
        for name in derived:
            vars(self).pop(name, None)
        vars(self).update(params)
        vars(self).update(kept)
        return self

    def fit(
        self, X: Images, y: object = None, *, preset: str = "compact-gray", **train: Any
    ) -> Self:
        """Train a new model on X; y is ignored. `train` are fields of `TrainSettings`.

        out=FOLDER keeps the bundle (and resumes a run that was cut); else it lies in a
        temporary folder, `self.bundle.folder`.
        """
        from hvaeood_cli.device import choose_device, make_fabric
        from hvaeood_cli.model.presets import get_preset
        from hvaeood_cli.training.run import fit_bundle, read_pixels

        chosen = get_preset(preset)
        out = Path(train.pop("out", None) or mkdtemp(prefix="hvaeood-"))
        settings = chosen.train.model_validate(chosen.train.model_dump() | train)
        pixels = read_pixels(self.manifest(X), chosen.model).pixels
        fabric = make_fabric(choose_device(self.device))
        bundle = fit_bundle(pixels, out, out.name, chosen.model, settings, fabric)
        self.set_params(model=str(out))
        self.bundle = bundle
        return self

    def score_samples(self, X: Images) -> NDArray[np.float64]:
        """Minus the suspicion of each image, (N,): higher is more normal; NaN if unreadable.

        With a calibration, suspicion is its combined score; without, the reference's.
        """
        scores = self.score(X)
        if self.calibration:
            return -np.where(
                np.isnan(scores.bits_per_dim), np.nan, self.calibration.combined(scores)
            )
        return -self._judge().suspicion(scores.llr)

    @property
    def offset_(self) -> float:
        """Below it, score_samples are outliers, at `false_positive_rate` of what belongs.

        With a calibration, as `hvaeood score --fpr` has it; without, a quantile of the model's
        validation images. Raises CalibrationError for a rate that the calibration cannot support.
        """
        if self.calibration:
            check_level(Rule("fpr", self.false_positive_rate), self.calibration, 1)
            return -threshold(self.calibration.oddness, self.false_positive_rate)
        judge = self._judge()
        return -float(np.quantile(judge.suspicion(judge.llr), 1.0 - self.false_positive_rate))

    def decision_function(self, X: Images) -> NDArray[np.float64]:
        """score_samples - offset_, (N,): negative is an outlier."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Images) -> NDArray[np.int64]:
        """1 for an inlier, -1 for an outlier or an image that cannot be read, (N,)."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    # -- the method's own verbs ---------------------------------------------------------------

    def p_values(self, X: Images) -> NDArray[np.float64]:
        """Conformal p-value of each image's combined score, (N,); NaN if unreadable.

        Raises CalibrationError where the model has no calibration with these settings.
        """
        if self.calibration is None:
            raise CalibrationError(
                f"model {self.bundle.name} has no calibration for these settings",
                "detector.calibrate(held_out), or hvaeood calibrate",
            )
        return conformal_p(self.calibration.oddness, -self.score_samples(X))

    def calibrate(self, X: Images, *, allow_training_images: bool = False) -> Calibration:
        """Calibrate on held-out in-distribution images, for this detector.

        The result's `save` keeps it, `hvaeood score --calibration` takes it. Raises
        CalibrationError as `calibration_from`.
        """
        with TemporaryDirectory(prefix="hvaeood-") as folder:
            out = Path(folder) / "calibration.h5"
            self.score_to_file(self.manifest(X), out)
            found = self.calibration_from(read_scores(out), allow_training_images)
        self.calibration = found
        return found

    def calibration_from(
        self, scores: ScoreFile, allow_training_images: bool = False
    ) -> Calibration:
        """A calibration of this model from scores of held-out in-distribution images.

        Raises CalibrationError for another model's scores, for images that the model was trained
        on, and for too few.
        """
        there, here = scores.attributes["model_sha256"], self.bundle.sha256
        if there != here:
            raise CalibrationError(
                f"{scores.path} was scored with model {scores.attributes['model_name']} "
                f"({there[:12]}), this is {self.bundle.name} ({here[:12]})",
                "name the model that made it, or score again",
            )
        seen = scores.scored & np.isin(scores.content, self.bundle.training_hashes())
        if seen.any() and not allow_training_images:
            name = bytes(scores.names[seen][0]).decode("utf-8", "surrogateescape")
            raise CalibrationError(
                f"{int(seen.sum()):,} of {int(scores.scored.sum()):,} images were in the training "
                f"set, {name} among them: thresholds from them would be too low",
                "calibrate on images held out of training, or --allow-training-images",
            )
        return Calibration.of(scores)

    def score(self, X: Images) -> BatchScores:
        """L^{>k}, LLR^{>k} and their terms for every image, nats; NaN rows if unreadable."""
        from hvaeood_cli.scoring.scorer import BatchScores

        batches = [batch.rows for batch in self.stream(self.manifest(X))]
        rows = np.concatenate(batches)
        return BatchScores(*(np.ascontiguousarray(rows[name]) for name in BatchScores._fields))

    def likelihood_ratio(self, X: Images, k: int, l: int | None = None) -> NDArray[np.float32]:
        """LLR^{>k} of every image, (N,) nats; with l, LLR_{<l}^{>k} = L^{<l} - L^{>k} (eq. 21).

        In L^{<l} the latents z_l ... z_L come from the prior (Appendix E). Raises ImageError for
        an image that cannot be read, ValueError for a k or l that the model does not have.
        """
        return self.scorer.ratio(self.pixels(self.manifest(X)), k, l)

    def reconstruct(self, X: Images) -> Reconstructions:
        """Every image as seen from k = 0 ... L - 1 (the paper's Figure 1). Raises ImageError."""
        return self.scorer.reconstruct(self.pixels(self.manifest(X)))

    def stream(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        """Score a manifest from row `start` on, a batch at a time."""
        from hvaeood_cli.scoring.engines.local import score_manifest

        return score_manifest(manifest, self.scorer, start, self.batch_size, self.workers)

    def score_to_file(
        self,
        manifest: Manifest,
        out: Path,
        *,
        label: int | None = None,
        force: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> bool:
        """Score a manifest into a score file; resume a run that was cut.

        Returns False when the file was there already, made from the same images, model and
        settings. Raises StoreError when it, or the journal, was made from others: which, is said.
        progress: called with rows done and the total.
        """
        from hvaeood_cli.store.journal import Journal, journal_path

        header = self.header(manifest, label)
        if out.exists() and not force:
            _check_done(out, header)
            with suppress(StoreError):  # left by a kill between the last two steps
                if journal_path(out).exists():
                    Journal.open(journal_path(out), header).close()
                    journal_path(out).unlink()
            return False
        try:
            with Journal.open(journal_path(out), header, force) as journal:
                self._fill(journal, manifest, out, progress)
                journal_path(out).unlink()  # while it is still locked
        except OSError as error:
            raise StoreError(
                f"cannot write {out}: {error.strerror or error}",
                "make room or choose another -o, then run the same command again: what was "
                "scored is kept",
            ) from None
        return True

    def header(self, manifest: Manifest, label: int | None = None) -> RunHeader:
        """What identifies a run over these images."""
        settings = self.settings
        return RunHeader(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=__version__,
            model_name=self.bundle.name,
            model_sha256=self.bundle.sha256,
            n_layers=self.bundle.config.n_layers,
            seed=settings.seed,
            n_importance_samples=settings.n_importance_samples,
            proposal=settings.proposal,
            settings={
                "n_importance_samples_k": settings.n_importance_samples_k,
                "precision": settings.precision,
                "preprocessing": RULES,
                "image_channels": self.bundle.config.image_channels,
                "image_size": self.bundle.config.image_size,
            },
            n_images=len(manifest),
            listing_sha256=manifest.listing_sha256(),
            label=label,
        )

    # -- what is derived from the parameters --------------------------------------------------

    @cached_property
    def bundle(self) -> Bundle:
        """The model's description."""
        return find_bundle(os.fspath(self.model))

    @cached_property
    def settings(self) -> ScoreSettings:
        """The settings, validated. Raises UsageError."""
        try:
            return ScoreSettings.model_validate(
                {name: getattr(self, name) for name in ScoreSettings.model_fields}
            )
        except ValueError as error:
            raise UsageError(f"not a setting to score with: {_reason(error)}") from None

    @cached_property
    def scorer(self) -> Scorer:
        """The model itself, on its device."""
        from hvaeood_cli.device import choose_device
        from hvaeood_cli.scoring.scorer import Scorer

        return Scorer.on(self.bundle.load_ladder(), self.settings, choose_device(self.device))

    @cached_property
    def reference(self) -> Reference | None:
        """The model's validation scores under these settings, if it has them."""
        settings, n_layers = self.settings.model_dump(mode="json"), self.bundle.config.n_layers
        return load_reference(self.bundle.reference, settings, n_layers)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The model's calibration, if it has one made with these settings."""
        found = Calibration.find(self.bundle.calibration_paths)
        return None if found is None or found.mismatches(self.calibration_settings) else found

    @property
    def calibration_settings(self) -> dict[str, Any]:
        """What a calibration must share with the scores made here."""
        facts = {"model_sha256": self.bundle.sha256, "preprocessing": RULES}
        return settings_of(facts, self.settings.model_dump(mode="json"))

    def manifest(self, X: Images) -> Manifest:
        """Images as a manifest: an array (N, H, W[, 3]) of uint8, a folder, or paths."""
        if isinstance(X, np.ndarray):
            return Manifest([array_in_memory(X)])
        if isinstance(X, str | os.PathLike):
            return open_sources([os.fspath(X)])
        return open_sources([os.fspath(path) for path in X])

    def pixels(self, manifest: Manifest) -> NDArray[np.uint8]:
        """Every image as the model takes it, (N, C, H, W). Raises ImageError."""
        config = self.bundle.config
        images = (manifest.read(i)[0] for i in range(len(manifest)))
        channels, size = config.image_channels, config.image_size
        return np.stack([preprocess(image, channels, size).pixels for image in images])

    def _judge(self) -> Reference:
        if self.reference is None:
            raise ModelError(
                f"model {self.bundle.name} has no reference scores for these settings",
                "use the default n_importance_samples, n_importance_samples_k and proposal",
            )
        return self.reference

    def _fill(
        self,
        journal: Journal,
        manifest: Manifest,
        out: Path,
        progress: Callable[[int, int], None],
    ) -> None:
        from hvaeood_cli.store.writer import write_scores

        total = len(manifest)
        progress(journal.n_done, total)
        if journal.n_done < total:
            for batch in self.stream(manifest, journal.n_done):
                journal.append(batch)
                progress(journal.n_done, total)
        journal.sync()
        codes = {flag.name.lower(): flag.value for flag in Conversion if flag.name}
        write_scores(out, journal.header, manifest.names(), journal.batches(), STATUS_CODES, codes)


def _check_done(out: Path, header: RunHeader) -> None:
    """Raise StoreError unless the score file holds just the run that `header` asks for."""
    found = read_scores(out)
    kept = {key: found.attributes[key] for key in RunHeader.model_fields if key in found.attributes}
    label = None if found.label is None else int(found.label[0])
    there = RunHeader(**kept | {"settings": found.settings, "n_images": len(found), "label": label})
    differing = differences(there, header)
    if differing:
        raise StoreError(
            f"{out} is there already, made from other inputs: " + "; ".join(differing),
            "choose another file for them, or --force to replace it",
        )


def _reason(error: ValueError) -> str:
    return str(error).replace("\n", " ")
