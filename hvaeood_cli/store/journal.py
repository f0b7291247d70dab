"""The crash-safe half of a score file: rows are appended here until the run is whole.

    OUT.journal = magic, then frames: kind (1 byte), length and CRC-32 of the payload, payload

The first frame is the run's header (JSON). The others are batches: first row, number of rows, the
rows, and the errors of those that could not be read. A run that needs only some of the images has
gaps between its batches. A kill or a full disk can only tear the last frame; on opening, a torn
tail is cut off and everything before it stands. A file whose header was torn has no rows yet: it is
started anew.

Where the images have changed since a run was interrupted, a further header begins another part.
The rows before it are not of its images, but may be known among them by their bytes.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import time
import zlib
from collections.abc import Collection, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from pydantic import ValidationError

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import sync_folder, try_lock
from hvaeood_cli.store.columns import Rows, row_dtype
from hvaeood_cli.store.header import OF_IMAGES, RunHeader, differences, how_to_agree

_FORMAT = b"hvaeood-journal "
_MAGIC = _FORMAT + b"2\n"
_FRAME = struct.Struct("<cQI")
_BATCH = struct.Struct("<QQ")
_MAX_FRAME = 1 << 32
_MAX_HEADER = 1 << 20
SYNC_SECONDS = 0.5  # rows are synced to the disk this often; a crash loses no more work than that
NO_LOCKS = "this file system has no locks: do not run two commands at once on one output"


class Batch(NamedTuple):
    """The rows of consecutive images of a manifest."""

    first: int  # the place of the first one in the manifest
    rows: Rows
    errors: dict[int, str]  # place in the manifest -> why the image could not be read


def journal_path(out: Path) -> Path:
    """The path of a score file's journal."""
    return out.with_name(out.name + ".journal")


class Journal:
    """An open journal. Where the file system has locks, only this process may append to it."""

    def __init__(self, file: FileIO, path: Path, contents: _Contents, locked: bool) -> None:
        self._file = file
        self._path = path
        self._begin = contents.begin
        self._n_earlier = contents.n_earlier
        self.header = contents.header
        self.locked = locked  # False: nothing keeps another process from writing too; see NO_LOCKS
        self._last_sync = time.monotonic()
        self.done = np.zeros(self.header.n_images, np.bool_)  # which images it has rows of, (N,)
        for batch in self.batches():
            self.done[batch.first : batch.first + len(batch.rows)] = True

    @classmethod
    def open(cls, path: Path, header: RunHeader, force: bool = False) -> Journal:
        """Open the journal at `path`, or start it.

        A journal of the same run over other images is continued by another part. Raises StoreError
        when it belongs to another run than `header` (and says what differs), when it is damaged,
        and when another process is writing it. force: start over where it is damaged or belongs to
        another run or other images; a journal of the same run is continued.
        """
        # Reads under the lock before it writes anything: of two processes that start at once, the
        # second finds the first's journal whole. The file is unbuffered: what write() took, the
        # system has.
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        try:
            locked = _lock(file, path)
            try:
                if _is_unwritten(file):
                    _start(file, path, header)
                there = _scan(file, path)
                _check_same(path, there.header, header, () if force else OF_IMAGES)
            except StoreError:
                if not force:
                    raise
                _start(file, path, header)
                there = _scan(file, path)
            file.truncate(there.end)
            file.seek(there.end)
            if differences(there.header, header):
                _begin_part(file, header)
                there = _scan(file, path)
        except BaseException:
            file.close()
            raise
        return cls(file, path, there, locked)

    @staticmethod
    def runtime_of(path: Path) -> str:
        """The runtime that the run there goes on with; empty if there is no such run."""
        try:
            with FileIO(path) as file:
                return _scan(file, path).header.runtime
        except (OSError, StoreError):
            return ""  # `open` says what is wrong with it

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost with it."""
        return self.n_done + self._n_earlier == 0

    @property
    def n_done(self) -> int:
        """How many rows of this run it holds."""
        return int(np.count_nonzero(self.done))

    def append(self, batch: Batch) -> None:
        """Append rows of this run, and sync if the last time was more than SYNC_SECONDS ago.

        Raises RuntimeError for rows that are there already, or are not of the run.
        """
        first, last = batch.first, batch.first + len(batch.rows)
        if last > len(self.done) or self.done[first:last].any():
            raise RuntimeError(f"rows {first} to {last - 1} are there, or not of this run")
        payload = _BATCH.pack(batch.first, len(batch.rows))
        payload += batch.rows.tobytes()
        payload += json.dumps(batch.errors).encode()
        _write_all(self._file, _frame(b"B", payload))
        if time.monotonic() - self._last_sync > SYNC_SECONDS:
            self.sync()
        self.done[first:last] = True

    def sync(self) -> None:
        """Sync every row appended so far to the disk."""
        os.fsync(self._file.fileno())
        self._last_sync = time.monotonic()

    def batches(self) -> Iterator[Batch]:
        """Every batch of this run, in the order in which they were appended."""
        return self._read(self._begin, self._file.tell())

    def earlier(self) -> Iterator[Batch]:
        """The batches of parts before this run's: of images that were listed otherwise."""
        return self._read(len(_MAGIC), self._begin)

    def _read(self, begin: int, end: int) -> Iterator[Batch]:
        """The batches between two places in the file."""
        position = self._file.tell()
        self._file.seek(begin)
        try:
            for kind, payload in _frames(self._file):
                if self._file.tell() > end:
                    return
                if kind == b"B":
                    yield _batch(payload, self.header.n_layers)
        finally:
            self._file.seek(position)

    def remove(self) -> None:
        """Delete the file; while it is still locked, so that nobody goes on with it."""
        self._path.unlink()

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
            if error is None:  # otherwise the first error says more
                raise
        finally:
            self.close()


