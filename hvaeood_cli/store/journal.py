"""The crash-safe half of a score file: rows are appended here until the run is whole.

    OUT.journal = magic, then frames: kind (1 byte), length and CRC-32 of the payload, payload

The first frame is the run's header (JSON). The others are batches: first row, number of rows, the
rows, their tiles if the model takes images by tiles, and the errors of those that could not be
read. A run that needs only some of the images has gaps between its batches. A kill or a full disk
can only tear the last frame; on opening, a torn tail is cut off and everything before it stands. A
file whose header was torn has no rows yet: it is started anew.

Where the images have changed since a run was interrupted, a further header begins another part.
The rows before it are not of its images, but may be known among them by their bytes.

A frame that is there and does not match its checksum was damaged later, by a disk say. It is passed
over, and its rows are scored again; whole frames behind it stand. Where it is not sure that what
was damaged were rows alone, another part begins. A journal that was damaged is kept when the run is
done, as OUT.journal.damaged.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import struct
import time
import zlib
from collections.abc import Collection, Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import open_regular, sync_folder, try_lock
from hvaeood_cli.store.columns import Rows, Tiles, columns, row_dtype, tile_dtype
from hvaeood_cli.store.conversions import WORDS
from hvaeood_cli.store.header import OF_IMAGES, RunHeader, differences, how_to_agree
from hvaeood_cli.store.status import STATUS_CODES

_FORMAT = b"hvaeood-journal "
_MAGIC = _FORMAT + b"2\n"
_FRAME = struct.Struct("<cQI")
_BATCH = struct.Struct("<QQ")
_MAX_FRAME = 1 << 30
_MAX_HEADER = 1 << 20
_MAX_SEARCHED = 1 << 30  # bytes that are summed in the search for a whole frame behind damage
_WINDOW = 1 << 20
_STATUSES = frozenset(STATUS_CODES.values())
_HEAD = re.compile(rb"[BH](?=.{4}\0{4})", re.DOTALL)  # of a frame no longer than 4 GiB
_CHECKED_AT_ONCE = 1 << 13  # rows, about; one batch, if it has tiles, which take memory
_JOINED = 1 << 14  # rows; a few more, with the last batch
SYNC_SECONDS = 0.5  # rows are synced to the disk this often; a crash loses no more work than that


class Batch(NamedTuple):
    """The rows of consecutive images of a manifest."""

    first: int  # the place of the first one in the manifest
    rows: Rows
    errors: dict[int, str]  # place in the manifest -> why the image could not be read
    tiles: Tiles | None = None  # of all these rows, one image's after the other's; see `n_tiles`

    def put_into(self, columns: dict[str, NDArray[Any]]) -> None:
        """Put the rows in their places in the columns of the whole run."""
        for name, values in columns.items():
            values[self.first : self.first + len(self.rows)] = self.rows[name]


def journal_path(out: Path) -> Path:
    """The path of a score file's journal."""
    return out.with_name(out.name + ".journal")


