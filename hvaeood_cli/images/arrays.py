"""Array sources, one image a row: IDX files (.gz too), .npy and .npz files, arrays in memory."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import re
import stat
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, SourceError, UsageError
from hvaeood_cli.images.decode import Conversion, Decoded
from hvaeood_cli.images.folder import stamp_of
from hvaeood_cli.untrusted import check_size, read_array_header

Pixels = NDArray[np.uint8]

ARRAY_SUFFIXES = (".npy", ".npz", "idx3-ubyte", "idx3-ubyte.gz", ".idx", ".idx.gz")
MAX_ARRAY_BYTES = 8 << 30

_HINT = "images are unsigned bytes of shape (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, 3, H, W)"
_FLOATS = "round them to bytes first: (255 * X).round() as uint8, where they are from 0 to 1"
_ONE = "a single image is image[None], of shape (1, H, W) or (1, H, W, 3)"
_NO_ROOM = "save it as an .npy file: its rows are read from the disk one at a time"
_ROWS = re.compile(r"(.+)#([0-9]{0,18})(:?)([0-9]{0,18})", re.DOTALL)


class Array(Protocol):
    """An array of images, or an object that gives its rows like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Pixels: ...


@dataclass(frozen=True)
class OnDisk:
    """The rows of an .npy file, each read when it is asked for.

    Not mapped into memory: a file that became shorter meanwhile would end the process.
    """

    path: Path
    shape: tuple[int, ...]  # of the array as it is in the file
    offset: int  # where its first row begins

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int, /) -> Pixels:
        size = math.prod(self.shape[1:])
        try:
            with self.path.open("rb") as file:
                data = os.pread(file.fileno(), size, self.offset + i * size)
        except OSError as error:
            raise ImageError("unreadable", error.strerror or str(error)) from None
        if len(data) < size:
            raise ImageError("damaged", "the array became shorter")
        row = np.frombuffer(data, np.uint8).reshape(1, *self.shape[1:])
        image: Pixels = as_images(str(self.path), row)[0]
        return image

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(np.stack([self[i] for i in range(len(self))]), dtype)


@dataclass(frozen=True)
class ArraySource:
    """Rows `first` to `last` - 1 of an array of images."""

    label: bytes  # what the array is called; row 7 is called `label#7`
    images: Array
    first: int
    last: int
    origin: str  # a text that changes when the array does, such as its file's size and time

    def __len__(self) -> int:
        return self.last - self.first

    def name(self, i: int) -> bytes:
        return self.label + b"#%d" % (self.first + i)

    def read(self, i: int) -> tuple[Decoded, bytes]:
        pixels = self._row(i)
        return Decoded(pixels, Conversion(0)), hashlib.sha256(pixels.data).digest()

    def sha256(self, i: int) -> bytes:
        return hashlib.sha256(self._row(i).data).digest()

    def stamp(self, i: int) -> str:
        return self.origin

    def _row(self, i: int) -> Pixels:
        return np.ascontiguousarray(self.images[self.first + i])


class InMemory(ArraySource):
    """An array that no file holds: a row's stamp is its hash, which is worked out once."""

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return Decoded(self._row(i), Conversion(0)), self._hashes[i]

    def sha256(self, i: int) -> bytes:
        return self._hashes[i]

    def stamp(self, i: int) -> str:
        return self._hashes[i].hex()

    @cached_property
    def _hashes(self) -> list[bytes]:
        return [hashlib.sha256(self._row(i).data).digest() for i in range(len(self))]


def split_rows(argument: str) -> tuple[str, slice | None]:
    """`FILE#A:B` -> FILE and the slice A:B, `FILE#A` -> FILE and A:A+1.

    Any other argument, and the name of an existing file, is returned as it is, with None.
    """
    match = _ROWS.fullmatch(argument)
    if match is None or os.path.lexists(argument):
        return argument, None
    path, first, colon, last = match.groups()
    if colon:
        return path, slice(int(first) if first else None, int(last) if last else None)
    return (path, slice(int(first), int(first) + 1)) if first else (argument, None)


def no_rows(path: str, n: int) -> SourceError:
    """What is wrong where none of a file's n images is among the rows that were asked for."""
    if not n:
        return SourceError(f"{path} has no images", _HINT)
    return SourceError(
        f"{path} has {n} images, #0 to #{n - 1}; none of them was asked for",
        f"name {path} alone to take all",
    )


