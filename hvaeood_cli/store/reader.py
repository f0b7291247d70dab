"""Reads score files, whoever wrote them: what their version does not allow is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hvaeood_cli.errors import StoreError
from hvaeood_cli.store.columns import Column, column, columns
from hvaeood_cli.store.decision import CALIBRATION, GROUP, MAX_CALIBRATION, Decision, read_decision
from hvaeood_cli.store.header import FORMAT, FORMAT_VERSION, RunHeader
from hvaeood_cli.store.score_file import Errors, ScoreFile
from hvaeood_cli.store.status import GONE
from hvaeood_cli.store.tiles import FIRST, TileTable, datasets, first_of

_MAX_DEFLATE = 1100  # gzip's best ratio; a column that claims more is not in the file


def read_scores(path: Path) -> ScoreFile:
    """Read and check a score file. Raises StoreError with what is wrong."""
    with _opened(path) as file:
        return _read(path, file)


class Summary(NamedTuple):
    """What a score file says of itself, found without reading its scores."""

    header: RunHeader
    n_flagged: int | None  # None where nothing is decided


def read_summary(path: Path) -> Summary:
    """What to choose a score file by. Raises StoreError as `read_scores` does, if it sees why."""
    with _opened(path) as file:
        attributes = {key: _plain(value) for key, value in file.attrs.items()}
        _check_version(path, attributes)
        n = int(_dataset(file, "/images/status").shape[0])
        header = _header(path, attributes, n)
        if GROUP not in file:
            return Summary(header, None)
        (flagged,) = [column for column in columns("decision") if column.name == "flagged"]
        return Summary(header, int(_column(file, flagged, n, header.n_layers).sum()))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The open file. Raises StoreError for none, and for one in which anything is amiss."""
    if not path.is_file():
        raise StoreError(f"no such score file: {path}", "hvaeood score FOLDER makes one")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise StoreError(
            f"{path} is not a whole score file ({reason})", "score the images again to make it"
        ) from None


def _read(path: Path, file: h5py.File) -> ScoreFile:
    attributes = {key: _plain(value) for key, value in file.attrs.items()}
    _check_version(path, attributes)
    n = int(_dataset(file, "/images/status").shape[0])
    status = _column(file, column("status"), n, 0)
    header = _header(path, attributes, int(np.count_nonzero(status != GONE)))
    found = {
        entry.name: _column(file, entry, n, header.n_layers)
        for entry in columns("images", "scores")
        if not (entry.optional and entry.dataset not in file)
    }
    names, errors = _dataset(file, "/images/path"), _dataset(file, "/images/error")
    if names.shape != (n,) or errors.shape != (n,):
        raise StoreError(f"{path}: /images/path and /images/error do not have {n} rows")
    fixed = names.dtype.kind == "S"
    return ScoreFile(
        path=path,
        header=header,
        names=names.astype(f"S{names.dtype.itemsize}")[()]
        if fixed
        else np.array(names[()], dtype=bytes),
        errors=_errors(errors, found["status"]),
        columns=found,
        status_codes=_codes(file, "/images/status"),
        conversion_codes=_codes(file, "/images/conversions"),
        manifest_sha256=str(attributes["manifest_sha256"]),
        label=_label(file, n),
        decision=_decision(file, n, header.n_layers) if GROUP in file else None,
        tiles=_tiles(path, file, header, found, attributes) if header.fit == "tile" else None,
    )


def _check_version(path: Path, attributes: dict[str, Any]) -> None:
    """Raise StoreError for another format, or another version of this one."""
    if attributes.get("format") != FORMAT:
        raise StoreError(f"{path} is HDF5, but no score file", "hvaeood score makes one")
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        older = isinstance(version, int) and version < FORMAT_VERSION
        raise StoreError(
            f"{path} has format version {version}; this program reads version {FORMAT_VERSION}",
            f"score the images again: hvaeood score SOURCE -o {path} --force"
            if older
            else "upgrade: pip install --upgrade hvaeood",
        )


def _header(path: Path, attributes: dict[str, Any], n: int) -> RunHeader:
    """The run's header, checked. Raises StoreError."""
    known = {key: attributes[key] for key in RunHeader.model_fields if key in attributes}
    try:
        return RunHeader.model_validate(known | {"n_images": n}, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{path} is not a valid score file: {where}: {first['msg']}"
            if where
            else f"{path} is not a valid score file: {first['msg']}",
            "score the images again to make it",
        ) from None


