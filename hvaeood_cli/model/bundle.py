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
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hvaeood_cli.errors import ModelError
from hvaeood_cli.files import replacing
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.weights import Entry, check_tensors, read_weights_header
from hvaeood_cli.untrusted import parse_array, parse_json, read_regular
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
_MAX_CONFIG, _MAX_TRAINING = 1 << 20, 1 << 24  # bytes
MAX_EPOCHS = 1 << 17  # entries of a training curve
_MAX_IMAGES = 1 << 30  # bytes of the hashes of training images
_MAX_WEIGHTS = 1 << 34  # bytes

_Model = TypeVar("_Model", bound=BaseModel)
_Count = Annotated[int, Field(ge=0)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Name = Annotated[str, Field(max_length=4096)]


class _Version(BaseModel):
    """What every version of `config.json` says."""

    format: Literal["hvaeood-model"]
    format_version: int


class _Config(_Version):
    """`config.json`, as this version writes it."""

    name: _Name
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    folds: Annotated[int, Field(ge=0, le=MAX_FOLDS)] = 0
    model: ModelConfig


class Epoch(BaseModel):
    """An entry of the training curve."""

    model_config = ConfigDict(extra="allow")

    epoch: _Count = 0
    step: _Count = 0
    seconds: _Finite = 0.0
    validation_bits_per_dim: Annotated[list[_Finite], Field(max_length=64)] = []


class _Training(BaseModel):
    """`training.json`: what is shown of it, and what decides. There may be more, for people."""

    model_config = ConfigDict(extra="allow")

    command: Annotated[list[str], Field(max_length=4096)] = []
    conversions: Annotated[dict[str, _Count], Field(max_length=64)] = {}
    fingerprint: dict[str, Any] = {}
    n_images: _Count = 0
    n_trained_on: _Count = 0
    n_validation: _Count = 0
    n_calibration: _Count = 0
    n_parameters: _Count | None = None
    minutes: Annotated[_Finite, Field(ge=0)] = 0.0
    steps: _Count = 0
    device: _Name = ""
    finished: _Name = ""
    versions: Annotated[dict[str, str], Field(max_length=64)] = {}
    curve: Annotated[list[Epoch], Field(max_length=MAX_EPOCHS)] = []


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
        """The provenance and the training curve; empty if the file is not there, or says nothing.

        Raises ModelError for a damaged file.
        """
        path = self.folder / TRAINING
        if not os.path.lexists(path):
            return {}
        found = _parsed(_Training, path, _read_bytes(path, _MAX_TRAINING))
        if not found.model_fields_set:
            return {}
        return found.model_dump() | {
            "curve": [e.model_dump(exclude_unset=True) for e in found.curve]
        }

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
        if not os.path.lexists(path):
            return np.zeros(0, np.uint64)
        try:
            hashes = parse_array(_read_bytes(path, _MAX_IMAGES))
            if hashes.dtype != np.uint64 or hashes.ndim != 1:
                raise ValueError(f"it holds {hashes.dtype} of shape {hashes.shape}")
            if (hashes[1:] < hashes[:-1]).any():
                raise ValueError("its hashes are not sorted")
        except ValueError as error:
            raise _not_valid(path, error) from None
        return hashes.astype(np.uint64)

    def trained_on(self, content: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Of which content keys (N,) it was trained on the images, (N,). Raises ModelError."""
        hashes = self.training_hashes()
        if not len(hashes):
            return np.zeros(len(content), np.bool_)
        places = np.searchsorted(hashes, content)
        trained: NDArray[np.bool_] = hashes[np.minimum(places, len(hashes) - 1)] == content
        trained &= content != 0
        return trained

    def check_weights(self) -> None:
        """Raise ModelError unless the weights, of every fold, are those that are described."""
        for one in self.folds or (self,):
            one.read_weights()

    def read_weights(self) -> bytes:
        """The file of the weights. Raises ModelError where it is not the one that was described."""
        path = self.folder / WEIGHTS
        data = _read_bytes(path, _MAX_WEIGHTS)
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

        from hvaeood_cli.model.build import build_ladder, tensors_of

        if self.folds:
            raise ModelError(
                f"{self.folder} has {len(self.folds)} folds, and this needs one model",
                f"name a fold: {self.folds[0].folder}",
            )
        data = self.read_weights()
        config = self.config.model_copy(update={"weight_norm": False})
        try:  # before a ladder is built, which may be larger than all memory
            found = read_weights_header(data, len(data)).tensors
            if len(found) < sum(layer.n_blocks for layer in config.layers):
                raise ValueError(f"{len(found)} tensors are too few")
            expected = {name: Entry("F32", shape) for name, shape in tensors_of(config).items()}
            check_tensors(found, expected)
            tensors = load(data)
            broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
            if broken:
                raise ValueError(f"{broken[0]} is not finite")
        except (ValueError, SafetensorError) as error:
            raise ModelError(
                f"the weights in {self.folder} do not fit its {CONFIG}: {error}",
                "the folder mixes two models, or is damaged; copy or train it again",
            ) from None
        ladder = build_ladder(config)
        ladder.load_state_dict(tensors)
        return ladder.eval()


def read_bundle(folder: Path) -> Bundle:
    """The description of the model in a folder. Raises ModelError with what is wrong."""
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise ModelError(
            f"{folder} is not a model: it has no {CONFIG}", "hvaeood models lists some"
        )
    data = _read_bytes(path, _MAX_CONFIG)
    version = _parsed(_Version, path, data).format_version
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{folder} has format version {version}; this program reads {FORMAT_VERSION}",
            "upgrade: pip install --upgrade hvaeood",
        )
    found = _parsed(_Config, path, data)
    folds = tuple(_read_folds(folder, found.folds))
    bundle = Bundle(folder, found.name, found.model, found.weights_sha256, folds)
    if any(fold.config != bundle.config for fold in folds):
        raise ModelError(f"the folds in {folder} are not of one model", "copy the model again")
    if folds and _joined(folds) != bundle.weights_sha256:
        raise ModelError(
            f"the folds in {folder} are not those that {CONFIG} describes",
            "copy the whole model folder again, or make it anew",
        )
    if not folds and not _is_regular(folder / WEIGHTS):
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


def packed(bundle: Bundle) -> dict[str, bytes]:
    """The files that score with a model, by their names in its folder. Raises ModelError."""
    files = {CONFIG: _read_bytes(bundle.folder / CONFIG, _MAX_CONFIG)}
    if not bundle.folds:
        files[WEIGHTS] = bundle.read_weights()
    for fold in bundle.folds:
        files |= {f"{fold.folder.name}/{name}": data for name, data in packed(fold).items()}
    return files


def unpacked(files: dict[str, bytes], folder: Path) -> Bundle:
    """Write the files of `packed` into a folder. Raises ModelError, as `read_bundle` does."""
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return read_bundle(folder)


def _remove_calibrations(folder: Path) -> None:
    for ending in ("npz", "maps.safetensors"):
        for stale in folder.glob(f"{CALIBRATION}*.{ending}"):
            stale.unlink()


def _read_folds(folder: Path, n: int) -> Iterator[Bundle]:
    """The folds of a cross-fitted bundle; none of an ordinary one. Raises ModelError."""
    for fold in range(n):
        one = _read_fold(fold_folder(folder, fold))
        if one.folds:
            raise ModelError(f"{one.folder} has folds of its own", "copy the model again")
        yield one


def _read_fold(folder: Path) -> Bundle:
    """One fold. Raises ModelError, and for a link: one to the whole model would never end."""
    if folder.is_symlink():
        raise ModelError(f"{folder} is a link", "copy the whole model folder again")
    return read_bundle(folder)


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


def _read_bytes(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}", "copy the whole model folder again"
        ) from None


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _parsed(kind: type[_Model], path: Path, data: bytes) -> _Model:
    """A file's JSON, checked. Raises ModelError."""
    try:
        return parse_json(kind, data)
    except ValueError as error:
        raise _not_valid(path, error) from None


def _not_valid(path: Path, error: ValueError) -> ModelError:
    reason = str(error).strip().split("\n")[0][:200]
    return ModelError(f"{path} is not valid: {reason}", "copy the model again")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
