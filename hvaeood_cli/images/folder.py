"""Sources of image files: a single file, all files below a folder, or a list of paths."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import BinaryIO

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.decode import MAX_BYTES, Decoded, begins_as_image, decode_hashed, has_ending

Count = Callable[[int], None]
"""Called with the number of images that have been found, while more are looked for."""
COUNT_EACH = 1000  # images between two such calls


@dataclass(frozen=True)
class FileSource:
    """Files that hold one image each."""

    paths: Sequence[bytes]
    skipped: int = 0  # how many other files were found beside them

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> bytes:
        return self.paths[i]

    @property
    def longest(self) -> int:
        """The bytes of the longest name."""
        return max(map(len, self.paths), default=0)

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return decode_hashed(read_file(self.paths[i]))

    def sha256(self, i: int) -> bytes:
        return hashlib.sha256(read_file(self.paths[i])).digest()

    def stamp(self, i: int) -> str:
        return stamp_of(self.paths[i])


def open_list(argument: str, stdin: Iterable[bytes] | None) -> FileSource | None:
    """The files whose paths are in `stdin`; None if the argument is not `-`."""
    if argument != "-":
        return None
    return FileSource([os.fsencode(path) for path in stdin or ()])


def open_folder(argument: str, count: Count = lambda _: None) -> FileSource | None:
    """The image files below a folder; None if the argument is no folder.

    Raises SourceError for a folder without image files.
    """
    if not os.path.isdir(argument):
        return None
    found, others = _walk(os.fsencode(argument), count)
    if not found:
        raise SourceError(
            f"no images in {argument}" + (f" ({others} other files)" if others else ""),
            "files are taken by their ending: .png .jpg .bmp .gif .tif .webp .pgm ...",
        )
    return FileSource(found, others)


def open_file(argument: str) -> FileSource | None:
    """A single image file; None if nothing has that name."""
    return FileSource([os.fsencode(argument)]) if os.path.lexists(argument) else None


def is_no_image(argument: str) -> bool:
    """Whether a single file is named that neither its ending nor its content shows to be an image.

    False for what cannot be read: that becomes a row which says why.
    """
    if has_ending(os.fsencode(argument)):
        return False
    with contextlib.suppress(OSError, ValueError), _open_file(os.fsencode(argument)) as file:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and not begins_as_image(file)
    return False


def stamp_of(path: str | bytes | os.PathLike[str]) -> str:
    """The size and time of a file, or why the system cannot tell them."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"errno {error.errno}"
    except ValueError:  # a NUL byte in the name
        return "no name"
    return f"{status.st_size} {status.st_mtime_ns}"


def _walk(folder: bytes, count: Count) -> tuple[list[bytes], int]:
    """The image files below a folder, sorted by path bytes, and how many other files there are.

    No folder is listed twice, so loops of links end. A folder with several names is always listed
    under the same one, whatever order the system gives them in: links to folders are followed
    after all real folders, and both in the order of their paths. A folder that cannot be listed is
    returned among the files, so that it becomes a row that says so.
    """
    found: list[bytes] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    pending = [(False, folder)]  # a heap: is it a link, and its path
    while pending:
        _, current = heappop(pending)
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        heappush(pending, (entry.is_symlink(), entry.path))
                    elif has_ending(entry.name):
                        found.append(entry.path)
                        if len(found) % COUNT_EACH == 0:
                            count(len(found))
                    else:
                        others += 1
        except OSError as error:
            if current == folder:
                raise SourceError(
                    f"cannot list {os.fsdecode(folder)}: {error.strerror}",
                    "check its permissions, and whether its disk is there",
                ) from None
            found.append(current)
    return sorted(found), others


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it will report that


def _open_file(path: bytes) -> BinaryIO:
    # O_NONBLOCK: opening a pipe that nobody writes to would wait forever
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def read_file(path: bytes) -> bytes:
    """All bytes of a regular file. Raises ImageError with missing, unreadable or too_large."""
    try:
        with _open_file(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable", _NO_FILE)
            if status.st_size > MAX_BYTES:
                raise ImageError(
                    "too_large", f"{status.st_size} bytes; at most {MAX_BYTES} are read"
                )
            return file.read(status.st_size)  # and no more of one that is growing
    except IsADirectoryError:
        raise ImageError("unreadable", _NO_FILE) from None
    except FileNotFoundError:
        raise ImageError("missing", "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise ImageError("unreadable", getattr(error, "strerror", None) or str(error)) from None


_NO_FILE = "not a regular file, or a folder that cannot be listed"
