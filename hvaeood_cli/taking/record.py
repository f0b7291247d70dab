"""The record of moves: a line of JSON for each image that was moved into a folder.

A line is on the disk before its image is moved, so after a kill the record names every image that
may have been moved; whether it was can be seen from where its file is. Lines that are torn name
none.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import replacing, sync_folder, try_lock

NAME = "hvaeood-moved.jsonl"
VERSION = 1  # of the format, in every line


class Move(NamedTuple):
    """Where an image was, and where in the folder it was moved to."""

    origin: str  # its whole path
    place: str  # its path in the folder
    sha256: str  # of its bytes

    @classmethod
    def of_line(cls, line: bytes) -> Self | None:
        """What a line says; None where that is no move into the folder. Never raises."""
        try:
            facts = json.loads(line)
            move = cls(facts["from"], facts["to"], facts["sha256"])
            bytes.fromhex(move.sha256)
            paths = Path(move.origin), Path(move.place)
            whole = paths[0].is_absolute() and not paths[1].is_absolute()
            plain = tuple(map(str, paths)) == move[:2] and "\0" not in move.origin + move.place
            inside = os.pardir not in paths[0].parts + paths[1].parts and paths[1] != Path()
            known = facts["version"] == VERSION
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return move if whole and plain and inside and known else None

    def line(self) -> bytes:
        facts = {"version": VERSION, "from": self.origin, "to": self.place, "sha256": self.sha256}
        return json.dumps(facts).encode() + b"\n"


class MoveRecord:
    """The moves into a folder. Whoever may change it holds a lock on it."""

    def __init__(self, folder: Path, moves: Iterable[Move], descriptor: int | None = None) -> None:
        self.path = folder / NAME
        self.moves = list(dict.fromkeys(moves))
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
            lines = file.readlines()
            if to_change and lines and not lines[-1].endswith(b"\n"):
                _append(file.fileno(), b"\n")  # so that no line is appended to a torn one
            moves = filter(None, map(Move.of_line, lines))
            yield cls(folder, moves, file.fileno() if to_change else None)
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
        """Let the record hold these moves alone; no record is left where there are none."""
        if moves:
            with replacing(self.path) as temporary:
                temporary.write_bytes(b"".join(move.line() for move in moves))
        else:
            self.path.unlink()
            sync_folder(self.path.parent)

    def _index(self, move: Move) -> None:
        self._by_place.setdefault(move.place, set()).add(move.origin)
        self._by_origin.setdefault(move.origin, []).append(move)


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
