"""Files of weights (safetensors), whose header is checked before a tensor is made of them.

8 bytes      the length of the header
header       JSON: of each tensor its type, shape, and where its bytes begin and end
tensors      one after the other
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import Field, RootModel

from hvaeood_cli.untrusted import parse_json

MAX_HEADER = 1 << 22  # bytes; the largest preset takes a fiftieth of it
_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

_Whole = Annotated[int, Field(ge=0, lt=1 << 48)]


class Entry(NamedTuple):
    """A tensor of the file."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]


class _Tensor(NamedTuple):
    dtype: str
    shape: Annotated[list[_Whole], Field(max_length=8)]
    data_offsets: tuple[_Whole, _Whole]


class _Header(RootModel[dict[str, _Tensor | dict[str, str]]]):
    """A header as JSON: tensors by name, and texts under `__metadata__`."""


class WeightsHeader(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def header_length(head: bytes, size: int) -> int:
    """The length of the header of a file of this size, by its first 8 bytes. Raises ValueError."""
    if len(head) < _LENGTH.size:
        raise ValueError("it ends before its header")
    (length,) = _LENGTH.unpack_from(head)
    if length > min(MAX_HEADER, size - _LENGTH.size):
        raise ValueError(f"its header claims {length} bytes; at most {MAX_HEADER} are read")
    return int(length)


def read_weights_header(data: bytes, size: int) -> WeightsHeader:
    """The header of a file of weights, whose tensors fill the rest of it. Raises ValueError.

    data: the beginning of the file, its header at least. size: of the whole file, bytes.
    """
    length = header_length(data, size)
    text = data[_LENGTH.size : _LENGTH.size + length]
    found = parse_json(_Header, text).root
    metadata = found.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise ValueError(f"{_METADATA} is a tensor")
    tensors, ends = {}, []
    for name, entry in found.items():
        if isinstance(entry, dict):
            raise ValueError(f"{name[:80]} is no tensor")
        first, last = entry.data_offsets
        wanted = math.prod(entry.shape) * _SIZES.get(entry.dtype, -1)
        if entry.dtype not in _SIZES or last - first != wanted:
            raise ValueError(f"{name[:80]} is not {entry.shape} of {entry.dtype[:20]}")
        tensors[name] = Entry(entry.dtype, tuple(entry.shape))
        ends.append((first, last))
    there = 0
    for first, last in sorted(ends):  # one after the other: no byte is unused, or used twice
        if first != there:
            raise ValueError("its tensors overlap, or leave gaps")
        there = last
    if there != size - _LENGTH.size - length:
        raise ValueError(f"its tensors take {there} bytes of {size - _LENGTH.size - length}")
    return WeightsHeader(tensors, metadata)


def check_tensors(found: Mapping[str, Entry], expected: Mapping[str, Entry]) -> None:
    """Raise ValueError unless the tensors are those that are expected."""
    for name in sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"{name[:80]} is {'missing' if name in expected else 'of another model'}")
    for name, entry in expected.items():
        if found[name] != entry:
            there = found[name]
            raise ValueError(
                f"{name} is {there.dtype} {there.shape}, not {entry.dtype} {entry.shape}"
            )
