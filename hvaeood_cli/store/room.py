"""Room for the columns of a run: in memory if they are few, else in files without names.

Such a file is mapped, so that a column is an array like any other. Its pages need not stay in
memory: the system writes them to the file where it needs the room, and `let_go` asks it to.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SMALL = 1 << 20  # bytes of a column that stays in memory
_TAKEN = 1 << 10  # rows that are taken at a time
_SCORE_FILE = 2  # times the bytes of its columns: those of the decision come to them
_CAN_MAP = hasattr(os, "posix_fallocate") and hasattr(mmap, "MADV_DONTNEED")


class Room:
    """Makes arrays; the large ones lie in a folder, in files that go with them."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: where the files lie; None keeps all arrays in memory."""
        self._folder = folder if _CAN_MAP else None
        self._mapped: list[mmap.mmap] = []

    def __reduce__(self) -> tuple[type[Room], tuple[()]]:
        """Arrays are copied, and pickled, by value: a copy is in memory."""
        return Room, ()

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros; in memory, too, where the folder cannot map its files or hold them.

        It must hold the score file beside them, which is at most twice as large.
        """
        kind = np.dtype(dtype)
        n_bytes = math.prod(shape) * kind.itemsize
        if self._folder is None or n_bytes <= _SMALL:
            return np.zeros(shape, kind)
        try:
            n_all = n_bytes + sum(map(len, self._mapped))
            if disk_usage(self._folder).free < n_bytes + _SCORE_FILE * n_all:
                return np.zeros(shape, kind)
            with TemporaryFile(dir=self._folder) as file:
                # Else a full disk would show itself when a page is written: by a signal that kills.
                os.posix_fallocate(file.fileno(), 0, n_bytes)
                mapped = mmap.mmap(file.fileno(), n_bytes)
        except OSError:
            return np.zeros(shape, kind)
        self._mapped.append(mapped)
        return np.frombuffer(mapped, kind).reshape(shape)

    def names(self, blocks: Callable[[], Iterable[NDArray[np.bytes_]]]) -> NDArray[np.bytes_]:
        """The names of N images, (N,). blocks: gives them some at a time, each time from the start.

        They come twice, so that they are never in memory together.
        """
        sizes = [(len(block), block.itemsize) for block in blocks()]
        widest = max((width for _, width in sizes), default=1)
        whole, begin = self.array((sum(n for n, _ in sizes),), f"S{widest}"), 0
        for block in blocks():
            whole[begin : begin + len(block)] = block
            begin += len(block)
            self.let_go()
        return whole

    def take(self, values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """`values[rows]` of an array that lies here: in its order there, a part at a time.

        Else a few rows from everywhere would bring all of the array into memory.
        """
        found = np.empty((len(rows), *values.shape[1:]), values.dtype)
        order = np.argsort(rows, kind="stable")
        for first in range(0, len(rows), _TAKEN):
            part = order[first : first + _TAKEN]
            found[part] = values[rows[part]]
            self.let_go()
        return found

    def let_go(self) -> None:
        """Let the memory go that the pages of large arrays take; they are read again when used."""
        for mapped in self._mapped:
            mapped.madvise(mmap.MADV_DONTNEED)


IN_MEMORY = Room()
