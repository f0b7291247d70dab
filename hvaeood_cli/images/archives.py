"""Archives as sources: the images in a zip or tar file, read where they are. Nothing is unpacked.

An image is called `ARCHIVE/NAME`, with its name in the archive, whatever that is: it is a name to
show, never a place to write to. WebDataset's shards are tar files, so they are read like any other.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.decode import EXTENSIONS, MAX_BYTES, Decoded, decode_hashed, has_ending
from hvaeood_cli.images.file import File
from hvaeood_cli.images.folder import COUNT_EACH, Count
from hvaeood_cli.images.members import ENCRYPTED, NO_FILE, Member, Members
from hvaeood_cli.images.remote import file_at, is_address
from hvaeood_cli.kept import keep, kept

_SUFFIXES = (b".zip", b".tar")
_WORTH_KEEPING = 1000  # images of which a listing takes some time
_PACKED = (b".tar.gz", b".tgz", b".tar.bz2", b".tar.xz", b".tar.zst")


@dataclass(frozen=True, eq=False)
class ArchiveSource(ABC):
    """The images in an archive, in its order. Any thread or process may read them."""

    container: File
    members: Members
    origin: str  # the archive's stamp when it was listed

    def __len__(self) -> int:
        return len(self.members)

    @property
    def skipped(self) -> int:
        """How many other files are in it."""
        return self.members.skipped

    def name(self, i: int) -> bytes:
        return self.container.name + b"/" + self.members.name(i)

    @property
    def longest(self) -> int:
        """The bytes of the longest name."""
        return len(self.container.name) + 1 + self.members.longest

    def names(self) -> Iterator[bytes]:
        """The name of every image, sooner than one by one."""
        return self.members.names(self.container.name + b"/")

    def name_blocks(self) -> Iterator[NDArray[np.bytes_]]:
        return self.members.name_blocks(self.container.name + b"/")

    def listing(self) -> bytes:
        """What says which images these are: it changes when any name or stamp does."""
        return b"%b\0%b\0" % (self.container.name, self.origin.encode()) + self.members.to_bytes()

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return decode_hashed(self.file(i))

    def sha256(self, i: int) -> bytes:
        return hashlib.sha256(self.file(i)).digest()

    def stamp(self, i: int) -> str:
        return f"{self.origin} {self.members.size(i)}"

    def place_of(self, name: bytes) -> int | None:
        """The image of that name in the archive; None where there is none."""
        return self.members.find(name)

    @abstractmethod
    def _fetch(self, member: Member) -> bytes:
        """The bytes of an image. Raises OSError, or what the archive's library does."""

    def file(self, i: int) -> bytes:
        """The bytes of image i. Raises ImageError."""
        member = self.members[i]
        if member.fault:
            raise ImageError("unreadable", member.fault)
        if member.size > MAX_BYTES:
            raise ImageError("too_large", f"{member.size} bytes; at most {MAX_BYTES} are read")
        try:
            if self.container.stamp != self.origin:
                raise ImageError("unreadable", "the archive has changed since it was listed")
            data = self._fetch(member)
        except ImageError:
            raise
        except OSError as error:
            raise ImageError("unreadable", error.strerror or str(error)) from None
        except Exception as error:  # zlib's and the other libraries' own, for damaged bytes
            raise ImageError("damaged", f"{type(error).__name__}: {error}") from None
        if len(data) != member.size:
            raise ImageError("damaged", "its size is not what the archive says")
        return data


@dataclass(frozen=True, eq=False)
class TarSource(ArchiveSource):
    """The images in a tar file."""

    def _fetch(self, member: Member) -> bytes:
        return self.container.read_at(member.place, member.size)


@dataclass(frozen=True, eq=False)
class ZipSource(ArchiveSource):
    """The images in a zip file."""

    def _fetch(self, member: Member) -> bytes:
        archive, infos = _opened(self.container, self.origin, os.getpid())
        with archive.open(infos[member.place]) as file:  # each thread has a place of its own
            return file.read(member.size + 1)  # and no more of a bomb


@lru_cache(maxsize=4)
def _opened(
    container: File, origin: str, process: int
) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """A zip file, open for all threads of a process, and its directory.

    Not more than a few at once: each has its whole directory in memory.
    """
    opened = container.open()
    archive = zipfile.ZipFile(opened)
    finalize(archive, opened.close)  # which a ZipFile does only for a file that it opened
    return archive, archive.infolist()


def is_archive(path: bytes) -> bool:
    """Whether a path ends as an archive's that is read here."""
    return path.lower().endswith(_SUFFIXES)