def check_next(batch: Batch, n_done: int, n_images: int) -> None:
    """Raise RuntimeError unless a batch is the rows that come after the first `n_done`."""
    first, last = batch.first, batch.first + len(batch.rows)
    if first != n_done or last > n_images:
        raise RuntimeError(
            f"the engine gave rows {first} to {last - 1} where row {n_done} of {n_images} is next"
        )


def _start(file: FileIO, path: Path, header: RunHeader) -> None:
    """Make the file a journal without rows, and sync it before any row is written."""
    file.seek(0)
    file.truncate(0)
    _write_all(file, _MAGIC + _frame(b"H", header.model_dump_json().encode()))
    os.fsync(file.fileno())
    sync_folder(path.parent)


def _begin_part(file: FileIO, header: RunHeader) -> None:
    """Append a header, and sync it before any row of its part is written."""
    _write_all(file, _frame(b"H", header.model_dump_json().encode()))
    os.fsync(file.fileno())


def _is_unwritten(file: FileIO) -> bool:
    """Whether the file was made and its header never written whole, as a kill may leave it.

    Such a file ends inside the header. Rows cannot hide there: their frames hold NUL bytes, and
    a header is text. Any other file, whatever it is, is not ours to overwrite.
    """
    file.seek(0)
    data = file.read(len(_MAGIC) + _MAX_HEADER)
    head, rest = data[: len(_MAGIC)], data[len(_MAGIC) :]
    if len(rest) < _FRAME.size:
        return _MAGIC.startswith(head) and b"H".startswith(rest[:1])
    kind, length, _ = _FRAME.unpack_from(rest)
    text = rest[_FRAME.size :]
    return head == _MAGIC and kind == b"H" and len(text) < length and b"\0" not in text


def _check_same(
    path: Path, there: RunHeader, here: RunHeader, ignored: Collection[str] = ()
) -> None:
    differing = differences(there, here, ignored)
    if differing:
        raise StoreError(
            f"{path} belongs to an unfinished run with other inputs: " + "; ".join(differing),
            how_to_agree(there, here)
            or "run its command again to finish it, choose another -o, or --force to drop it",
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


class _Contents(NamedTuple):
    """What a journal holds."""

    header: RunHeader  # of its last part
    n_earlier: int  # rows of the parts before
    n_done: int  # rows of that part
    begin: int  # where they begin in the file
    end: int  # ... and end


def _scan(file: FileIO, path: Path) -> _Contents:
    """What the journal holds, up to a torn end. Raises StoreError."""
    hint = f"it is no journal of this program; remove {path} or choose another -o"
    file.seek(0)
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC and magic.startswith(_FORMAT):
        raise StoreError(
            f"{path} is of a run that another version of this program began",
            "finish it with that version, choose another -o, or --force to start over",
        )
    if magic != _MAGIC:
        raise StoreError(f"{path} is damaged", hint)
    frames = _frames(file)
    try:
        kind, payload = next(frames)
        found = _Contents(RunHeader.model_validate_json(payload), 0, 0, file.tell(), file.tell())
        for kind, payload in frames:
            if kind == b"H":
                header = RunHeader.model_validate_json(payload)
                n_earlier, here = found.n_earlier + found.n_done, file.tell()
                found = _Contents(header, n_earlier, 0, here, here)
                continue
            if kind != b"B":
                break
            try:
                batch = _batch(payload, found.header.n_layers)
            except (ValueError, struct.error):  # whole, but not as this program writes it
                raise StoreError(f"{path} holds rows of another version", hint) from None
            if batch.first + len(batch.rows) > found.header.n_images:
                break
            found = found._replace(n_done=found.n_done + len(batch.rows), end=file.tell())
    except (StopIteration, ValidationError):
        raise StoreError(f"{path} is damaged", hint) from None
    return found


def _batch(payload: bytes, n_layers: int) -> Batch:
    """The batch in a frame. Raises ValueError or struct.error for anything else."""
    first, n_rows = _BATCH.unpack_from(payload)
    rows = np.frombuffer(payload, row_dtype(n_layers), n_rows, _BATCH.size)
    errors = json.loads(payload[_BATCH.size + rows.nbytes :])
    return Batch(first, rows, {int(row): reason for row, reason in errors.items()})


def _lock(file: FileIO, path: Path) -> bool:
    """Lock the journal for this process; returns False where the file system has no locks.

    Raises StoreError where another process has locked it, and for a pipe or a device.
    """
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise StoreError(f"{path} is not a regular file", "choose another -o")
    try:
        locked = try_lock(file.fileno())
    except BlockingIOError:
        raise StoreError(
            f"another process is writing {path}", "wait for it to end, or choose another -o"
        ) from None
    try:
        same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        same = False
    if not same:  # the run ended between our opening and locking, and its journal is gone
        raise StoreError(
            f"another process has just finished with {path}", "run the same command again"
        )
    return locked
