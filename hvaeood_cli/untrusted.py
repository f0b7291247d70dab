"""Reading what somebody else may have written: regular files, JSON and NumPy arrays, bounded.

Each format has one function that reads it, and those are made of these. Nothing is allocated before
it is known that the file is large enough to hold it, nothing is unpickled, and no pipe or device
is waited for.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)
_MAX_HEADER = 10_000  # characters of an array's header, as NumPy has it


class ArrayHeader(NamedTuple):
    """What an .npy file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def open_regular(path: Path) -> BinaryIO:
    """A regular file, or one that a link leads to. Raises OSError for a pipe, device or folder."""
    # O_NONBLOCK: opening a pipe that nobody writes to would wait forever
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file, or of one that a link leads to.

    Raises OSError as `open_regular` does, for more than `most` bytes, and for a file that shrinks
    meanwhile.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size} bytes; at most {most} are read", str(path))
        data = file.read(size)
    if len(data) < size:
        raise OSError(errno.EIO, "it became shorter while it was read", str(path))
    return data


def parse_json(kind: type[_Model], data: bytes | str) -> _Model:
    """JSON, checked against a model: nothing is converted. Raises ValueError with what is wrong."""
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


_OF_A_HOSTILE_HEADER = (TypeError, SyntaxError, TokenError, RecursionError, MemoryError)


def read_array_header(file: BinaryIO) -> ArrayHeader:
    """The header of an .npy file, and the file's position behind it.

    Raises ValueError for anything else, for an array that would have to be unpickled and for one
    in Fortran's order, which this program does not write.
    """
    try:
        version = npy.read_magic(file)
        reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in reads:
            raise ValueError(f"an array of version {version}")
        shape, fortran, dtype = reads[version](file, max_header_size=_MAX_HEADER)
    except _OF_A_HOSTILE_HEADER as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    if dtype.hasobject:
        raise ValueError("an array that would have to be unpickled (pickle)")
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran's order")
    if any(n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape}")
    return ArrayHeader(shape, dtype)


def parse_array(data: bytes) -> NDArray[Any]:
    """The array in the content of an .npy file, which has just its size. Raises ValueError."""
    file = io.BytesIO(data)
    header = read_array_header(file)
    check_size(header, len(data) - file.tell())
    return np.frombuffer(data, header.dtype, offset=file.tell()).reshape(header.shape)


def check_size(header: ArrayHeader, n_bytes: int) -> None:
    """Raise ValueError unless an array has just this many bytes."""
    size = header.dtype.itemsize
    for n in header.shape:
        size *= n  # in Python's integers, which do not overflow
    if size != n_bytes:
        raise ValueError(f"an array of {size} bytes where {n_bytes} are")