def _column(file: h5py.File, column: Column, n: int, n_layers: int) -> NDArray[Any]:
    """One column's values, of the shape and kind that the table says. Raises StoreError."""
    dataset = _dataset(file, column.dataset)
    shape, dtype = (n, *column.shape(n_layers)), np.dtype(column.dtype)
    if dataset.shape != shape:
        raise StoreError(
            f"{file.filename}: {column.dataset} has shape {dataset.shape}, not {shape}",
            "score the images again to make it",
        )
    if dataset.dtype.kind != dtype.kind:
        raise StoreError(
            f"{file.filename}: {column.dataset} holds {dataset.dtype}, not {dtype}",
            "score the images again to make it",
        )
    return np.asarray(dataset[()], dtype)


def _label(file: h5py.File, n: int) -> NDArray[np.int8] | None:
    """The labels of the images, (N,); None where the file has none. Raises StoreError."""
    if "/images/label" not in file:
        return None
    dataset = _dataset(file, "/images/label")
    if dataset.shape != (n,) or dataset.dtype.kind != "i":
        raise StoreError(f"{file.filename}: /images/label is not {n} small integers")
    return np.asarray(dataset[()], np.int8)


def _codes(file: h5py.File, name: str) -> dict[str, int]:
    """The attribute that says what a column's numbers mean. Raises ValueError."""
    codes = json.loads(_plain(file[name].attrs["codes"]))
    sound = isinstance(codes, dict) and all(type(code) is int for code in codes.values())
    if not sound:
        raise ValueError(f"the codes of {name} are not names with numbers")
    return dict(codes)


def _errors(dataset: h5py.Dataset, status: NDArray[np.int8]) -> Errors:
    """Why rows could not be read. No other row's text is decoded: a million would be slow."""
    bad = np.flatnonzero(status)
    texts = dataset[()][bad] if len(bad) else ()
    reasons = {
        int(row): bytes(text).decode("utf-8", "replace")
        for row, text in zip(bad, texts, strict=True)
    }
    return Errors(len(status), reasons)


def _decision(file: h5py.File, n: int, n_layers: int) -> Decision:
    """The decision. Raises StoreError where a column is missing or has the wrong shape."""
    if not isinstance(file.get(GROUP, getlink=True), h5py.HardLink):
        raise StoreError(f"{file.filename}: /{GROUP} is a link", "score the images again")
    found = {column.name: _column(file, column, n, n_layers) for column in columns("decision")}
    attributes = {key: _plain(value) for key, value in file[GROUP].attrs.items()}
    return read_decision(found, attributes, _calibration(file))


def _tiles(
    path: Path,
    file: h5py.File,
    header: RunHeader,
    found: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
) -> TileTable:
    """The table of tiles, which is not read yet. Raises StoreError where it does not fit the rows.

    It is checked here, so that what reads it later reads no more than there is.
    """
    wrong = StoreError(
        f"{path}: the table of tiles does not fit the images", "score the images again to make it"
    )
    if "n_tiles" not in found:
        raise wrong
    first = first_of(found["n_tiles"])
    there = _dataset(file, FIRST)
    if there.shape != first.shape or there.dtype.kind != "i" or (there[()] != first).any():
        raise wrong
    for name, (shape, dtype, _, _) in datasets(header.n_layers).items():
        dataset = _dataset(file, name)
        if dataset.shape != (first[-1], *shape) or dataset.dtype.kind != np.dtype(dtype).kind:
            raise wrong
    sha256 = str(attributes["manifest_sha256"])
    return TileTable(path, sha256, header.n_layers, first[:-1], np.diff(first))


def _calibration(file: h5py.File) -> bytes:
    """The file of the calibration that decided; empty where it was not kept. Raises StoreError."""
    if CALIBRATION not in file:
        return b""
    dataset = _dataset(file, CALIBRATION)
    if dataset.dtype != np.uint8 or dataset.ndim != 1 or len(dataset) > MAX_CALIBRATION:
        raise StoreError(f"{file.filename}: {CALIBRATION} does not hold a calibration's bytes")
    return bytes(dataset[()])


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of this very file. Raises StoreError for one that is elsewhere, or not whole."""
    group, _, leaf = name.rpartition("/")
    for parent, child in ((file, group.strip("/")), (file.get(group, file), leaf)):
        if not isinstance(parent.get(child, getlink=True), h5py.HardLink):
            raise StoreError(
                f"{file.filename}: {name} is missing, or a link", "score the images again"
            )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise StoreError(
            f"{file.filename}: {name} keeps its data elsewhere", "score the images again"
        )
    stored = dataset.id.get_storage_size()
    slack = dataset.dtype.itemsize * int(np.prod(dataset.chunks or (1,)))
    if dataset.size * dataset.dtype.itemsize > _MAX_DEFLATE * stored + slack:
        raise StoreError(f"{file.filename}: {name} claims more rows than the file can hold")
    return dataset


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
