"""Sources of images, and the manifest that lists all images of a run in a stable order.

A manifest is a sequence of sources, and a source is a sequence of images. Each image has a name
(bytes, as the user gave it; `FILE#17` inside an array file), its pixels, and a stamp that changes
when the image does.

To add a kind of source, write a module beside `folder`, `arrays` and `datasets` with a function
that returns a `Source`, or None for an argument that is not of its kind, and call it in `_kinds`.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import SourceError, UsageError
from hvaeood_cli.images.archives import ArchiveSource, is_archive, open_archive
from hvaeood_cli.images.arrays import is_array_file, open_array_file
from hvaeood_cli.images.datasets import open_dataset
from hvaeood_cli.images.decode import FORMATS, Decoded
from hvaeood_cli.images.folder import (
    Count,
    FileSource,
    is_no_image,
    open_file,
    open_folder,
    open_list,
)
from hvaeood_cli.images.members import BLOCK
from hvaeood_cli.images.parquet import is_parquet, open_parquet
from hvaeood_cli.images.remote import is_address, named_object, open_remote
from hvaeood_cli.text import shorten

_LONGEST = 1 << 12  # bytes of a name: as many as a path has at most
_LONG = 1 << 10  # ... and of so many images that, at the longest's length, ...
_NAMES = 1 << 26  # ... all names have more bytes than this


class Source(Protocol):
    """The images that one argument names, in order."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> bytes:
        """The name of image i, as a score file keeps it."""
        ...

    def read(self, i: int) -> tuple[Decoded, bytes]:
        """Image i, and the SHA-256 of the bytes that it was read from. Raises ImageError."""
        ...

    def sha256(self, i: int) -> bytes:
        """The SHA-256 that `read` gives, without decoding. Raises ImageError."""
        ...

    def stamp(self, i: int) -> str:
        """A text that changes when image i does, found without reading it."""
        ...


@dataclass(frozen=True)
class Manifest:
    """All images of a run, in order: the sources one after the other."""

    sources: Sequence[Source]
    _starts: list[int] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        total = 0
        for source in self.sources:
            self._starts.append(total)
            total += len(source)
        self._starts.append(total)

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def skipped(self) -> int:
        """How many files in folders and archives do not end as an image's, and were left out."""
        return sum(getattr(one, "skipped", 0) for one in self.sources)

    @property
    def longest(self) -> int:
        """The bytes of the longest name. (Of images in an array it is a little longer.)"""
        return max((getattr(one, "longest", 0) for one in self.sources), default=0)

    def name(self, i: int) -> bytes:
        source, j = self._locate(i)
        return source.name(j)

    def read(self, i: int) -> tuple[Decoded, bytes]:
        """Image i, and the SHA-256 of the bytes that it was read from. Raises ImageError."""
        source, j = self._locate(i)
        return source.read(j)

    def sha256(self, i: int) -> bytes:
        """The SHA-256 that `read` gives, without decoding. Raises ImageError."""
        source, j = self._locate(i)
        return source.sha256(j)

    def stamp(self, i: int) -> str:
        """A text that changes when image i does, found without reading it."""
        source, j = self._locate(i)
        return source.stamp(j)

    def pick(self, places: NDArray[np.int64]) -> Manifest:
        """The images at these places alone, in this order."""
        return Manifest([_Picked(self, places)])

    def names(self) -> Iterator[bytes]:
        for source in self.sources:
            if isinstance(source, ArchiveSource):
                yield from source.names()
            else:
                yield from (source.name(i) for i in range(len(source)))

    def name_blocks(self) -> Iterator[NDArray[np.bytes_]]:
        """As `names`, some in an array at a time: never all as objects, which take a lot more."""
        for source in self.sources:
            if isinstance(source, ArchiveSource):
                yield from source.name_blocks()
                continue
            for first in range(0, len(source), BLOCK):
                places = range(first, min(first + BLOCK, len(source)))
                yield np.array([source.name(i) for i in places], dtype=bytes)

    def listing_sha256(self) -> str:
        """The hash of all names and stamps. It changes when a folder does, and reads no image.

        Of an archive, which may have a million images, it takes the listing as a whole.
        """
        digest = hashlib.sha256()
        for source in self.sources:
            if isinstance(source, ArchiveSource):
                digest.update(source.listing())
                continue
            for i in range(len(source)):
                digest.update(source.name(i) + b"\0" + source.stamp(i).encode() + b"\0")
        return digest.hexdigest()

    def _locate(self, i: int) -> tuple[Source, int]:
        """The source that holds image i of the manifest, and the image's place in it."""
        index = bisect_right(self._starts, i) - 1
        return self.sources[index], i - self._starts[index]


