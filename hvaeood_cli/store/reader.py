"""Reading a score file, anyone's: what is not as version 1 says is refused, not guessed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError
from hvaeood_cli.store import decision as decisions
from hvaeood_cli.store.decision import Decision
from hvaeood_cli.store.schema import DATASETS, FORMAT, FORMAT_VERSION

_OPTIONAL = ("conversions", "content")  # datasets that version 1 does not promise
_MAX_DEFLATE = 1100  # the best ratio gzip can reach; a column that claims more is not in the file


class Errors(Sequence[str]):
    """Why each row could not be read, (N,), empty where it could. Kept for those rows alone."""

    def __init__(self, n: int, reasons: dict[int, str]) -> None:
        self._n = n
        self._reasons = reasons

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        rows = range(self._n)[index]
        if isinstance(rows, range):
            return [self._reasons.get(row, "") for row in rows]
        return self._reasons.get(rows, "")


@dataclass(frozen=True)
class ScoreFile:
    """A score file, read into memory. Columns as in `docs/score-file.md`."""

    path: Path
    attributes: dict[str, Any]
    settings: dict[str, Any]
    names: NDArray[np.bytes_]  # (N,)
    errors: Errors  # (N,)
    status: NDArray[np.int8]  # (N,)
    status_codes: dict[str, int]
    conversions: NDArray[np.uint16]  # (N,), zeros where the file has none
    conversion_codes: dict[str, int]
    sha256: NDArray[np.uint8]  # (N, 32)
    content: NDArray[np.uint64]  # (N,) of the pixels as the model takes them; zeros if not kept
    lower_bound: NDArray[np.float32]  # (N, L) nats
    llr: NDArray[np.float32]  # (N, L - 1) nats
    kl: NDArray[np.float32]  # (N, L) nats
    log_px: NDArray[np.float32]  # (N, L) nats
    bits_per_dim: NDArray[np.float32]  # (N,)
    label: NDArray[np.int8] | None  # (N,)
    decision: Decision | None

    def __len__(self) -> int:
        return len(self.status)

    @property
    def n_layers(self) -> int:
        return int(self.attributes["n_layers"])

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which rows have scores, (N,)."""
        return np.equal(self.status, 0)


def read_scores(path: Path) -> ScoreFile:
    """Read and check a score file. Raises StoreError with what is wrong."""
    if not path.is_file():
        raise StoreError(f"no such score file: {path}", "hvaeood score FOLDER makes one")
    try:
        with h5py.File(path, "r") as file:
            return _read(path, file)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise StoreError(
            f"{path} is not a whole score file ({reason})", "score the images again to make it"
        ) from None


def _read(path: Path, file: h5py.File) -> ScoreFile:
    attributes = {key: _plain(value) for key, value in file.attrs.items()}
    if attributes.get("format") != FORMAT:
        raise StoreError(f"{path} is an HDF5 file, but not of scores", "hvaeood score makes one")
    if attributes.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {attributes.get('format_version')}; "
            f"this program reads version {FORMAT_VERSION}",
            "upgrade: pip install --upgrade hvaeood",
        )
    n_layers = int(attributes["n_layers"])
    columns = {
        field: _dataset(file, name)
        for field, name in DATASETS.items()
        if field not in _OPTIONAL or name in file
    }
    n = columns["status"].shape[0]
    widths = {"sha256": 32, "llr": n_layers - 1}
    for field, dataset in columns.items():
        flat = field in ("status", "content", "conversions", "bits_per_dim")
        shape = (n,) if flat else (n, widths.get(field, n_layers))
        if dataset.shape != shape:
            raise StoreError(f"{path}: {dataset.name} has shape {dataset.shape}, not {shape}")
    names, errors = _dataset(file, "/images/path"), _dataset(file, "/images/error")
    if names.shape != (n,) or errors.shape != (n,):
        raise StoreError(f"{path}: /images/path and /images/error do not have {n} rows")
    label = _dataset(file, "/images/label") if "/images/label" in file else None
    conversions = columns.get("conversions")
    status = columns["status"][()]
    return ScoreFile(
        path=path,
        attributes=attributes,
        settings=json.loads(attributes["settings"]),
        names=names.astype(f"S{names.dtype.itemsize}")[()]
        if names.dtype.kind == "S"
        else np.array(names[()], dtype=bytes),
        errors=_errors(errors, status),
        status=status,
        status_codes=json.loads(columns["status"].attrs["codes"]),
        conversions=np.zeros(n, np.uint16) if conversions is None else conversions[()],
        conversion_codes={} if conversions is None else json.loads(conversions.attrs["codes"]),
        sha256=columns["sha256"][()],
        content=columns["content"][()] if "content" in columns else np.zeros(n, np.uint64),
        lower_bound=columns["lower_bound"][()],
        llr=columns["llr"][()],
        kl=columns["kl"][()],
        log_px=columns["log_px"][()],
        bits_per_dim=columns["bits_per_dim"][()],
        label=None if label is None else label[()],
        decision=_decision(file, n, n_layers) if decisions.GROUP in file else None,
    )


def _errors(dataset: h5py.Dataset, status: NDArray[np.int8]) -> Errors:
    """The reasons of the rows that have any: a million empty strings are not worth decoding."""
    bad = np.flatnonzero(status)
    texts = dataset[()][bad] if len(bad) else ()
    reasons = {
        int(row): bytes(text).decode("utf-8", "replace")
        for row, text in zip(bad, texts, strict=True)
    }
    return Errors(len(status), reasons)


def _decision(file: h5py.File, n: int, n_layers: int) -> Decision:
    """What was decided, whole and of the right shapes. Raises StoreError."""
    if not isinstance(file.get(decisions.GROUP, getlink=True), h5py.HardLink):
        raise StoreError(f"{file.filename}: /{decisions.GROUP} is a link", "score again")
    columns = {field: _dataset(file, f"/{decisions.GROUP}/{field}") for field in decisions.COLUMNS}
    for field, dataset in columns.items():
        shape = (n, n_layers - 1) if field == "p_value" else (n,)
        if dataset.shape != shape:
            raise StoreError(
                f"{file.filename}: {dataset.name} has shape {dataset.shape}, not {shape}",
                "hvaeood decide FILE decides anew",
            )
    group = file[decisions.GROUP]
    return decisions.read_decision(columns, {k: _plain(v) for k, v in group.attrs.items()})


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this very file, whole. Raises StoreError for any other."""
    group, _, leaf = name.rpartition("/")
    for parent, child in ((file, group.strip("/")), (file.get(group, file), leaf)):
        if not isinstance(parent.get(child, getlink=True), h5py.HardLink):
            raise StoreError(f"{file.filename}: {name} is missing, or a link", "score again")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise StoreError(f"{file.filename}: {name} keeps its data elsewhere", "score again")
    stored = dataset.id.get_storage_size()
    slack = dataset.dtype.itemsize * int(np.prod(dataset.chunks or (1,)))
    if dataset.size * dataset.dtype.itemsize > _MAX_DEFLATE * stored + slack:
        raise StoreError(f"{file.filename}: {name} claims more rows than the file can hold")
    return dataset


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
