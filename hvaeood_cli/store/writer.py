"""Writes score files: whole, beside their place, then renamed into it.

A decision can be made anew, at another level, without scoring again. So it is the only part of a
score file that may be replaced, and then too the file is copied, changed and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import replacing
from hvaeood_cli.store import hdf5
from hvaeood_cli.store.columns import Column, columns
from hvaeood_cli.store.decision import CALIBRATION, GROUP, MAX_CALIBRATION, Decision
from hvaeood_cli.store.header import FORMAT, FORMAT_VERSION, OF_SHARD
from hvaeood_cli.store.room import IN_MEMORY, Room
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.status import GONE
from hvaeood_cli.store.tiles import FIRST, Block, TileTable, datasets, first_of

_CHUNK = 16384  # rows, ...
_CHUNK_BYTES = 1 << 20  # ... but no more bytes
_SHA256 = 32  # bytes
# Attributes that are left out at these values: as ever, where images are cropped to a square, and
# where the file is no part.
_SILENT = {"fit": "crop", "tile_stride": None, "tile_scale": None, **dict.fromkeys(OF_SHARD)}


def _replace_anything() -> None:
    """A check that any file passes."""


def write_scores(
    path: Path,
    scores: ScoreFile,
    check: Callable[[], None] = _replace_anything,
    tiles: Iterable[Block] | None = None,
) -> ScoreFile:
    """Write a whole run, with its decision if it has one. Returns the scores as they were written.

    check: as in `replacing`; it raises where the file that is there must stay. tiles: of each row
    that has any, in any order; None: those that the scores have. Raises OSError where the file
    cannot be written, StoreError while another process keeps writing.
    """
    written = replace(scores, path=path, manifest_sha256=manifest_sha256(scores))
    if scores.header.fit == "tile":
        first = first_of(scores["n_tiles"])
        n_tiles = np.diff(first)
        table = TileTable(path, written.manifest_sha256, scores.sizes, first[:-1], n_tiles)
        written = replace(written, tiles=table)
        if tiles is None:
            tiles = scores.tiles.blocks() if scores.tiles else ()
    with (
        replacing(path, check) as temporary,
        _written(temporary, "w") as file,
    ):
        for key, value in _attributes(written).items():
            file.attrs[key] = value
        for column in columns("images", "scores"):
            if column.name in scores.columns or not column.optional:
                _write_column(file, column, scores[column.name], scores.room)
        file["/images/status"].attrs["codes"] = json.dumps(scores.status_codes)
        file["/images/conversions"].attrs["codes"] = json.dumps(scores.conversion_codes)
        _write_strings(file, "/images/path", scores.names, "ascii", scores.room)
        _write_strings(file, "/images/error", scores.errors.encoded(), "utf-8")
        if scores.label is not None:
            file.create_dataset("/images/label", data=scores.label, chunks=True, fletcher32=True)
        if written.tiles is not None:
            _write_tiles(file, written.tiles, tiles or ())
        if scores.decision is not None:
            _write_group(file, scores.decision)
    return written


def write_decision(scores: ScoreFile, decision: Decision | None) -> None:
    """Write a decision into the file of these scores; with None, remove the one that is there.

    It is of the file's rows, or of those whose images are not gone (`ScoreFile.present`). Raises
    StoreError where the file was scored anew since it was read, so that the decision's rows are
    not the file's, and where another process replaces it meanwhile: what that one wrote stays.
    Raises OSError where the file cannot be written.
    """
    path = scores.path
    copied = _file_at(path)

    def check() -> None:
        if _file_at(path) != copied:
            raise _scored_anew(path)

    with replacing(path, check) as temporary:
        shutil.copyfile(path, temporary)
        with _written(temporary, "r+") as file:
            if any(file.attrs.get(key) != value for key, value in _attributes(scores).items()):
                raise _scored_anew(path)
            try:
                _replace_group(file, decision)
            except (KeyError, ValueError, RuntimeError) as error:  # damage where no reader looks
                raise hdf5.not_whole(path, error) from None


def _replace_group(file: h5py.File, decision: Decision | None) -> None:
    """Put a decision in the place of the one that is there, if any."""
    if GROUP in file:
        del file[GROUP]
    if decision is not None:
        present = file["/images/status"][()] != GONE
        _write_group(file, decision if len(decision) == len(present) else decision.among(present))


class _Disk(FileIO):
    """A file for HDF5 to write, for which no write fails: the first error is kept, and said later.

    The library crashes, or fills the terminal, where the disk is full.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        n = len(rest)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return n

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def _written(place: Path, mode: Literal["w", "r+"]) -> Iterator[h5py.File]:
    """An HDF5 file that is open to be written. Raises OSError where that failed."""
    with _Disk(place, "r+") as disk:
        try:
            with h5py.File(disk, mode, track_order=False) as file:
                yield file
        except (OSError, RuntimeError):  # of HDF5, which found back not what it had written
            if disk.error is None:
                raise
        if disk.error is not None:
            raise disk.error