@dataclass(frozen=True)
class _Picked:
    """Some images of a manifest, as a source."""

    manifest: Manifest
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def name(self, i: int) -> bytes:
        return self.manifest.name(int(self.places[i]))

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return self.manifest.read(int(self.places[i]))

    def sha256(self, i: int) -> bytes:
        return self.manifest.sha256(int(self.places[i]))

    def stamp(self, i: int) -> str:
        return self.manifest.stamp(int(self.places[i]))


def open_sources(
    arguments: Sequence[str],
    stdin: Iterable[bytes] | None = None,
    data_root: Path | None = None,
    download: bool = False,
    count: Count = lambda _: None,
) -> Manifest:
    """The manifest of all images that a user named.

    arguments: folders (searched recursively, sorted by path bytes), image files, zip and tar files,
    array and Parquet files (`FILE#A:B` takes rows A to B - 1), addresses of any of these but arrays
    (`s3://bucket/photos`), torchvision names (`fashionmnist:test`), or `-` for the paths in
    `stdin`. data_root: where torchvision keeps its data sets. download: fetch those that are not
    there. count: called with how many images were found, now and then. Raises UsageError where
    nothing is named, and SourceError for what does not exist, cannot be opened or has no images: a
    manifest is never empty; and for a name that no score file could hold beside those of the other
    images. A file that is no image is a row that says so, unless nothing else is named.
    """
    if not arguments:
        raise UsageError("no images were named", "give a folder: hvaeood score photos/")
    manifest = Manifest([_open(one, stdin, data_root, download, count) for one in arguments])
    if not len(manifest):
        raise SourceError(
            "standard input named no images", "find photos -name '*.jpg' | hvaeood score -"
        )
    if all(not _holds_many(one) and is_no_image(one) for one in arguments):
        raise SourceError(
            f"{arguments[0]} is no image, neither by its ending nor by its content",
            f"images are {', '.join(FORMATS)}; a list of paths goes to standard input: "
            "hvaeood score - < LIST",
        )
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    """Raise SourceError for a name so long that all together, as long as it, would not be read.

    An array of names has them all at the length of the longest, and a score file that claims many
    times its size is refused (`store/hdf5.py`).
    """
    n, longest = len(manifest), manifest.longest
    most = min(_LONGEST, max(_LONG, _NAMES // n))
    if longest > most:
        name = os.fsdecode(max(manifest.names(), key=len))
        raise SourceError(
            f"the name of an image has {longest:,} bytes, and of {n:,} images none may have more "
            f"than {most:,}: {shorten(name, 80)}",
            "rename that image, or leave it out",
        )


def _holds_many(argument: str) -> bool:
    many = is_array_file(Path(argument)) or is_parquet(argument)
    return many or is_archive(os.fsencode(argument)) or is_address(argument)


def _kinds(
    argument: str,
    stdin: Iterable[bytes] | None,
    data_root: Path | None,
    download: bool,
    count: Count,
) -> Iterator[Source | None]:
    """Open the argument as each kind of source in turn; None where it is not of that kind."""
    yield _open_list(argument, stdin, count)
    yield open_folder(argument, count)
    yield open_parquet(argument)
    yield open_array_file(argument)
    yield open_archive(argument, count)
    yield open_remote(argument, count)
    yield open_file(argument)
    yield open_dataset(argument, data_root, download)


def _open_list(argument: str, stdin: Iterable[bytes] | None, count: Count) -> Source | None:
    """The images that a list names, by paths and addresses; None if the argument is not `-`.

    A store is asked about each address by itself, which takes a moment each.
    """
    listed = open_list(argument, stdin)
    if listed is None or not any(map(is_address, map(os.fsdecode, listed.paths))):
        return listed
    sources = list[Source]()
    for behind, paths in groupby(listed.paths, lambda path: is_address(os.fsdecode(path))):
        if behind:
            sources += [named_object(os.fsdecode(path)) for path in paths]
            count(len(sources))
        else:
            sources.append(FileSource(list(paths)))
    return Manifest(sources)


def _open(
    argument: str,
    stdin: Iterable[bytes] | None,
    data_root: Path | None,
    download: bool,
    count: Count,
) -> Source:
    """Open the argument as the first kind of source that it is."""
    for source in _kinds(argument, stdin, data_root, download, count):
        if source is not None:
            return source
    hint = (
        "give a folder, image files, a .zip, .tar, .parquet, .npy, .npz or IDX file, - for a list "
        "on stdin, an address such as s3://bucket/photos, or a name such as fashionmnist:test"
    )
    raise SourceError(f"no such file or folder: {argument}", hint)
