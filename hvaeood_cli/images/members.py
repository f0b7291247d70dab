"""The images in an archive, as a table: a million of them take 32 MB and their names."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Self, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

FAULTS = (
    "",
    "it is a link, or no ordinary file, in the archive",
    "it is encrypted",
    "a later file in the archive has the same name",
)
NO_FILE, ENCRYPTED, REPLACED = range(1, len(FAULTS))
_MOST = 2**63 - 1  # of a size: an archive may say anything
_HEAD = struct.Struct("<QQ")  # how many images there are, and how many other files
_EACH = 4  # numbers of an image
BLOCK = 1 << 16  # names that are put into an array at a time


class Member(NamedTuple):
    """An image in an archive."""

    name: bytes
    size: int  # bytes, as the archive says
    place: int  # where its bytes begin in a tar file; its number in the directory of a zip file
    fault: str  # why it cannot be read; empty if nothing is known against it


class Members(Sequence[Member]):
    """The images in an archive, in its order."""

    def __init__(self) -> None:
        self.skipped = 0  # how many other files are in the archive
        self._names = bytearray()
        self._numbers = array("q")  # of each image: where its name ends, size, place and fault

    def add(self, name: bytes, size: int, place: int, fault: int = 0) -> None:
        """Add an image, while the archive is listed. fault: its place in FAULTS."""
        self._names += name
        self._numbers.extend((len(self._names), min(size, _MOST), min(place, _MOST), fault))

    def __len__(self) -> int:
        return len(self._numbers) // _EACH

    @overload
    def __getitem__(self, index: SupportsIndex) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> list[Member]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Member | list[Member]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return [self[i] for i in found]
        _, size, place, fault = self._numbers[_EACH * found : _EACH * (found + 1)]
        return Member(self.name(found), size, place, FAULTS[fault])

    def name(self, i: int) -> bytes:
        begin = self._numbers[_EACH * (i - 1)] if i else 0
        return bytes(self._names[begin : self._numbers[_EACH * i]])

    def size(self, i: int) -> int:
        return self._numbers[_EACH * i + 1]

    def names(self, prefix: bytes = b"") -> Iterator[bytes]:
        """Every name, behind a prefix, sooner than one by one."""
        names, begin = bytes(self._names), 0
        for end in self._numbers[::_EACH]:
            yield prefix + names[begin:end]
            begin = end

    def name_blocks(self, prefix: bytes = b"") -> Iterator[NDArray[np.bytes_]]:
        """As `names`, some in an array at a time: sooner still."""
        names, ends = np.frombuffer(bytes(self._names), np.uint8), self._numbers[::_EACH]
        for first in range(0, len(self), BLOCK):
            last = min(first + BLOCK, len(self))
            bounds = np.array([ends[first - 1] if first else 0, *ends[first:last]])
            lengths = np.diff(bounds)
            block = np.zeros((last - first, max(1, len(prefix) + int(lengths.max()))), np.uint8)
            block[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
            within = np.arange(block.shape[1] - len(prefix)) < lengths[:, None]
            block[:, len(prefix) :][within] = names[bounds[0] : bounds[-1]]  # row after row
            yield block.reshape(-1).view(f"S{block.shape[1]}")

    def find(self, name: bytes) -> int | None:
        """The number of the image of that name, the last if several have it; None if none has."""
        keys, order = self._by_key
        first, last = (np.searchsorted(keys, hash(name), side) for side in ("left", "right"))
        return max((int(i) for i in order[first:last] if self.name(i) == name), default=None)

    def mark_replaced(self) -> None:
        """A later image of the same name replaces an earlier one, as when all is unpacked."""
        keys, order = self._by_key
        same = np.flatnonzero(keys[1:] == keys[:-1])
        several = sorted({*order[same].tolist(), *order[same + 1].tolist()})
        last = {self.name(i): i for i in several}
        for i in several:
            if last[self.name(i)] != i:
                self._numbers[_EACH * i + 3] = REPLACED

    @cached_property
    def _by_key(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The hashes of all names, sorted, and the image that each is of."""
        keys = np.fromiter(map(hash, self.names()), np.int64, len(self))
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def __getstate__(self) -> dict[str, object]:
        """Without the hashes: another process has others."""
        return {key: value for key, value in vars(self).items() if key != "_by_key"}

    def to_bytes(self) -> bytes:
        return _HEAD.pack(len(self), self.skipped) + self._numbers.tobytes() + self._names

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave. Raises ValueError for anything else."""
        if len(data) < _HEAD.size:
            raise ValueError("no listing")
        n, skipped = _HEAD.unpack_from(data)
        end = _HEAD.size + n * _EACH * 8
        if end > len(data):
            raise ValueError("fewer images than it says")
        table = np.frombuffer(data[_HEAD.size : end], np.int64).reshape(n, _EACH)
        ends = np.concatenate([[0], table[:, 0]])
        if (np.diff(ends) < 0).any() or ends[-1] != len(data) - end:
            raise ValueError("names of other lengths")
        if (table < 0).any() or (table[:, 3] >= len(FAULTS)).any():
            raise ValueError("numbers that cannot be")
        found = cls()
        found.skipped = skipped
        found._numbers.frombytes(data[_HEAD.size : end])
        found._names += data[end:]
        return found