class Journal:
    """An open journal. Where the file system has locks, only this process may append to it."""

    def __init__(self, file: FileIO, path: Path, contents: _Contents, locked: bool) -> None:
        self._file = file
        self._path = path
        self._earlier = contents.earlier
        self._frames = contents.frames
        self.header = contents.header
        self.n_lost = contents.n_lost  # rows in places that are damaged, about
        self.locked = locked  # False: nothing keeps another process out; see files.NO_LOCKS
        self._last_sync = time.monotonic()
        self.done = np.zeros(self.header.n_images, np.bool_)  # which images it has rows of, (N,)
        for frame in self._frames:
            self.done[frame.first : frame.first + frame.n_rows] = True

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
        try:
            file = FileIO(open_regular(path, os.O_RDWR | os.O_CREAT, follow=False), "r+")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise StoreError(f"{path} is {error.strerror}", "choose another -o") from None
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
            if there.is_unsure or differences(there.header, header):
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
            with FileIO(open_regular(path, follow=False)) as file:
                return _first_header(file, path)[0].runtime  # no other is of another
        except (OSError, StoreError):
            return ""  # `open` says what is wrong with it

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self.n_done or self._earlier or self.n_lost)

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
        payload += b"" if batch.tiles is None else batch.tiles.tobytes()
        payload += json.dumps(batch.errors).encode()
        place = self._file.tell()
        _write_all(self._file, _frame(b"B", payload))
        self._frames.append(_Place(place, batch.first, len(batch.rows)))
        if time.monotonic() - self._last_sync > SYNC_SECONDS:
            self.sync()
        self.done[first:last] = True

    def sync(self) -> None:
        """Sync every row appended so far to the disk."""
        os.fsync(self._file.fileno())
        self._last_sync = time.monotonic()

    def batches(self) -> Iterator[Batch]:
        """The rows of this run, in the order in which they were appended, many at a time."""
        return _joined(self._read(self._frames))

    def earlier(self) -> Iterator[Batch]:
        """The batches of parts before this run's: of images that were listed otherwise."""
        return self._read(self._earlier)

    def _read(self, places: list[_Place]) -> Iterator[Batch]:
        """The batches in these frames."""
        size = os.fstat(self._file.fileno()).st_size
        for place in places:
            frame = _frame_at(self._file, place.begin, size)
            if frame is None:
                raise StoreError(f"{self._path} has changed meanwhile", "run the command again")
            yield _batch(frame.payload, self.header)

    def remove(self) -> None:
        """Delete the file; while it is still locked, so that nobody goes on with it.

        One that is damaged is kept under another name.
        """
        if self.n_lost:
            self._path.replace(self._kept_path())
        else:
            self._path.unlink()
        self.close()  # there is nothing left to sync

    @property
    def damage(self) -> str:
        """What cannot be read of it although it was there, in words; empty if all can be."""
        if not self.n_lost:
            return ""
        n_whole = self.n_done + sum(len(batch.rows) for batch in self.earlier())
        return (
            f"{self._path} is damaged: about {self.n_lost:,} rows in it cannot be read, and are "
            f"scored again; {n_whole:,} are whole. When the run is done, the damaged file is kept "
            f"as {self._kept_path().name}"
        )

    def _kept_path(self) -> Path:
        """A name for the damaged file that no other has."""
        names = (f"{self._path.name}.damaged{i or ''}" for i in itertools.count())
        return next(
            place for name in names if not os.path.lexists(place := self._path.with_name(name))
        )

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


class _Frame(NamedTuple):
    """A whole frame, as its checksum says."""

    kind: bytes
    payload: bytes
    end: int  # its place in the file


class _Place(NamedTuple):
    """Where a batch is in the file, and which rows it has."""

    begin: int
    first: int
    n_rows: int


class _Contents(NamedTuple):
    """What a journal holds: where its batches begin in the file, and where they end."""

    header: RunHeader  # of its last part
    earlier: list[_Place]  # of the parts before
    frames: list[_Place]  # of that part
    end: int
    n_lost: int  # rows that could not be read although they were there, about
    is_unsure: bool  # whether the header of another part may be among them


def _frame_at(file: FileIO, place: int, size: int) -> _Frame | None:
    """The whole frame that begins at a place of a file of this size; None where there is none."""
    head = _head_at(file, place, size)
    if head is None:
        return None
    kind, length, checksum = head
    payload = os.pread(file.fileno(), length, place + _FRAME.size)
    if len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    return _Frame(kind, payload, place + _FRAME.size + length)


def _head_at(file: FileIO, place: int, size: int) -> tuple[bytes, int, int] | None:
    """Kind, length and checksum of a frame, if a file of this size has room for all of it."""
    head = os.pread(file.fileno(), _FRAME.size, place)
    if len(head) < _FRAME.size:
        return None
    kind, length, checksum = _FRAME.unpack(head)
    least = {b"H": 1, b"B": _BATCH.size}.get(kind, size)
    fits = least <= length <= min(_MAX_FRAME, size - place - _FRAME.size)
    return (kind, length, checksum) if fits else None


