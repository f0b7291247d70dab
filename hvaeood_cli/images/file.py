"""Files that hold images: on this machine, or, in `remote`, behind an address."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from hvaeood_cli.errors import SourceError
from hvaeood_cli.images.folder import stamp_of


class File(Protocol):
    """A file that holds many images, and is read in pieces. Any thread may read it."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> bytes: ...

    @property
    def stamp(self) -> str:
        """A text that changes when the file does."""
        ...

    def open(self) -> BinaryIO:
        """The file, to be read from any place. Raises OSError, and ImageError for a network."""
        ...

    def read_at(self, place: int, size: int) -> bytes:
        """At most `size` bytes from a place on. Raises as `open` does."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    name: bytes

    @property
    def stamp(self) -> str:
        return stamp_of(self.name)

    def open(self) -> BinaryIO:
        return open(self.name, "rb")

    def read_at(self, place: int, size: int) -> bytes:
        with open(self.name, "rb") as file:
            return os.pread(file.fileno(), size, place)


def local_file(argument: str) -> LocalFile | None:
    """The file of that name; None if nothing has it. Raises SourceError for a pipe or a device."""
    path = os.fsencode(argument)
    if not os.path.lexists(path):
        return None
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise SourceError(
            f"cannot read {argument}: {error.strerror}", "check its path and permissions"
        ) from None
    if not regular:
        raise SourceError(f"{argument} is no regular file", "name an archive, or a folder")
    return LocalFile(path)