def _file_at(path: Path) -> tuple[int, int, int, int] | None:
    """Which file has this name, and when it was written: another after each replacement."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _scored_anew(path: Path) -> StoreError:
    return StoreError(
        f"{path} was scored anew since it was read, or decided by another; this decision is not "
        "written",
        "open it again, then decide",
    )


def _attributes(scores: ScoreFile) -> dict[str, Any]:
    """The root attributes: format, version, and what identifies the run."""
    facts = scores.header.model_dump(exclude={"label", "n_images"})
    facts = {key: value for key, value in facts.items() if value != _SILENT.get(key, ...)}
    facts |= {"format": FORMAT, "format_version": FORMAT_VERSION}
    return facts | {"manifest_sha256": scores.manifest_sha256}


def manifest_sha256(scores: ScoreFile) -> str:
    """The hash of all names, each with the hash of what was read under it."""
    digest = hashlib.sha256()
    for first in range(0, len(scores), _CHUNK):
        names = np.ascontiguousarray(scores.names[first : first + _CHUNK])
        width = names.itemsize
        rows = np.zeros((len(names), width + 1 + _SHA256), np.uint8)  # name, NUL, hash
        rows[:, :width] = names.view(np.uint8).reshape(-1, width)
        rows[:, width + 1 :] = scores.sha256[first : first + _CHUNK]
        used = np.ones(rows.shape, np.bool_)
        used[:, :width] = np.arange(width) < np.strings.str_len(names)[:, None]
        digest.update(rows[used].data)
        scores.room.let_go()
    return digest.hexdigest()


def _write_strings(
    file: h5py.File, name: str, values: NDArray[np.bytes_], charset: str, room: Room = IN_MEMORY
) -> None:
    """Write strings at fixed length with gzip, or at variable length, whichever is smaller."""
    lengths = np.zeros(len(values), np.int32)
    for rows in _slices(values):
        lengths[rows] = np.strings.str_len(values[rows])
        room.let_go()
    longest = int(lengths.max(initial=0)) or 1
    # gzip takes padding and repeats down to about a tenth; a variable string costs 16 bytes more
    # and cannot hold a NUL, which a list of names on standard input may have
    small = longest * len(values) * 0.1 <= lengths.sum(dtype=np.int64) + 16 * len(values)
    if small or any(b"\0" in value for value in values.tolist()):
        kind = h5py.string_dtype(charset, longest)
        dataset = file.create_dataset(
            name, values.shape, kind, chunks=_rows_in_chunk(values, longest), compression="gzip",
            fletcher32=True,
        )  # fmt: skip
        _fill(dataset, values, room)
    else:
        kind = h5py.string_dtype(charset)
        file.create_dataset(name, data=values.astype(object), dtype=kind, chunks=True)


def _write_group(file: h5py.File, decision: Decision) -> None:
    """Write a decision as datasets and attributes of an open file."""
    group = file.create_group(GROUP)
    for key, value in decision.facts.items():
        group.attrs[key] = value
    for column in columns("decision"):
        _write_column(file, column, getattr(decision, column.name))
    if 0 < len(decision.calibration) <= MAX_CALIBRATION:
        data = np.frombuffer(decision.calibration, np.uint8)
        file.create_dataset(CALIBRATION, data=data, fletcher32=True, track_times=False, chunks=True)


def _write_tiles(file: h5py.File, table: TileTable, blocks: Iterable[Block]) -> None:
    """Write the tiles of every row, image by image: they are never in memory together.

    Raises RuntimeError where those of a row are missing.
    """
    total = int(table.n_tiles.sum())
    kinds = datasets(table.sizes)
    first = np.append(table.first, total)
    file.create_dataset(FIRST, data=first, chunks=(min(len(first), _CHUNK),), fletcher32=True)
    file[FIRST].attrs["meaning"] = "row i has tiles first[i] to first[i + 1] - 1"
    for name, (shape, dtype, meaning, unit) in kinds.items():
        chunks = (min(total, _CHUNK), *shape) if total else None
        dataset = file.create_dataset(
            name,
            (total, *shape),
            dtype,
            chunks=chunks,
            fletcher32=total > 0,
            track_times=False,
        )
        dataset.attrs["meaning"] = meaning
        if unit:
            dataset.attrs["unit"] = unit
    lacking = table.n_tiles > 0
    for row, tiles in blocks:
        if len(tiles) != table.n_tiles[row]:
            raise RuntimeError(f"row {row} has {len(tiles)} of {table.n_tiles[row]} tiles")
        begin = int(table.first[row])
        for name in kinds:
            file[name][begin : begin + len(tiles)] = tiles[name.rpartition("/")[2]]
        lacking[row] = False
    if lacking.any():
        raise RuntimeError(f"{int(lacking.sum())} rows have no tiles")


def _slices(values: NDArray[Any]) -> Iterator[slice]:
    return (slice(first, first + _CHUNK) for first in range(0, len(values), _CHUNK))


def _rows_in_chunk(values: NDArray[Any], n_bytes: int = 1) -> tuple[int]:
    """How many rows a chunk has, of so many bytes each: fewer of long strings.

    The last chunk is filled up, and a reader must not find the file to claim more than it holds.
    """
    return (max(1, min(len(values), _CHUNK, _CHUNK_BYTES // n_bytes)),)


def _fill(dataset: h5py.Dataset, values: NDArray[Any], room: Room) -> None:
    """Write all values of a dataset, some rows at a time: more need not be in memory."""
    for rows in _slices(values):
        part = values[rows].astype(dataset.dtype, copy=False)
        dataset[rows] = part.view(dataset.dtype)  # with the charset, which `astype` drops
        room.let_go()


def _write_column(
    file: h5py.File, column: Column, values: NDArray[Any], room: Room = IN_MEMORY
) -> None:
    """Write a column as a dataset: chunked by row, with a checksum, readable without a plugin.

    Each k or layer has chunks of its own; the bytes of a hash stay together.
    """
    wide = values.shape[1:] if column.each == "byte" else tuple(1 for _ in values.shape[1:])
    dataset = file.create_dataset(
        column.dataset,
        values.shape,
        column.dtype,
        chunks=(*_rows_in_chunk(values), *wide),
        fletcher32=True,
        track_times=False,
    )
    _fill(dataset, values, room)
    dataset.attrs["meaning"] = column.sentence
    if column.unit:
        dataset.attrs["unit"] = column.unit
