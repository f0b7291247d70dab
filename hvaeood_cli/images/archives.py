"""Archives as sources: the images in a zip or tar file, read where they are. Nothing is unpacked.

An image is called `ARCHIVE/NAME`, with its name in the archive, whatever that is: it is a name to
show, never a place to write to. WebDataset's shards are tar files, so they are read like any other.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast
from weakref import finalize

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.decode import MAX_BYTES, Decoded, decode_hashed, has_ending
from hvaeood_cli.images.file import File
from hvaeood_cli.images.folder import COUNT_EACH, Count
from hvaeood_cli.images.remote import file_at, is_address

_SUFFIXES = (b".zip", b".tar")
_NO_FILE = "it is a link, or no ordinary file, in the archive"
_PACKED = (b".tar.gz", b".tgz", b".tar.bz2", b".tar.xz", b".tar.zst")


class Member(NamedTuple):
    """An image in an archive."""

    name: bytes
    size: int  # bytes
    fault: str = ""  # why it cannot be read


@dataclass(frozen=True, eq=False)
class ArchiveSource(ABC):
    """The images in an archive, in its order. Any thread or process may read them."""

    container: File
    members: Sequence[Member]
    origin: str  # the archive's stamp when it was listed
    skipped: int  # how many other files are in it

    def __len__(self) -> int:
        return len(self.members)

    def name(self, i: int) -> bytes:
        return self.container.name + b"/" + self.members[i].name

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return decode_hashed(self.file(i))

    def sha256(self, i: int) -> bytes:
        return hashlib.sha256(self.file(i)).digest()

    def stamp(self, i: int) -> str:
        return f"{self.origin} {self.members[i].size}"

    def place_of(self, name: bytes) -> int | None:
        """The image of that name in the archive; None where there is none."""
        return self._places.get(name)

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {member.name: i for i, member in enumerate(self.members)}  # the last one counts

    @abstractmethod
    def _fetch(self, i: int) -> bytes:
        """The bytes of image i. Raises OSError, or what the archive's library does."""

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
            data = self._fetch(i)
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

    places: Sequence[int]  # where the bytes of each begin

    def _fetch(self, i: int) -> bytes:
        return self.container.read_at(self.places[i], self.members[i].size)


@dataclass(frozen=True, eq=False)
class ZipSource(ArchiveSource):
    """The images in a zip file."""

    infos: Sequence[zipfile.ZipInfo]

    def _fetch(self, i: int) -> bytes:
        with self._archive.open(self.infos[i]) as file:  # each thread has a place of its own
            return file.read(self.members[i].size + 1)  # and no more of a bomb

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        opened = self.container.open()
        archive = zipfile.ZipFile(opened)
        finalize(archive, opened.close)  # which a ZipFile does only for a file that it opened
        return archive

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: another process opens its own."""
        return {key: value for key, value in vars(self).items() if key != "_archive"}


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
    try:
        found = (_open_zip if path.lower().endswith(b".zip") else _open_tar)(file, count)
    except Exception as why:  # zipfile's and tarfile's own, a network's, and what damage makes
        reason = getattr(why, "strerror", None) or str(why) or type(why).__name__
        raise SourceError(
            f"cannot read {argument}: {reason}", "copy it again from where it came from"
        ) from None
    if not found.members:
        raise SourceError(
            f"no images in {argument}"
            + (f" ({found.skipped} other files)" if found.skipped else "")
        )
    return replace(found, members=_last_of_each(found.members))


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


def _open_zip(file: File, count: Count) -> ZipSource:
    origin, skipped = file.stamp, 0
    infos, members = list[zipfile.ZipInfo](), list[Member]()
    with file.open() as opened, zipfile.ZipFile(opened) as archive:
        for info in archive.infolist():
            name = _bytes_of(info.filename)
            if info.is_dir():
                continue
            if not has_ending(name):
                skipped += 1
                continue
            fault = "it is encrypted" if info.flag_bits & 1 else ""
            fault = _NO_FILE if stat.S_ISLNK(info.external_attr >> 16) else fault
            infos.append(info)
            members.append(Member(name, info.file_size, fault))
    count(len(members))
    return ZipSource(file, members, origin, skipped, infos)


def _open_tar(file: File, count: Count) -> TarSource:
    origin, skipped = file.stamp, 0
    members, places = list[Member](), list[int]()
    for info in _infos(file):
        name = _bytes_of(info.name)
        if info.isdir():
            continue
        if not has_ending(name):
            skipped += 1
            continue
        fault = "" if info.isreg() and not info.issparse() else _NO_FILE
        members.append(Member(name, info.size, fault))
        places.append(info.offset_data)
        if len(members) % COUNT_EACH == 0:
            count(len(members))
    return TarSource(file, members, origin, skipped, places)


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


def _last_of_each(members: Sequence[Member]) -> list[Member]:
    """A later member of the same name replaces an earlier one, as when the archive is unpacked."""
    last = {member.name: i for i, member in enumerate(members)}
    replaced = "a later file in the archive has the same name"
    return [
        member if last[member.name] == i else member._replace(fault=replaced)
        for i, member in enumerate(members)
    ]


def _bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