def open_archive(argument: str, count: Count = lambda _: None) -> ArchiveSource | None:
    """The images in a zip or tar file; None if the argument is no such file.

    Raises SourceError for an archive that is not whole, has no images, or is a compressed tar file,
    of which no part can be read without all that comes before.
    """
    path = os.fsencode(argument)
    if path.lower().endswith(_PACKED) and (is_address(argument) or os.path.isfile(path)):
        raise SourceError(
            f"{argument} is compressed as a whole, so its images cannot be read one by one",
            "unpack it, or pack the images as .tar or .zip",
        )
    if not is_archive(path) or (file := file_at(argument)) is None:
        return None
    is_zip = path.lower().endswith(b".zip")
    try:
        origin, state = file.stamp, _state(file)
        members = _known(file, state)
        if members is None:
            members = (_list_zip if is_zip else _list_tar)(file, count)
            members.mark_replaced()
            if len(members) >= _WORTH_KEEPING:
                keep("listings", _identity(file), members.to_bytes(), state)
        count(len(members))
    except Exception as why:  # zipfile's and tarfile's own, a network's, and what damage makes
        reason = getattr(why, "strerror", None) or str(why) or type(why).__name__
        raise SourceError(
            f"cannot read {argument}: {reason}", "copy it again from where it came from"
        ) from None
    if not members:
        raise SourceError(
            f"no images in {argument}"
            + (f" ({members.skipped} other files)" if members.skipped else ""),
            "files are taken by their ending: .png .jpg .bmp .gif .tif .webp .pgm ...",
        )
    return (ZipSource if is_zip else TarSource)(file, members, origin)


def split_member(name: bytes) -> tuple[bytes, bytes] | None:
    """`photos.tar/a/b.png` -> (`photos.tar`, `a/b.png`), where photos.tar is a file; else None.

    Behind an address nobody looks whether it is one.
    """
    behind = is_address(os.fsdecode(name))
    end = name.find(b"/", name.find(b"://") + 3 if behind else 1)
    while end > 0:
        archive = name[:end]
        if is_archive(archive) and (behind or os.path.isfile(archive)):
            return archive, name[end + 1 :]
        end = name.find(b"/", end + 1)
    return None


def _known(file: File, state: str) -> Members | None:
    """The listing that was made when the archive was as it is now; None if none is kept."""
    listing = kept("listings", _identity(file), state)
    with suppress(ValueError):  # of what this program does not write
        return None if listing is None else Members.from_bytes(listing)
    return None


def _state(file: File) -> str:
    """What changes when the archive is replaced, too, by one of the same size and time."""
    if is_address(os.fsdecode(file.name)):
        return file.stamp
    status = os.stat(file.name)
    return f"{file.stamp} {status.st_ino} {status.st_ctime_ns}"


def _identity(file: File) -> dict[str, Any]:
    """What a listing depends on, but for the archive's content."""
    endings = sorted(map(os.fsdecode, EXTENSIONS))
    behind = is_address(os.fsdecode(file.name))
    path = os.fsdecode(file.name if behind else os.path.realpath(file.name))
    return {"archive": path, "endings": endings, "order": sys.byteorder, "version": 2}


def _list_zip(file: File, count: Count) -> Members:
    found = Members()
    with file.open() as opened, zipfile.ZipFile(opened) as archive:
        for number, info in enumerate(archive.infolist()):
            name = _bytes_of(info.filename)
            if info.is_dir():
                continue
            if not has_ending(name):
                found.skipped += 1
                continue
            fault = ENCRYPTED if info.flag_bits & 1 else 0
            fault = NO_FILE if stat.S_ISLNK(info.external_attr >> 16) else fault
            found.add(name, info.file_size, number, fault)
    return found


def _list_tar(file: File, count: Count) -> Members:
    found = Members()
    for info in _infos(file):
        name = _bytes_of(info.name)
        if info.isdir():
            continue
        if not has_ending(name):
            found.skipped += 1
            continue
        fault = 0 if info.isreg() and not info.issparse() else NO_FILE
        found.add(name, info.size, info.offset_data, fault)
        if len(found) % COUNT_EACH == 0:
            count(len(found))
    return found


def _infos(file: File) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar file, one after the other. Raises TarError where it is not whole.

    The library ends in silence at a header that it cannot read, as if the archive ended there.
    """
    with file.open() as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
        while (info := archive.next()) is not None:
            yield info
            cast(Any, archive).members.clear()  # it would keep every one of a million
        end = file.read_at(archive.offset, tarfile.BLOCKSIZE)
        if end.strip(b"\0"):
            raise tarfile.ReadError("it is damaged, or ends in the middle of a file")


def _bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
