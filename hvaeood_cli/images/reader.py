"""Reads single images again, by the names that a score file gives them."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.archives import ArchiveSource, split_member
from hvaeood_cli.images.arrays import is_array_file, split_rows
from hvaeood_cli.images.decode import Decoded
from hvaeood_cli.images.folder import FileSource, stamp_of
from hvaeood_cli.images.parquet import is_parquet
from hvaeood_cli.images.remote import is_address, named_object
from hvaeood_cli.images.sources import Manifest, open_sources

_KEPT = 2  # array files and archives that stay open; a gzipped one is in memory as a whole


class ImageReader:
    """Reads images by name, in any order and from any thread.

    The array files that were read last stay open, since unpacking one takes seconds. A file that
    has changed since is opened anew.
    """

    def __init__(
        self, data_root: Path | None = None, beside: Path | None = None, remote: bool = False
    ) -> None:
        """data_root: where torchvision keeps its data sets.

        beside: a score file. Images with relative names that are not found from the current folder
        are looked for in the folder of this file.

        remote: whether images behind addresses are fetched. Who has a score file from somebody
        else must not be made to visit any address by looking at it.
        """
        self._remote = remote
        self._data_root = data_root
        self._other_folder = os.fsencode(beside.parent) if beside else None
        self._opened: OrderedDict[str, tuple[str, Manifest]] = OrderedDict()  # path -> stamp, rows
        self._lock = Lock()

    def read(self, name: bytes) -> Decoded:
        """The image of that name: a file, `FILE#17`, a row of an array, `ARCHIVE/NAME`, an address.

        It need not be the image that was scored under this name: whoever shows it compares them.
        Raises ImageError for an image that cannot be read, SourceError for such an array file or
        archive.
        """
        found = self._found(name)
        self._check_fetched(found)
        if (inside := self.in_archive(found)) is not None:
            archive, place = inside
            return archive.read(place)[0]
        path, row = row_of_array(os.fsdecode(found))
        if row is None:
            behind = is_address(path)
            kept = named_object(path) if behind else FileSource([os.fsencode(path)])
            return kept.read(0)[0]
        with self._lock:  # two threads that want one file wait for one unpacking
            images = self._open(path)
        if row >= len(images):
            raise ImageError("missing", f"{path} has {len(images)} images now")
        return images.read(row)[0]

    def in_archive(self, name: bytes) -> tuple[ArchiveSource, int] | None:
        """The archive that an image is in, and its place there; None where it is in none.

        Raises ImageError where the archive has no such image any more, and SourceError.
        """
        if (split := split_member(name)) is None:
            return None
        self._check_fetched(name)
        path, member = split
        with self._lock:
            (archive,) = self._open(os.fsdecode(path)).sources
        place = archive.place_of(member) if isinstance(archive, ArchiveSource) else None
        if not isinstance(archive, ArchiveSource) or place is None:
            raise ImageError("missing", f"it is not in {os.fsdecode(path)} now")
        return archive, place

    def _check_fetched(self, name: bytes) -> None:
        """Raise ImageError for an image behind an address, unless such are fetched."""
        if is_address(os.fsdecode(name)) and not self._remote:
            raise ImageError("unreadable", "it is behind an address; --remote fetches it")

    def _found(self, name: bytes) -> bytes:
        """The name from the current folder, or from the other one if only that has such a file."""
        if self._other_folder is None or is_address(os.fsdecode(name)) or _is_there(name):
            return name
        other = os.path.join(self._other_folder, name)  # an absolute name stays as it is
        return other if _is_there(other) else name

    def _open(self, path: str) -> Manifest:
        """All rows of an array file or a data set, opened now or before."""
        stamp = stamp_of(path)
        kept_stamp, images = self._opened.pop(path, ("", None))
        if images is None or stamp != kept_stamp:
            images = None  # so that the old rows are not in memory beside the new ones
            images = open_sources([path], data_root=self._data_root)
        self._opened[path] = stamp, images
        while len(self._opened) > _KEPT:
            self._opened.popitem(last=False)
        return images


def _is_there(name: bytes) -> bool:
    """Whether there is a file of that name, or the one that the image is a part of."""
    path, _ = split_rows(os.fsdecode(name))
    return os.path.lexists(path) or split_member(name) is not None


def row_of_array(name: str) -> tuple[str, int | None]:
    """`FILE#17` -> FILE and 17; any name but that of an array file's row is returned with None.

    A name in a hostile score file must not make us list a folder, or read another image.
    """
    path, rows = split_rows(name)
    rowed = is_array_file(Path(path)) or is_parquet(path)
    other = os.path.lexists(path) and (os.path.isdir(path) or not rowed)
    other = other or (is_address(path) and not is_parquet(path))
    if other or rows is None or rows.start is None or rows.stop != rows.start + 1:
        return name, None
    return path, rows.start
