"""The crash-safe half of a score file: rows are appended here until the run is whole.

    OUT.journal = magic, then frames: kind (1 byte), length and CRC-32 of the payload, payload

The first frame is the run's header (JSON). Each other frame is a batch: first row, number of
rows, the rows, and the errors of those that could not be read. A kill or a full disk can only
tear the last frame; on opening, a torn tail is cut off and everything before it stands.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from pydantic import ValidationError

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import replacing
from hvaeood_cli.store.columns import Rows, row_dtype
from hvaeood_cli.store.header import RunHeader, differences

_MAGIC = b"hvaeood-journal 1\n"
_FRAME = struct.Struct("<cQI")
_BATCH = struct.Struct("<QQ")
_MAX_FRAME = 1 << 32
SYNC_SECONDS = 0.5  # rows are acknowledged when synced; a kill loses at most this much work


class Batch(NamedTuple):
    """Consecutive rows of the manifest."""

    first: int
    rows: Rows
    errors: dict[int, str]  # row -> why it could not be read


def journal_path(out: Path) -> Path:
    """Where the journal of a score file stands."""
    return out.with_name(out.name + ".journal")


class Journal:
    """An open journal: this process alone may append."""

    def __init__(self, file: FileIO, header: RunHeader, n_done: int) -> None:
        self._file = file
        self.header = header
        self.n_done = n_done  # rows that stand, acknowledged
        self._last_sync = time.monotonic()

    @classmethod
    def open(cls, path: Path, header: RunHeader, force: bool = False) -> Journal:
        """Open the journal at `path`, or start it.

        Raises StoreError when it belongs to a run that `header` may not continue (saying which
        of model, settings and images differs), or when another process is writing it.
        force: start over where it is another run's, or damaged; one's own is continued.
        """
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(_beginning(header))
        file = FileIO(path, "r+")  # unbuffered: what write() took, the system has
        try:
            _lock(file, path)
            try:
                there, n_done, end = _scan(file, path)
                _check_same(path, there, header)
            except StoreError:
                if not force:
                    raise
                file.seek(0)
                file.truncate(0)
                _write_all(file, _beginning(header))
                there, n_done, end = _scan(file, path)
            file.truncate(end)
            file.seek(end)
        except BaseException:
            file.close()
            raise
        return cls(file, there, n_done)

    def append(self, batch: Batch) -> None:
        """Add the next rows. They are on disk at the latest SYNC_SECONDS later."""
        payload = _BATCH.pack(batch.first, len(batch.rows))
        payload += batch.rows.tobytes()
        payload += json.dumps(batch.errors).encode()
        _write_all(self._file, _frame(b"B", payload))
        if time.monotonic() - self._last_sync > SYNC_SECONDS:
            self.sync()
        self.n_done += len(batch.rows)

    def sync(self) -> None:
        """Acknowledge every row appended so far."""
        os.fsync(self._file.fileno())
        self._last_sync = time.monotonic()

    def batches(self) -> Iterator[Batch]:
        """Every batch, in order, from the disk."""
        position = self._file.tell()
        self._file.seek(len(_MAGIC))
        for kind, payload in _frames(self._file):
            if kind == b"B":
                yield _batch(payload, self.header.n_layers)
        self._file.seek(position)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._file.closed:
                self.sync()
        except OSError:
            if error is None:  # else the error that brought us here says more
                raise
        finally:
            self.close()


def _beginning(header: RunHeader) -> bytes:
    return _MAGIC + _frame(b"H", header.model_dump_json().encode())


def _check_same(path: Path, there: RunHeader, here: RunHeader) -> None:
    differing = differences(there, here)
    if differing:
        raise StoreError(
            f"{path} belongs to an unfinished run with other inputs: " + "; ".join(differing),
            "run that again to finish it, choose another -o, or --force to drop it",
        )


def _frame(kind: bytes, payload: bytes) -> bytes:
    return _FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload


def _write_all(file: FileIO, data: bytes) -> None:
    """Write every byte, or raise what keeps them from being written (a full disk)."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _frames(file: FileIO) -> Iterator[tuple[bytes, bytes]]:
    """Whole frames from the file's position; stops in front of the first torn one."""
    while True:
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return
        kind, length, checksum = _FRAME.unpack(head)
        payload = file.read(length) if length <= _MAX_FRAME else b""
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield kind, payload


def _scan(file: FileIO, path: Path) -> tuple[RunHeader, int, int]:
    """The header, how many rows stand, and where the good part ends."""
    file.seek(0)
    hint = f"it is no journal of this program; remove {path} or choose another -o"
    if file.read(len(_MAGIC)) != _MAGIC:
        raise StoreError(f"{path} is damaged", hint)
    frames = _frames(file)
    try:
        kind, payload = next(frames)
        header = RunHeader.model_validate_json(payload)
    except (StopIteration, ValidationError):
        raise StoreError(f"{path} is damaged", hint) from None
    n_done, end = 0, file.tell()
    for kind, payload in frames:
        if kind != b"B":
            break
        first, n_rows = _BATCH.unpack_from(payload)
        if first != n_done:
            break
        n_done, end = n_done + n_rows, file.tell()
    return header, n_done, end


def _batch(payload: bytes, n_layers: int) -> Batch:
    first, n_rows = _BATCH.unpack_from(payload)
    dtype = row_dtype(n_layers)
    end = _BATCH.size + n_rows * dtype.itemsize
    rows = np.frombuffer(payload[_BATCH.size : end], dtype)
    errors = {int(row): reason for row, reason in json.loads(payload[end:]).items()}
    return Batch(first, rows, errors)


def _lock(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise BlockingIOError  # it was finished and removed between our opening and locking
    except OSError:
        raise StoreError(
            f"another process is writing {path}", "wait for it to end, or choose another -o"
        ) from None
