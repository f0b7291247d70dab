"""The record of moves: a line of JSON for each image that was moved into a folder.

A line is on the disk before its image is moved, so after a kill the record names every image that
may have been moved; whether it was can be seen from where its file is. Lines that are torn or
damaged name none, are counted, and stay.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import replacing, sync_folder, try_lock

NAME = "hvaeood-moved.jsonl"
VERSION = 1  # of the format, in every line
_MAX_BYTES = 1 << 28  # of a record
_MAX_LINE = 1 << 16  # bytes: two paths, with an escape for each byte
_BEGINNING = b'{"version": '
_WHOLE = re.compile(rb'"sha256": "[^"]{64}"')  # the last words of a line: it was written whole


class _Line(BaseModel):
    """A line of the record, as JSON."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    origin: Annotated[str, Field(alias="from")]
    place: Annotated[str, Field(alias="to")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Move(NamedTuple):
    """Where an image was, and where in the folder it was moved to."""

    origin: str  # its whole path
    place: str  # its path in the folder
    sha256: str  # of its bytes

    @classmethod
    def of_line(cls, line: bytes) -> Self | None:
        """What a line says; None where that is no move into the folder. Never raises."""
        try:
            # By json first: a path may hold lone surrogates, for bytes that are not UTF-8.
            facts = _Line.model_validate(json.loads(line), strict=True)
            os.fsencode(facts.origin + facts.place)  # other surrogates are in no path
        except (ValueError, RecursionError):  # ValidationError is a ValueError
            return None
        move = cls(facts.origin, facts.place, facts.sha256)
        paths = Path(move.origin), Path(move.place)
        whole = paths[0].is_absolute() and not paths[1].is_absolute()
        plain = tuple(map(str, paths)) == move[:2] and "\0" not in move.origin + move.place
        inside = os.pardir not in paths[0].parts + paths[1].parts and paths[1] != Path()
        return move if whole and plain and inside else None

    def line(self) -> bytes:
        facts = {"version": VERSION, "from": self.origin, "to": self.place, "sha256": self.sha256}
        return json.dumps(facts).encode() + b"\n"


class MoveRecord:
    """The moves into a folder. Whoever may change it holds a lock on it."""

    def __init__(
        self,
        folder: Path,
        moves: Iterable[Move],
        descriptor: int | None = None,
        damaged: Sequence[bytes] = (),
    ) -> None:
        self.path = folder / NAME
        self.moves = list(dict.fromkeys(moves))
        self.damaged = damaged  # lines that name no move: they stay in the record, for people
        self._descriptor = descriptor
        self._by_place: dict[str, set[str]] = {}
        self._by_origin: dict[str, list[Move]] = {}
        for move in self.moves:
            self._index(move)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, to_change: bool) -> Iterator[Self]:
        """The record of a folder, empty where there is none.

        Raises StoreError where it is no regular file and, where it is to be changed, while another
        process may change it; OSError where it cannot be read or written.
        """
        path = folder / NAME
        if not os.path.lexists(path) and not to_change:
            yield cls(folder, ())
            return
        with _open(path, to_change) as file:
            moves, damaged, end = _read(file, path)
            if to_change:
                os.ftruncate(file.fileno(), end)  # so that no line is appended to a torn one
                if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                    _append(file.fileno(), b"\n")
            yield cls(folder, moves, file.fileno() if to_change else None, damaged)
            if to_change and not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)  # nothing was moved

    def add(self, move: Move) -> None:
        """Write a move down, on the disk, before it is made."""
        if move in self._by_origin.get(move.origin, ()):
            return
        assert self._descriptor is not None, "opened to be changed"
        _append(self._descriptor, move.line())
        os.fsync(self._descriptor)
        self.moves.append(move)
        self._index(move)

    def of_origin(self, origin: str) -> list[Move]:
        """The moves from a place."""
        return self._by_origin.get(origin, [])

    def is_of_another(self, place: str, origin: str) -> bool:
        """Whether an image from elsewhere was moved to that place in the folder."""
        return bool(self._by_place.get(place, set()) - {origin})

    def keep(self, moves: Sequence[Move]) -> None:
        """Let the record hold these moves alone; no record is left where there are none.

        Damaged lines stay: they may name what a person can still read.
        """
        if moves or self.damaged:
            with replacing(self.path) as temporary:
                lines = [*(line.rstrip(b"\n") + b"\n" for line in self.damaged)]
                lines += [move.line() for move in moves]
                temporary.write_bytes(b"".join(lines))
        else:
            self.path.unlink()
            sync_folder(self.path.parent)

    def _index(self, move: Move) -> None:
        self._by_place.setdefault(move.place, set()).add(move.origin)
        self._by_origin.setdefault(move.origin, []).append(move)


def _read(file: BinaryIO, path: Path) -> tuple[list[Move], list[bytes], int]:
    """The moves of a record, its damaged lines, and where the last whole line ends.

    An end that a kill has torn names no image that was moved. Raises StoreError for a record that
    is too large.
    """
    size = os.fstat(file.fileno()).st_size
    if size > _MAX_BYTES:
        raise StoreError(f"{path} has {size} bytes; at most {_MAX_BYTES} are read", "move it away")
    moves, damaged, end = [], [], 0
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise StoreError(f"{path} holds a line that is no move", "move it away")
        if not line.endswith(b"\n") and _is_torn(line):
            break
        move, end = Move.of_line(line), file.tell()
        if move:
            moves.append(move)
        elif line.strip():
            damaged.append(line)
    return moves, damaged, end


def _is_torn(line: bytes) -> bool:
    """Whether a line without an end is the beginning of one that this program writes."""
    ours = _BEGINNING.startswith(line[: len(_BEGINNING)]) and not _WHOLE.search(line)
    return ours and line.isascii() and line.decode().isprintable()


@contextlib.contextmanager
def _open(path: Path, to_change: bool) -> Iterator[BinaryIO]:
    """The record's file. Raises StoreError as `MoveRecord.opened` does."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise StoreError(f"{path} is no regular file", "move it away, or choose another folder")
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND if to_change else os.O_RDONLY
    descriptor = os.open(path, how | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with open(descriptor, "rb") as file:
        if to_change:
            _lock(descriptor, path)
            sync_folder(path.parent)
        yield file


def _lock(descriptor: int, path: Path) -> None:
    """Raise StoreError where another process has the lock, or has just replaced the file."""
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        try_lock(descriptor)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return
    raise StoreError(
        f"another process moves images into {path.parent}, or back", "try again when it is done"
    )


def _append(descriptor: int, line: bytes) -> None:
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