def _is_torn(file: FileIO, place: int, size: int, row_size: int) -> bool:
    """Whether a frame begins at a place and the file ends before it does, as a kill leaves it."""
    head = os.pread(file.fileno(), _FRAME.size, place)
    if size - place < _FRAME.size + _BATCH.size + row_size:
        return True  # there is room for no row
    kind, length, _ = _FRAME.unpack(head)
    return kind in (b"H", b"B") and size - place - _FRAME.size < length <= _MAX_FRAME


def _next_whole(file: FileIO, place: int, size: int, path: Path) -> int | None:
    """The place of the next whole frame, from a place on. Raises StoreError for too many tries."""
    searched = 0
    for begin in range(place, size, _WINDOW):
        window = os.pread(file.fileno(), _WINDOW + _FRAME.size, begin)
        for match in _HEAD.finditer(window, 0, min(len(window), _WINDOW + 8)):
            if match.start() >= _WINDOW:
                break
            head = _head_at(file, begin + match.start(), size)
            searched += head[1] if head else 0
            if searched > _MAX_SEARCHED:
                raise _damaged(path)
            if head and _frame_at(file, begin + match.start(), size):
                return begin + match.start()
    return None


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} is damaged",
        f"it is no journal of this program; remove {path} or choose another -o",
    )


def _scan(file: FileIO, path: Path) -> _Contents:
    """What the journal holds, up to a torn end. Raises StoreError."""
    size = os.fstat(file.fileno()).st_size
    header, end = _first_header(file, path)
    found = _Contents(header, [], [], end, 0, False)
    row_size = row_dtype(found.header.sizes).itemsize
    unchecked: list[Batch] = []
    n_unchecked = 0
    while found.end < size:
        frame = _frame_at(file, found.end, size)
        if frame is None:
            after = _next_whole(file, found.end + 1, size, path)
            if after is None and _is_torn(file, found.end, size, row_size):
                break
            found = _without_damaged(found, file, after or size, row_size, size)
        elif frame.kind == b"H":
            header = _header(frame, path)
            if differences(found.header, header, OF_IMAGES):
                raise _damaged(path)
            _check_batches(unchecked, found.header, path)
            unchecked, n_unchecked = [], 0
            earlier = found.earlier + found.frames
            found = _Contents(header, earlier, [], frame.end, found.n_lost, is_unsure=False)
        else:
            batch = _whole_batch(frame.payload, found.header, path)
            found.frames.append(_Place(found.end, batch.first, len(batch.rows)))
            found = found._replace(end=frame.end)
            unchecked.append(batch)
            n_unchecked += len(batch.rows)
            if batch.tiles is not None or n_unchecked >= _CHECKED_AT_ONCE:
                _check_batches(unchecked, found.header, path)
                unchecked, n_unchecked = [], 0
    _check_batches(unchecked, found.header, path)
    return found


def _first_header(file: FileIO, path: Path) -> tuple[RunHeader, int]:
    """The header that a journal begins with, and where it ends. Raises StoreError."""
    magic = os.pread(file.fileno(), len(_MAGIC), 0)
    if magic != _MAGIC and magic.startswith(_FORMAT):
        raise StoreError(
            f"{path} is of a run that another version of this program began",
            "finish it with that version, choose another -o, or --force to start over",
        )
    size = os.fstat(file.fileno()).st_size
    first = _frame_at(file, len(_MAGIC), size) if magic == _MAGIC else None
    if first is None:
        raise _damaged(path)
    return _header(first, path), first.end


