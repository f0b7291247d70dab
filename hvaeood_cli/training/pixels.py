"""Rows of pixels to train on, of which only a batch at a time need be in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_BLOCK = 1024  # rows that are hashed at a time


@dataclass(frozen=True)
class PixelRows:
    """N images or tiles, (N, C, H, W) uint8: those of some arrays, one array after the other.

    An array may be mapped from a file. chosen: which rows of the arrays, in which order; None for
    all.
    """

    arrays: Sequence[Pixels]
    chosen: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, pixels: PixelRows | Pixels) -> PixelRows:
        """The rows of an array; what are rows already stay as they are."""
        return pixels if isinstance(pixels, PixelRows) else cls([pixels])

    def __len__(self) -> int:
        return int(self._starts[-1]) if self.chosen is None else len(self.chosen)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Pixels:
        """Some rows, read into memory: (n, C, H, W)."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = rows if self.chosen is None else self.chosen[rows]
        found = np.empty((len(rows), *self.arrays[0].shape[1:]), np.uint8)
        of_array = np.searchsorted(self._starts, rows, side="right") - 1
        for which in np.unique(of_array):
            here = of_array == which
            found[here] = self.arrays[which][rows[here] - self._starts[which]]
        return found

    def pick(self, rows: NDArray[np.int64]) -> PixelRows:
        """Some of these rows, which stay where they are."""
        return PixelRows(self.arrays, rows if self.chosen is None else self.chosen[rows])

    def __iter__(self) -> Iterator[Pixels]:
        """Each row, (C, H, W)."""
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]

    @cached_property
    def sha256(self) -> str:
        """The hash of all rows, one after the other."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _BLOCK):
            digest.update(self[start : start + _BLOCK].data)
        return digest.hexdigest()

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The row with which each array begins, and behind them the number of all rows."""
        return np.cumsum([0, *map(len, self.arrays)])
