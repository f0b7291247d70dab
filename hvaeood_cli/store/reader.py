"""Reads score files, whoever made them: what is not as `schema.py` says is refused.

This is the one door to a score file. Whoever has a `ScoreFile` from here need check nothing again:
attributes, types, shapes, ranges and codes are as they must be, and agree with one another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from hvaeood_cli.errors import StoreError
from hvaeood_cli.store import hdf5, schema
from hvaeood_cli.store.columns import columns, what_is_wrong
from hvaeood_cli.store.decision import CALIBRATION, GROUP, Decision, DecisionFacts
from hvaeood_cli.store.header import FORMAT, FORMAT_VERSION, RunHeader
from hvaeood_cli.store.schema import Dataset
from hvaeood_cli.store.score_file import Errors, ScoreFile
from hvaeood_cli.store.status import GONE
from hvaeood_cli.store.tiles import FIRST, TileTable, first_of

_Facts = TypeVar("_Facts", bound=BaseModel)


class _Found(NamedTuple):
    """A dataset that a file has."""

    schema: Dataset
    values: h5py.Dataset


_Sizes = dict[str, int]  # what the names in `Dataset.shape` are in a file


def read_scores(path: Path) -> ScoreFile:
    """Read and check a score file. Raises StoreError with what is wrong."""
    with hdf5.opened(path) as file:
        _check_version(path, file)
        datasets = _datasets(file)
        sizes = {"N": len(datasets["/images/status"].values)}
        status = _values(file, datasets["/images/status"], sizes)
        header = _facts(file, RunHeader, n_images=int(np.count_nonzero(status != GONE)))
        sizes |= {"L": header.n_layers, "L - 1": header.n_layers - 1, "N + 1": sizes["N"] + 1}
        sizes["channels"] = header.n_channels
        found = {
            name: _values(file, one, sizes)
            for name, one in datasets.items()
            if not one.schema.stays
        }
        codes = {name: _codes(one.values) for name, one in datasets.items() if one.schema.has_codes}
        sha256 = _facts(file, schema.FileFacts).manifest_sha256
        scores = ScoreFile(
            path=path,
            header=header,
            names=hdf5.packed(file, "/images/path", found["/images/path"]),
            errors=_errors(found["/images/error"], status),
            columns={
                column.name: found[column.dataset]
                for column in columns("images", "scores")
                if column.dataset in found
            },
            status_codes=codes["/images/status"],
            conversion_codes=codes["/images/conversions"],
            manifest_sha256=sha256,
            label=found.get("/images/label"),
            decision=_decision(file, found) if f"/{GROUP}/flagged" in found else None,
            tiles=_tiles(file, datasets, found, sizes, header, sha256),
        )
        if wrong := schema.disagreement(scores):
            raise hdf5.refused(file, wrong)
        return scores


class Summary(NamedTuple):
    """What a score file says of itself, found without reading its scores."""

    header: RunHeader
    n_flagged: int | None  # None where nothing is decided


def read_summary(path: Path) -> Summary:
    """What to choose a score file by. Raises StoreError as `read_scores` does, if it sees why."""
    with hdf5.opened(path) as file:
        _check_version(path, file)
        datasets = _datasets(file)
        n = len(datasets["/images/status"].values)
        flagged = datasets.get(f"/{GROUP}/flagged")
        header = _facts(file, RunHeader, n_images=n)
        n_flagged = int(_values(file, flagged, {"N": n}).sum()) if flagged else None
        return Summary(header, n_flagged)


def _check_version(path: Path, file: h5py.File) -> None:
    """Raise StoreError for another format, or another version of this one."""
    found = hdf5.attributes(file, ["format", "format_version"])
    if found.get("format") != FORMAT:
        raise StoreError(f"{path} is HDF5, but no score file", "hvaeood score makes one")
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        older = isinstance(version, int) and version < FORMAT_VERSION
        raise StoreError(
            f"{path} has format version {version}; this program reads version {FORMAT_VERSION}",
            f"score the images again: hvaeood score SOURCE -o {path} --force"
            if older
            else "upgrade: pip install --upgrade hvaeood",
        )


def _datasets(file: h5py.File) -> dict[str, _Found]:
    """What the file has of the schema, by path, before any of it is read. Raises StoreError."""
    groups: dict[str, h5py.Group] = {}
    found: dict[str, _Found] = {}
    for one in schema.datasets():
        if one.group_is_optional and one.group not in file:
            continue
        if one.group not in groups:
            groups[one.group] = hdf5.group(file, one.group)
        if one.optional and one.name not in groups[one.group]:
            continue
        values = hdf5.dataset(groups[one.group], one.name)
        kind = _kind(values)
        if kind != one.dtype:
            raise hdf5.refused(file, f"{one.path} holds {kind}, not {one.dtype}")
        if values.ndim != len(one.shape):
            raise hdf5.refused(file, f"{one.path} has shape {values.shape}")
        found[one.path] = _Found(one, values)
    hdf5.check_sizes(file, [one.values for one in found.values()])
    return found


def _kind(values: h5py.Dataset) -> str:
    """What a dataset holds, as the schema says it: "uint32" and so on."""
    if hdf5.is_of_strings(values):
        return schema.STRING
    if h5py.check_enum_dtype(values.dtype) is not None:  # NumPy takes it for its numbers
        return "an enumeration"
    return str(values.dtype.newbyteorder("="))


def _values(file: h5py.File, found: _Found, sizes: _Sizes) -> NDArray[Any]:
    """The values of a dataset, of the shape and in the range that the schema says.

    sizes: those of the names in its shape that are known. The others become known. Raises
    StoreError.
    """
    one, dataset = found
    _check_shape(file, found, sizes)
    if one.dtype == schema.STRING:
        return hdf5.read_strings(dataset)
    values = np.asarray(dataset[()], one.dtype)
    if wrong := what_is_wrong(values, one.least, one.most):
        raise hdf5.refused(file, f"{one.path} {wrong}")
    return values


def _check_shape(file: h5py.File, found: _Found, sizes: _Sizes) -> None:
    """Raise StoreError unless a dataset has the shape that the schema says. sizes: as there."""
    there = found.values.shape
    shape = tuple(
        int(name) if name.isdecimal() else sizes.setdefault(name, here)
        for name, here in zip(found.schema.shape, there, strict=True)
    )
    if there != shape:
        raise hdf5.refused(file, f"{found.schema.path} has shape {there}, not {shape}")


def _tiles(
    file: h5py.File,
    datasets: dict[str, _Found],
    found: dict[str, NDArray[Any]],
    sizes: _Sizes,
    header: RunHeader,
    manifest_sha256: str,
) -> TileTable | None:
    """The table of tiles, which is not read yet; None for images that were taken whole.

    Raises StoreError where it does not fit the rows: what reads it later reads no more than there
    is.
    """
    if (header.fit == "tile") != (FIRST in found):
        raise hdf5.refused(file, "a table of tiles is there, or is not, against its header")
    if FIRST not in found:
        return None
    if "/scores/peak" not in found:
        raise hdf5.refused(file, "/scores/peak is missing, by which images with tiles are judged")
    first, n_tiles = found[FIRST], found.get("/images/n_tiles")
    if n_tiles is None or (first_of(n_tiles) != first).any():
        raise hdf5.refused(file, "the table of tiles does not fit the images")
    sizes["tiles"] = int(first[-1])
    for one in datasets.values():
        if one.schema.stays:
            _check_shape(file, one, sizes)
    path = Path(file.filename)
    return TileTable(path, manifest_sha256, header.sizes, first[:-1], np.diff(first))


def _facts(owner: h5py.Group, model: type[_Facts], **more: Any) -> _Facts:
    """The attributes of a group, checked. Raises StoreError.

    more: fields of the model that are no attributes.
    """
    names = [name for name in model.model_fields if name not in schema.FROM_ROWS]
    try:
        found = hdf5.attributes(owner, names)
        return model.model_validate(found | more, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise hdf5.refused(
            owner, f"{where}: {first['msg']}" if where else str(first["msg"])
        ) from None


def _codes(dataset: h5py.Dataset) -> dict[str, int]:
    """The attribute that says what a column's numbers mean. Raises StoreError."""
    text = hdf5.attributes(dataset, ["codes"]).get("codes")
    try:
        return schema.read_codes(text)
    except ValueError:
        raise hdf5.refused(
            dataset, f"the codes of {dataset.name} are not names with numbers"
        ) from None


def _errors(texts: NDArray[Any], status: NDArray[np.int8]) -> Errors:
    """Why rows could not be read. No other row's text is decoded: a million would be slow."""
    reasons = {
        int(row): bytes(texts[row]).decode("utf-8", "replace") for row in np.flatnonzero(status)
    }
    return Errors(len(status), reasons)


def _decision(file: h5py.File, found: dict[str, NDArray[Any]]) -> Decision:
    """The decision, from what was found in the file. Raises StoreError."""
    facts = _facts(file[GROUP], DecisionFacts).model_dump(exclude={"least_p"})
    values: dict[str, Any] = {column.name: found[column.dataset] for column in columns("decision")}
    kept = found.get(CALIBRATION)
    return Decision(**values | facts, calibration=b"" if kept is None else kept.tobytes())
