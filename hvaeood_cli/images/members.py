"""The images in an archive, as a table: a million of them take 25 MB and their names."""

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
_EACH = 3 * 8 + 1  # bytes of an image's numbers
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
        self._ends = array("q")  # where each image's name ends among all
        self._sizes = array("q")
        self._places = array("q")
        self._faults = bytearray()

    def add(self, name: bytes, size: int, place: int, fault: int = 0) -> None:
        """Add an image, while the archive is listed. fault: its place in FAULTS."""
        self._names += name
        self._ends.append(len(self._names))
        self._sizes.append(min(size, _MOST))
        self._places.append(min(place, _MOST))
        self._faults.append(fault)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> list[Member]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Member | list[Member]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return [self[i] for i in found]
        fault = FAULTS[self._faults[found]]
        return Member(self.name(found), self._sizes[found], self._places[found], fault)

    def name(self, i: int) -> bytes:
        begin = self._ends[i - 1] if i else 0
        return bytes(self._names[begin : self._ends[i]])

    @property
    def longest(self) -> int:
        """The bytes of the longest name."""
        return int(np.diff(self._ends, prepend=0).max(initial=0))

    def size(self, i: int) -> int:
        return self._sizes[i]

    def names(self, prefix: bytes = b"") -> Iterator[bytes]:
        """Every name, behind a prefix, sooner than one by one."""
        names, begin = bytes(self._names), 0
        for end in self._ends:
            yield prefix + names[begin:end]
            begin = end

    def name_blocks(self, prefix: bytes = b"") -> Iterator[NDArray[np.bytes_]]:
        """As `names`, some in an array at a time: sooner still."""
        names, ends = np.frombuffer(bytes(self._names), np.uint8), self._ends
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
                self._faults[i] = REPLACED
        del self._by_key  # which takes as much memory as the table

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
        numbers = (self._ends.tobytes(), self._sizes.tobytes(), self._places.tobytes())
        return b"".join([_HEAD.pack(len(self), self.skipped), *numbers, self._faults, self._names])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave. Raises ValueError for anything else."""
        if len(data) < _HEAD.size:
            raise ValueError("no listing")
        n, skipped = _HEAD.unpack_from(data)
        bounds = [_HEAD.size + column * 8 * n for column in range(4)] + [_HEAD.size + _EACH * n]
        if bounds[-1] > len(data):
            raise ValueError("fewer images than it says")
        ends, sizes, places, faults = map(data.__getitem__, map(slice, bounds, bounds[1:]))
        found = cls()
        found.skipped = skipped
        found._ends.frombytes(ends)
        found._sizes.frombytes(sizes)
        found._places.frombytes(places)
        found._faults += faults
        found._names += data[bounds[-1] :]
        found._check()
        return found

    def _check(self) -> None:
        """Raise ValueError for numbers that no listing has."""
        numbers = (np.frombuffer(one, np.int64) for one in (self._ends, self._sizes, self._places))
        if any((one < 0).any() for one in numbers) or max(self._faults, default=0) >= len(FAULTS):
            raise ValueError("numbers that cannot be")
        ends = np.frombuffer(self._ends, np.int64)
        last = self._ends[-1] if self._ends else 0
        if (ends[1:] < ends[:-1]).any() or last != len(self._names):
            raise ValueError("names of other lengths")
