"""Journal -> score file: written whole beside its place, then renamed into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.files import replacing
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.schema import DATASETS, FORMAT, FORMAT_VERSION, Rows, RunHeader, row_dtype

_CHUNK = 16384  # rows


def write_scores(
    path: Path,
    header: RunHeader,
    names: Iterable[bytes],
    batches: Iterable[Batch],
    status_codes: dict[str, int],
    conversion_codes: dict[str, int],
) -> None:
    """Write the score file of a whole run.

    names: the N paths in manifest order; may be walked once. batches: consecutive, from row 0.
    Memory does not grow with the scores: they stream from the journal, a chunk at a time.
    """
    names = list(names)
    errors: dict[int, str] = {}
    with replacing(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        for key in ("created", "tool_version", "model_name", "model_sha256", "n_layers", "seed"):
            file.attrs[key] = getattr(header, key)
        for key in ("n_importance_samples", "proposal", "listing_sha256"):
            file.attrs[key] = getattr(header, key)
        file.attrs["settings"] = json.dumps(header.settings, sort_keys=True)

        datasets = _create(file, header)
        manifest = hashlib.sha256()
        start = 0
        for rows in _chunks(batches, errors):
            stop = start + len(rows)
            for field, dataset in datasets.items():
                dataset[start:stop] = rows[field]
            for name, row in zip(names[start:stop], rows, strict=True):
                manifest.update(name + b"\0" + row["sha256"].tobytes())
            start = stop
        assert start == header.n_images == len(names), "the journal is whole before this is called"
        file.attrs["manifest_sha256"] = manifest.hexdigest()

        datasets["status"].attrs["codes"] = json.dumps(status_codes)
        datasets["conversions"].attrs["codes"] = json.dumps(conversion_codes)
        _write_strings(file, "/images/path", names, "ascii")
        texts = [errors.get(row, "").encode("utf-8", "replace") for row in range(len(names))]
        _write_strings(file, "/images/error", texts, "utf-8")
        if header.label is not None:
            label = np.full(len(names), header.label, np.int8)
            file.create_dataset("/images/label", data=label, chunks=True, fletcher32=True)


def _create(file: h5py.File, header: RunHeader) -> dict[str, h5py.Dataset]:
    dtype = row_dtype(header.n_layers)
    datasets = {}
    for field, name in DATASETS.items():
        kind = dtype[field]
        shape = (header.n_images, *kind.shape)
        chunks = (min(header.n_images, _CHUNK), *(1 for _ in kind.shape))
        if field == "sha256":
            chunks = (min(header.n_images, _CHUNK), 32)
        datasets[field] = file.create_dataset(
            name, shape, kind.base, chunks=chunks, fletcher32=True, track_times=False
        )
    return datasets


def _chunks(batches: Iterable[Batch], errors: dict[int, str]) -> Iterator[Rows]:
    """Batches gathered into chunks; the errors are set aside by row."""
    gathered: list[Rows] = []
    for batch in batches:
        errors.update(batch.errors)
        gathered.append(batch.rows)
        if sum(map(len, gathered)) >= _CHUNK:
            yield np.concatenate(gathered)
            gathered = []
    if gathered:
        yield np.concatenate(gathered)


def _write_strings(file: h5py.File, name: str, values: list[bytes], charset: str) -> None:
    """Fixed length and gzip, or variable length, whichever is smaller."""
    longest = max(map(len, values), default=0) or 1
    total = sum(map(len, values))
    # gzip takes padding and repeats down to about a tenth; a variable string costs 16 bytes more
    # and cannot hold a NUL, which a list of names on standard input may have
    small = longest * len(values) * 0.1 <= total + 16 * len(values)
    if small or any(b"\0" in value for value in values):
        kind = h5py.string_dtype(charset, longest)
        data: NDArray[np.bytes_] = np.array(values, dtype=kind)
        file.create_dataset(name, data=data, chunks=True, compression="gzip", fletcher32=True)
    else:
        kind = h5py.string_dtype(charset)
        file.create_dataset(name, data=np.array(values, object), dtype=kind, chunks=True)
