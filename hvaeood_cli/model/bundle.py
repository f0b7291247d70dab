"""A bundle: a model on disk, in a folder of these files.

    model.safetensors     weights, weight normalisation folded in
    config.json           format, name, architecture, SHA-256 of the weights
    training.json         provenance (command, seed, versions, data hash) and the training curve
    training_images.npy   sorted 64-bit content hashes of the images trained on
    calibration*.npz      calibrations, if there are any: one for each set of settings
    calibration*.maps.safetensors   what is usual of a map, beside each calibration

A cross-fitted bundle has no weights of its own, but folds, which are bundles in folders below it:
`hvaeood find` makes one. Each image is scored by the fold that was not trained on it.

Reading the description needs no torch; only `load_ladder` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import ValidationError

from hvaeood_cli.errors import ModelError
from hvaeood_cli.files import replacing
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.version import __version__

if TYPE_CHECKING:
    from hvaeood_cli.model.ladder import Ladder

FORMAT = "hvaeood-model"
FORMAT_VERSION = 1
DEFAULT_MODEL = "fashionmnist"

WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.json"
IMAGES, CALIBRATION = "training_images.npy", "calibration"
MAX_FOLDS = 16

_PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Bundle:
    """The description of the model in `folder`; only `load_ladder` reads the weights."""

    folder: Path
    name: str
    config: ModelConfig
    weights_sha256: str  # of a cross-fitted one: the hash of its folds' hashes
    folds: tuple[Bundle, ...] = ()  # empty for an ordinary one

    @cached_property
    def sha256(self) -> str:
        """The hash of architecture and weights, by which score files know the model."""
        canonical = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(f"{canonical}\0{self.weights_sha256}".encode()).hexdigest()

    @cached_property
    def training(self) -> dict[str, Any]:
        """The provenance and the training curve; empty if the file is not there."""
        return _read_json(self.folder / TRAINING, missing_ok=True)

    @property
    def calibrations(self) -> list[Path]:
        """This model's calibration files: those in the user's own folder, then those beside it.

        The user's folder is for models that ship, or whose own folder cannot be written.
        """
        own, beside = _own_calibrations(), self.folder
        found = [*own.glob(f"{self.sha256[:16]}*.npz"), *beside.glob(f"{CALIBRATION}*.npz")]
        return sorted(found, key=lambda path: (path.parent != own, path.name))

    def calibration_place(self, suffix: str = "") -> Path:
        """The file for a new calibration: beside the model, or in the user's own folder.

        suffix: a part of its name that tells calibrations of different settings apart.
        """
        if self.folder.parent != _PRETRAINED and os.access(self.folder, os.W_OK):
            return self.folder / f"{CALIBRATION}{suffix}.npz"
        return _own_calibrations() / f"{self.sha256[:16]}{suffix}.npz"

    def training_hashes(self) -> NDArray[np.uint64]:
        """Sorted keys (`images.content.short_key`) of the training images; empty if not kept.

        Of a cross-fitted bundle none is known, since no image is scored by a fold that has seen it.
        Raises ModelError for a damaged file.
        """
        path = self.folder / IMAGES
        if not path.is_file():
            return np.zeros(0, np.uint64)
        try:
            hashes = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ModelError(f"{path} is damaged: {error}", "copy the model again") from None
        return np.asarray(hashes, np.uint64)

    def check_weights(self) -> None:
        """Raise ModelError unless the weights, of every fold, are those that are described."""
        for one in self.folds or (self,):
            one.read_weights()

    def read_weights(self) -> bytes:
        """The file of the weights. Raises ModelError where it is not the one that was described."""
        path = self.folder / WEIGHTS
        data = _read_bytes(path)
        if hashlib.sha256(data).hexdigest() != self.weights_sha256:
            raise ModelError(
                f"{path} is not the file that {CONFIG} describes (its SHA-256 differs)",
                "copy the whole model folder again, or train it anew",
            )
        return data

    def load_ladder(self) -> Ladder:
        """The model itself, on the CPU, in evaluation mode.

        Raises ModelError for weights that are damaged or do not fit the architecture.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        from hvaeood_cli.model.build import build_ladder

        if self.folds:
            raise ModelError(
                f"{self.folder} has {len(self.folds)} folds, and this needs one model",
                f"name a fold: {self.folds[0].folder}",
            )
        data = self.read_weights()
        try:
            ladder = build_ladder(self.config.model_copy(update={"weight_norm": False}))
            ladder.load_state_dict(load(data))
        except (RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ModelError(
                f"the weights in {self.folder} do not fit its {CONFIG}: {reason}",
                "the folder mixes two models; copy or train it again",
            ) from None
        return ladder.eval()


def read_bundle(folder: Path) -> Bundle:
    """The description of the model in a folder. Raises ModelError with what is wrong."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder} is not a model: it has no {CONFIG}", "hvaeood models lists some"
        )
    found = _read_json(path)
    if found.get("format") != FORMAT:
        raise ModelError(f"{path} does not describe a model of this program")
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{folder} has format version {version}; this program reads {FORMAT_VERSION}",
            "upgrade: pip install --upgrade hvaeood",
        )
    try:
        config = ModelConfig.model_validate(found["model"])
        folds = tuple(_read_folds(folder, found.get("folds", 0)))
        bundle = Bundle(folder, str(found["name"]), config, str(found["weights_sha256"]), folds)
    except (KeyError, ValidationError) as error:
        reason = f"{error} is missing"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise ModelError(f"{path} is not valid: {reason}", "copy the model again") from None
    if folds and _joined(folds) != bundle.weights_sha256:
        raise ModelError(
            f"the folds in {folder} are not those that {CONFIG} describes",
            "copy the whole model folder again, or make it anew",
        )
    if not folds and not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}", "copy the whole model folder")
    return bundle


def write_bundle(
    folder: Path,
    name: str,
    config: ModelConfig,
    ladder: Ladder,
    training: dict[str, Any],
    training_hashes: NDArray[np.uint64],
) -> Bundle:
    """Write a model into a folder: `config.json` last, so that a folder that has one is whole."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    _remove_calibrations(folder)  # of the model that was here before
    weights = save({k: v.detach().cpu().contiguous() for k, v in ladder.state_dict().items()})
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(weights)
    with replacing(folder / IMAGES) as temporary, temporary.open("wb") as file:
        np.save(file, np.sort(training_hashes), allow_pickle=False)
    _write_json(folder / TRAINING, training)
    _write_json(
        folder / CONFIG,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": name,
            "tool_version": __version__,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "model": config.model_dump(mode="json"),
        },
    )
    return read_bundle(folder)