def _without_damaged(
    found: _Contents, file: FileIO, after: int, row_size: int, size: int
) -> _Contents:
    """What was found, and that what follows cannot be read. after: the next whole frame, or size.

    Where not one batch alone can have been there, a header may be lost with it. Then nobody knows
    of which images the rows behind it are: all are of a part before.
    """
    length = after - found.end
    n_lost = max(1, (length - _FRAME.size - _BATCH.size) // row_size)
    head = _head_at(file, found.end, size)
    one_batch = head is not None and head[0] == b"B" and _FRAME.size + head[1] == length
    found = found._replace(end=after, n_lost=found.n_lost + n_lost)
    if one_batch or after == size:
        return found
    return found._replace(earlier=found.earlier + found.frames, frames=[], is_unsure=True)


def _header(frame: _Frame, path: Path) -> RunHeader:
    """The header in a frame. Raises StoreError for anything else."""
    try:
        if frame.kind != b"H" or len(frame.payload) > _MAX_HEADER:
            raise _damaged(path)
        return RunHeader.model_validate_json(frame.payload)
    except ValidationError:
        raise _damaged(path) from None


def _whole_batch(payload: bytes, header: RunHeader, path: Path) -> Batch:
    """The batch in a frame whose checksum is right. Raises StoreError for anything else."""
    try:
        return _batch(payload, header)
    except (ValueError, RecursionError):
        raise _of_another_program(path) from None


def _check_batches(batches: list[Batch], header: RunHeader, path: Path) -> None:
    """Raise StoreError for what this program does not write, though its checksum is right."""
    if batches and not _are_sound(batches, header):
        raise _of_another_program(path)


def _of_another_program(path: Path) -> StoreError:
    return StoreError(
        f"{path} holds rows of another version, or of another program",
        f"remove {path}, choose another -o, or --force to start over",
    )


def _are_sound(batches: list[Batch], header: RunHeader) -> bool:
    """Whether these can be rows of a run."""
    rows = _rows_of(batches)
    return (
        all(batch.first + len(batch.rows) <= header.n_images for batch in batches)
        and not any(
            column.wrong(rows[column.name])
            for column in columns("images", "scores", asked=header.sizes.asked)
            if column.may_be_wrong
        )
        and set(np.unique(rows["status"]).tolist()) <= _STATUSES
        and not (rows["conversions"] >> len(WORDS)).any()
        and all(
            batch.first <= place < batch.first + len(batch.rows)
            for batch in batches
            for place in batch.errors
        )
    )


def _rows_of(batches: list[Batch]) -> Rows:
    """The rows of batches, one after the other. (NumPy joins such rows field by field.)"""
    joined = b"".join(batch.rows.tobytes() for batch in batches)
    return np.frombuffer(joined, batches[0].rows.dtype)


def _joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches that follow one another as one, up to some: the fewer there are, the less to do."""
    held: list[Batch] = []
    first, last = 0, -1  # of the rows that are held
    for batch in batches:
        if batch.first != last or batch.tiles is not None or last - first >= _JOINED:
            if held:
                yield _one(held)
            held, first = [], batch.first
        held.append(batch)
        last = batch.first + len(batch.rows)
    if held:
        yield _one(held)


def _one(batches: list[Batch]) -> Batch:
    """Batches that follow one another, as one."""
    if len(batches) == 1:
        return batches[0]
    rows = _rows_of(batches)
    errors = {place: why for batch in batches for place, why in batch.errors.items()}
    return Batch(batches[0].first, rows, errors)


def _batch(payload: bytes, header: RunHeader) -> Batch:
    """The batch in a frame. Raises ValueError for anything else."""
    first, n_rows = _BATCH.unpack_from(payload)
    dtype = row_dtype(header.sizes)
    if n_rows > (len(payload) - _BATCH.size) // dtype.itemsize:
        raise ValueError("fewer rows than there should be")
    rows = np.frombuffer(payload, dtype, n_rows, _BATCH.size)
    end, tiles = _BATCH.size + rows.nbytes, None
    if header.fit == "tile":
        n_tiles = int(rows["n_tiles"].sum(dtype=np.int64))
        tiles = np.frombuffer(payload, tile_dtype(header.sizes), n_tiles, end)
        end += tiles.nbytes
    text = payload[end:]
    errors = {} if text == b"{}" else json.loads(text)
    if not isinstance(errors, dict) or not all(isinstance(why, str) for why in errors.values()):
        raise ValueError("no reasons by row")
    return Batch(first, rows, {int(row): reason for row, reason in errors.items()}, tiles)


def _lock(file: FileIO, path: Path) -> bool:
    """Lock the journal for this process; returns False where the file system has no locks.

    Raises StoreError where another process has locked it.
    """
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