def take_rows(label: str, images: Array, rows: slice | None, origin: str) -> ArraySource:
    """The rows that were asked for, as a source. Raises SourceError where there are none."""
    first, last, _ = (rows or slice(None)).indices(len(images))
    if first >= last:
        raise no_rows(label, len(images))
    return ArraySource(os.fsencode(label), images, first, last, origin)


def open_array_file(argument: str) -> ArraySource | None:
    """The rows of an array file, FILE or FILE#A:B; None if the argument names no array file.

    Raises SourceError for a damaged file, and UsageError for rows of a file that is no array.
    """
    path, rows = split_rows(argument)
    if not os.path.lexists(path) or (rows is None and not is_array_file(Path(path))):
        return None
    if not is_array_file(Path(path)):
        raise UsageError(f"{argument}: only an array file has rows to take", f"name {path} alone")
    origin = stamp_of(path)
    return take_rows(path, load_array(Path(path)), rows, origin)


def array_in_memory(array: NDArray[np.generic]) -> ArraySource:
    """An array (N, H, W[, 3]) of unsigned bytes as a source called X. Raises SourceError."""
    images = as_images("X", array)
    if not len(images):
        raise SourceError("X has no images", "give an array (N, H, W) or (N, H, W, 3)")
    return InMemory(b"X", images, 0, len(images), "in memory")


def is_array_file(path: Path) -> bool:
    return path.name.lower().endswith(ARRAY_SUFFIXES)


def load_array(path: Path) -> Array:
    """All images of the file: (N, H, W) grey or (N, H, W, 3) RGB.

    Raises SourceError for a file that is damaged or holds something else.
    """
    name = path.name.lower()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        if name.endswith(".npy"):
            return _on_disk(path)
        array = _from_npz(path) if name.endswith(".npz") else _from_idx(path)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds no single array")
    except SourceError:
        raise
    except MemoryError:
        raise SourceError(f"cannot read {path}: not enough memory", _NO_ROOM) from None
    except Exception as error:  # NumPy and zipfile raise whatever a hostile file makes them raise
        raise SourceError(f"cannot read {path}: {error}", _HINT) from None
    return as_images(str(path), array)


def as_images(path: str, array: NDArray[np.generic]) -> Pixels:
    """Bring an array in one of the usual layouts to (N, H, W) or (N, H, W, 3).

    path: its name in messages. Raises SourceError for another layout, a single image among them,
    and for values that are not unsigned bytes.
    """
    if array.dtype != np.uint8:
        hint = _FLOATS if array.dtype.kind == "f" else _HINT
        raise SourceError(f"{path} holds {array.dtype}, not unsigned bytes (0 to 255)", hint)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[1] > 4):
        raise SourceError(f"{path} has shape {array.shape}, which is that of one image", _ONE)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    elif array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] != 3:
        array = array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)) or 0 in array.shape[1:]:
        raise SourceError(f"{path} has shape {array.shape}", _HINT)
    return array  # type: ignore[return-value]


def _on_disk(path: Path) -> Array:
    """The rows of an .npy file. Raises ValueError, and SourceError as `as_images` does."""
    with path.open("rb") as file:
        try:
            header = read_array_header(file)
        except ValueError:  # such as one in Fortran's order, whose rows are not in one piece
            return as_images(str(path), np.load(path, allow_pickle=False))
        offset = file.tell()
    check_size(header, path.stat().st_size - offset)
    as_images(str(path), np.broadcast_to(np.zeros((), header.dtype), header.shape))
    return OnDisk(path, header.shape, offset)


def _from_idx(path: Path) -> Pixels:
    """The MNIST family's format: two zeros, a type, the number of dimensions, sizes, values."""
    with path.open("rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = tuple(np.frombuffer(file.read(4 * head[3]), ">u4").astype(np.int64).tolist())
        size = int(np.prod(shape, dtype=object))
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"its header promises {size} bytes")
        data = file.read(size)
    if len(data) != size:
        raise ValueError(f"truncated: {len(data)} of {size} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _from_npz(path: Path) -> Pixels:
    """The array called images, x or X, else the first one that looks like images."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"it unpacks to {size} bytes")
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in ("images", "x", "X") if name in file.files] + file.files
        for name in names:
            array = file[name]
            if array.ndim >= 3:
                return np.asarray(array)
    raise ValueError("no array in it has the shape of images")