def fold_folder(folder: Path, fold: int) -> Path:
    """The folder of a cross-fitted bundle's fold, which are numbered from 0."""
    return folder / f"fold-{fold}"


def write_cross_fitted(
    folder: Path, name: str, folds: Sequence[Bundle], training: dict[str, Any]
) -> Bundle:
    """Make a bundle of folds, which are in their places: `config.json` last, as ever."""
    _remove_calibrations(folder)
    _write_json(folder / TRAINING, training)
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "tool_version": __version__,
        "weights_sha256": _joined(folds),
        "folds": len(folds),
        "model": folds[0].config.model_dump(mode="json"),
    }
    _write_json(folder / CONFIG, described)
    return read_bundle(folder)


def _remove_calibrations(folder: Path) -> None:
    for ending in ("npz", "maps.safetensors"):
        for stale in folder.glob(f"{CALIBRATION}*.{ending}"):
            stale.unlink()


def _read_folds(folder: Path, n: object) -> Iterator[Bundle]:
    """The folds of a cross-fitted bundle; none of an ordinary one. Raises ModelError."""
    if not isinstance(n, int) or not 0 <= n <= MAX_FOLDS:
        raise ModelError(f"{folder / CONFIG} is not valid: folds is {n!r}", "copy the model again")
    for fold in range(n):
        one = read_bundle(fold_folder(folder, fold))
        if one.folds:
            raise ModelError(f"{one.folder} has folds of its own", "copy the model again")
        yield one


def _joined(folds: Sequence[Bundle]) -> str:
    return hashlib.sha256("".join(fold.sha256 for fold in folds).encode()).hexdigest()


def model_folders() -> list[Path]:
    """The folders of models: of those that ship, then $HVAEOOD_MODELS or the user's own."""
    own = os.environ.get("HVAEOOD_MODELS") or Path(platformdirs.user_data_dir("hvaeood")) / "models"
    return [_PRETRAINED, Path(own)]


def _own_calibrations() -> Path:
    """The user's folder for calibrations of models whose own folder cannot keep them."""
    return model_folders()[1] / "calibrations"


def bundle_by_hash(sha256: str, hint: Path | None = None) -> Bundle | None:
    """The model with this hash, among `list_bundles` or in `hint`, a folder; None if nowhere.

    A hint may come with somebody else's score file: it counts for less than what is installed,
    and only where the weights themselves are there.
    """
    for bundle in list_bundles():
        if bundle.sha256 == sha256:
            return bundle
    with contextlib.suppress(ModelError, OSError):
        if hint is not None and (found := read_bundle(hint)).sha256 == sha256:
            found.check_weights()
            return found
    return None


def find_bundle(name_or_folder: str) -> Bundle:
    """A model by name or folder, names first. Raises ModelError with the names there are."""
    named = folder_named(name_or_folder)
    if named is not None:
        return read_bundle(named)
    if os.path.isdir(name_or_folder):
        return read_bundle(Path(name_or_folder))
    names = ", ".join(bundle.name for bundle in list_bundles()) or "none"
    raise ModelError(f"no model {name_or_folder!r}", f"models: {names}; or give a model's folder")


def folder_named(name: str) -> Path | None:
    """The folder of the model that has this name; None where no model has it, or it is a path."""
    if not name or os.sep in name:
        return None
    folders = [parent / name for parent in model_folders()]
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def list_bundles() -> list[Bundle]:
    """Every readable model in `model_folders`, those that ship first."""
    bundles = []
    for parent in model_folders():
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if (folder / CONFIG).is_file():
                with contextlib.suppress(ModelError):
                    bundles.append(read_bundle(folder))
    return bundles


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _read_json(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    if missing_ok and not path.is_file():
        return {}
    try:
        found = json.loads(_read_bytes(path))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}", "copy the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object", "copy the model again")
    return found


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
