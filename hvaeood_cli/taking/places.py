"""Where the images of a score file are, and where in a folder they go.

Names in a score file are hostile input. What is found must have the bytes that were scored, and
where it goes is made of the name's own parts, without `..`, below the folder that was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.archives import split_member
from hvaeood_cli.images.folder import read_file
from hvaeood_cli.images.reader import ImageReader, row_of_array
from hvaeood_cli.images.remote import is_address
from hvaeood_cli.store.score_file import ScoreFile

_LONGEST_NAME = 255  # bytes, on nearly every file system


class Found(NamedTuple):
    """An image as it was scored."""

    path: Path  # of its file; for a row of an array, of the array and `#17`
    data: bytes  # of its file; a row of an array as a PNG
    status: os.stat_result | None  # of its file; None for a row of an array, and in an archive
    made: bool = False  # whether the PNG was made, of a row of an array


class Finder:
    """Finds the images of a score file again, and only if they are what was scored."""

    def __init__(self, scores: ScoreFile, data_root: Path | None = None) -> None:
        """data_root: where torchvision keeps its data sets."""
        self._scores = scores
        self._reader = ImageReader(data_root)

    def places(self, row: int) -> list[Path]:
        """Where a row's image may be: below the current folder, else below the score file's."""
        name = self._scores.name(row)
        if not name or "\0" in name:  # no file is called that
            return []
        return list(dict.fromkeys((Path(name), self._scores.path.parent / name)))

    def is_file(self, row: int) -> bool:
        """Whether it is a file of its own, and in no array, data set or archive."""
        if is_address(self._scores.name(row)):  # from which `find` takes nothing, and says so
            return True
        places = self.places(row)
        in_nothing = (
            row_of_array(str(place))[1] is None and split_member(os.fsencode(place)) is None
            for place in places
        )
        return any(map(os.path.lexists, places)) or all(in_nothing)

    def find(self, row: int) -> Found:
        """A row's image. Raises ImageError: missing, unreadable, or not what was scored."""
        expected = self._scores.sha256[row].tobytes()
        if is_address(self._scores.name(row)):
            raise ImageError("unreadable", "it is behind an address, from which nothing is taken")
        why = ImageError("missing", "no such file")
        for place in self.places(row):
            try:
                if os.path.lexists(place):
                    status = place.stat()
                    if not stat.S_ISREG(status.st_mode):  # to open a device may be to start it
                        raise ImageError("unreadable", "not a regular file")
                    found = Found(place, read_file(os.fsencode(place)), status)
                    digest = hashlib.sha256(found.data).digest()
                elif (inside := self._reader.in_archive(os.fsencode(place))) is not None:
                    archive, i = inside
                    found = Found(place, archive.file(i), None)
                    digest = hashlib.sha256(found.data).digest()
                elif row_of_array(str(place))[1] is not None:
                    found, digest = self._row_of_array(place)
                else:
                    continue
            except (ImageError, SourceError) as error:
                why = ImageError("unreadable", error.message)
            except OSError as error:
                why = ImageError("unreadable", error.strerror or str(error))
            else:
                if digest == expected:
                    return found
                why = ImageError("damaged", "changed since it was scored")
        raise why

    def _row_of_array(self, name: Path) -> tuple[Found, bytes]:
        """A row of an array, and the hash of its pixels."""
        pixels = np.ascontiguousarray(self._reader.read(os.fsencode(name)).pixels)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return Found(name, buffer.getvalue(), None, made=True), hashlib.sha256(pixels.data).digest()


class Layout:
    """Where in a folder images go: as they lie below the folder that all of a run's lie in.

    So `a/1.png` and `b/1.png` do not meet, and the place of an image does not depend on which
    others are flagged.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        folders = {bytes(name)[: bytes(name).rfind(b"/") + 1] for name in names}
        whole = [_normal(os.fsdecode(folder)) for folder in folders if b"\0" not in folder]
        self._root = os.path.commonpath(whole) if whole else os.sep

    def place(self, name: str, made: bool) -> Path:
        """Where below the folder an image goes. A row of an array, `FILE#17`, is `FILE-17.png`."""
        below = Path(os.path.relpath(_normal(name), self._root))
        folders = [part for part in below.parts[:-1] if part != os.pardir]
        last = below.name if below.name not in ("", os.pardir) else "image"
        if made:
            last = last.replace("#", "-").replace(":", "-") + ".png"
        return Path(*folders, last)


def _normal(name: str) -> str:
    """The path from the root, without `..`; links are not looked at, for it need not exist."""
    return os.path.normpath(Path(name).absolute())


def numbered(path: Path) -> Iterator[Path]:
    """A path, and the names to take in its stead where something else has it: NAME-2, NAME-3 ..."""
    yield path
    for number in count(2):
        ending = os.fsencode(f"-{number}{path.suffix}")
        stem = os.fsencode(path.stem)[: max(1, _LONGEST_NAME - len(ending))]
        yield path.with_name(os.fsdecode(stem + ending))


def make_folders(root: Path, below: Path, dry_run: bool = False) -> None:
    """Make the folders of a relative path below a root. Raises OSError, where one is a link too.

    A link to a folder would lead out of the root. dry_run: check those that are there, make none.
    """
    current = root
    for part in below.parts:
        current /= part
        if not dry_run:
            with contextlib.suppress(FileExistsError):
                current.mkdir()
        elif not os.path.lexists(current):
            return
        if not stat.S_ISDIR(current.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{current} is no folder")


def whole_place(path: Path) -> Path:
    """The path of a file from the root, with links on the way followed, but not itself."""
    return Path(os.path.realpath(path.parent)) / path.name


def holds(path: Path, sha256: bytes) -> bool:
    """Whether a path is a regular file, not a link, with bytes of that hash."""
    if path.is_symlink():
        return False
    try:
        return hashlib.sha256(read_file(os.fsencode(path))).digest() == sha256
    except ImageError:
        return False
