"""A score file, written whole beside its place, then renamed into it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.files import replacing
from hvaeood_cli.store.columns import columns
from hvaeood_cli.store.decision import write_column, write_group
from hvaeood_cli.store.header import FORMAT, FORMAT_VERSION
from hvaeood_cli.store.score_file import ScoreFile


def write_scores(path: Path, scores: ScoreFile) -> ScoreFile:
    """Write a whole run, with its decision if it has one; returns it as it stands in the file."""
    written = replace(scores, path=path, manifest_sha256=manifest_sha256(scores))
    with replacing(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        facts = scores.header.model_dump(exclude={"label", "n_images"})
        for key, value in (facts | {"manifest_sha256": written.manifest_sha256}).items():
            file.attrs[key] = value
        for column in columns("images", "scores"):
            write_column(file, column, scores[column.name])
        file["/images/status"].attrs["codes"] = json.dumps(scores.status_codes)
        file["/images/conversions"].attrs["codes"] = json.dumps(scores.conversion_codes)
        _write_strings(file, "/images/path", list(map(bytes, scores.names)), "ascii")
        reasons = [reason.encode("utf-8", "replace") for reason in scores.errors]
        _write_strings(file, "/images/error", reasons, "utf-8")
        if scores.label is not None:
            file.create_dataset("/images/label", data=scores.label, chunks=True, fletcher32=True)
        if scores.decision is not None:
            write_group(file, scores.decision)
    return written


def manifest_sha256(scores: ScoreFile) -> str:
    """Of every name and the hash of what was read there."""
    digest = hashlib.sha256()
    for name, content in zip(scores.names, scores.sha256, strict=True):
        digest.update(bytes(name) + b"\0" + content.tobytes())
    return digest.hexdigest()


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
