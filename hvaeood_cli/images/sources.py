"""Where images come from: a manifest with a stable order, whatever the user named.

A manifest is a list of entries. An entry has a name (bytes, as given; `FILE#17` inside an array
file), can be read, and carries a stamp that changes when the image does.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, SourceError, UsageError
from hvaeood_cli.images.arrays import is_array_file, load_array
from hvaeood_cli.images.datasets import NamedDataset, is_dataset_name
from hvaeood_cli.images.decode import EXTENSIONS, MAX_BYTES, Conversion, Decoded, decode

Pixels = NDArray[np.uint8]


class Source(Protocol):
    """A run of images under one argument."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> bytes: ...

    def read(self, i: int) -> tuple[Decoded, bytes]:
        """Image i and the SHA-256 of what it was read from. Raises ImageError."""
        ...

    def stamp(self, i: int) -> str:
        """Changes when image i does; cheap."""
        ...


@dataclass(frozen=True)
class Files:
    """Image files, each an image."""

    paths: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> bytes:
        return self.paths[i]

    def read(self, i: int) -> tuple[Decoded, bytes]:
        data = _read_file(self.paths[i])
        digest = hashlib.sha256(data).digest()
        try:
            return decode(data), digest
        except ImageError as error:
            error.sha256 = digest
            raise

    def stamp(self, i: int) -> str:
        try:
            status = os.stat(self.paths[i])
        except OSError as error:
            return f"errno {error.errno}"
        except ValueError:  # a NUL byte in the name
            return "no name"
        return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Rows:
    """Images that are rows of an array: an IDX or NumPy file, or a named data set."""

    label: bytes
    images: Sequence[Pixels] | Pixels | NamedDataset
    first: int
    last: int
    origin: str  # size and time of the file, or the data set's name

    def __len__(self) -> int:
        return self.last - self.first

    def name(self, i: int) -> bytes:
        return self.label + b"#%d" % (self.first + i)

    def read(self, i: int) -> tuple[Decoded, bytes]:
        pixels = np.ascontiguousarray(self.images[self.first + i])
        return Decoded(pixels, Conversion(0)), hashlib.sha256(pixels.data).digest()

    def stamp(self, i: int) -> str:
        return self.origin


@dataclass(frozen=True)
class Manifest:
    """All images of a run, in order."""

    sources: Sequence[Source]
    skipped: int = 0  # files in folders that are not called images
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        total = 0
        for source in self.sources:
            self._starts.append(total)
            total += len(source)
        self._starts.append(total)

    def __len__(self) -> int:
        return self._starts[-1]

    def name(self, i: int) -> bytes:
        source, j = self._locate(i)
        return source.name(j)

    def read(self, i: int) -> tuple[Decoded, bytes]:
        source, j = self._locate(i)
        return source.read(j)

    def names(self) -> Iterator[bytes]:
        for source in self.sources:
            for i in range(len(source)):
                yield source.name(i)

    def listing_sha256(self) -> str:
        """Of every name and stamp: tells whether a folder changed without reading its images."""
        digest = hashlib.sha256()
        for source in self.sources:
            for i in range(len(source)):
                digest.update(source.name(i) + b"\0" + source.stamp(i).encode() + b"\0")
        return digest.hexdigest()

    def _locate(self, i: int) -> tuple[Source, int]:
        index = bisect_right(self._starts, i) - 1
        return self.sources[index], i - self._starts[index]


def open_sources(
    arguments: Sequence[str],
    stdin: Iterable[bytes] | None = None,
    data_root: Path | None = None,
    download: bool = False,
) -> Manifest:
    """The manifest of what a user named.

    arguments: folders (searched recursively, sorted by path bytes), image files, array files
    (`FILE#A:B` takes rows A to B - 1), torchvision names (`fashionmnist:test`), or `-` for the
    paths in `stdin`. Raises SourceError or UsageError; never returns an empty manifest.
    """
    if not arguments:
        raise UsageError("no images were named", "give a folder: hvaeood score photos/")
    sources: list[Source] = []
    skipped = 0
    for argument in arguments:
        if argument == "-":
            paths = [os.fsencode(path) for path in stdin or ()]
            sources.append(Files(paths))
        elif os.path.isdir(argument):
            found, others = _walk(os.fsencode(argument))
            skipped += others
            if not found:
                raise SourceError(
                    f"no images in {argument}" + (f" ({others} other files)" if others else ""),
                    "files are taken by their ending: .png .jpg .bmp .gif .tif .webp .pgm ...",
                )
            sources.append(Files(found))
        else:
            sources.append(_single(argument, data_root, download))
    manifest = Manifest(sources, skipped)
    if not len(manifest):
        raise SourceError(
            "standard input named no images", "find photos -name '*.jpg' | hvaeood score -"
        )
    return manifest


def _single(argument: str, data_root: Path | None, download: bool) -> Source:
    path, rows = _split_rows(argument)
    if os.path.lexists(path):
        if is_array_file(Path(path)):
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{path} is not a regular file")
            origin = f"{status.st_size} {status.st_mtime_ns}"
            return _rows(path, load_array(Path(path)), rows, origin)
        if rows is not None:
            raise UsageError(
                f"{argument}: only an array file has rows to take", f"name {path} alone"
            )
        return Files([os.fsencode(argument)])
    if is_dataset_name(path):
        root = data_root or Path("data")
        return _rows(path, NamedDataset(path, root, download), rows, path)
    hint = "give a folder, image files, an IDX/.npy/.npz file, - for a list on stdin, or a name"
    raise SourceError(f"no such file or folder: {argument}", f"{hint} such as fashionmnist:test")


def _split_rows(argument: str) -> tuple[str, slice | None]:
    """`FILE#A:B` -> (FILE, A:B), `FILE#A` -> (FILE, A:A+1), unless a file has just that name."""
    match = re.fullmatch(r"(.+)#(\d*)(:?)(\d*)", argument, re.DOTALL)
    if match is None or os.path.lexists(argument):
        return argument, None
    path, first, colon, last = match.groups()
    if not colon:
        return (path, slice(int(first), int(first) + 1)) if first else (argument, None)
    return path, slice(int(first) if first else None, int(last) if last else None)


def _rows(label: str, images: Pixels | NamedDataset, rows: slice | None, origin: str) -> Rows:
    first, last, _ = (rows or slice(None)).indices(len(images))
    if first >= last:
        raise SourceError(f"{label} has {len(images)} images; none of them is in {rows}")
    return Rows(os.fsencode(label), images, first, last, origin)


def _walk(folder: bytes) -> tuple[list[bytes], int]:
    """Image files below a folder, sorted by path bytes, and how many others there are.

    Links to folders are followed once each, so a loop of links ends. A folder that cannot be
    listed stands in the list itself: it becomes a row that says so.
    """
    found: list[bytes] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        pending.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                        found.append(entry.path)
                    else:
                        others += 1
        except OSError as error:
            if current == folder:
                raise SourceError(f"cannot list {os.fsdecode(folder)}: {error.strerror}") from None
            found.append(current)
    return sorted(found), others


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it will say so


def _read_file(path: bytes) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("unreadable", "not a regular file, or a folder that cannot be listed")
        if status.st_size > MAX_BYTES:
            raise ImageError("too_large", f"{status.st_size} bytes; at most {MAX_BYTES} are read")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise ImageError("missing", "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise ImageError("unreadable", getattr(error, "strerror", None) or str(error)) from None
