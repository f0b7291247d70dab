"""Tiles: an image of any size as overlapping squares of the one size that a model takes.

    tiling = Tiling(size=32, stride=16, scale=0.5)
    scaled = tiling.scaled(image)         # (C, h, w): half as high and wide, at least one tile
    places = tiling.places(*scaled.shape[1:])  # (n, 2): top and left of each tile, pixels of scaled
    tiles = tiling.cut(scaled, places)    # (n, C, 32, 32)

The tiles stand on a regular grid. Where it does not end at the edge, the last row and column of
tiles are moved back until they do: every pixel is in a tile, and no tile holds what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.errors import UsageError

Pixels = NDArray[np.uint8]
Places = NDArray[np.int64]


class Scaled(NamedTuple):
    """An image that tiles are cut from."""

    pixels: Pixels  # (C, h, w); neither h nor w is less than a tile's
    padded: bool  # whether it was smaller than a tile, and had to be made larger


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    size: height and width of a tile, pixels of the scaled image. stride: from one tile to the next.
    scale: of height and width, first of all; 0.5 halves both. Raises UsageError for a stride that
    leaves pixels out, and for sizes and scales that are none.
    """

    size: int
    stride: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise UsageError(
                f"tiles of {self.size} pixels, {self.stride} apart, do not cover an image",
                f"--stride takes 1 to {self.size}; half a tile is usual",
            )
        if not 0.0 < self.scale <= 1.0:
            raise UsageError(f"no scale of {self.scale:g}", "--scale takes up to 1: 0.5 halves")

    def __str__(self) -> str:
        at = f", at a scale of {self.scale:g}" if self.scale != 1.0 else ""
        return f"of {self.size}x{self.size} pixels, {self.stride} apart{at}"

    @property
    def rule(self) -> str:
        """How an image becomes tiles, in words that change when anything of it does."""
        return (
            f"scaled by {self.scale!r}, antialiased bilinear; continued by its mirror image to a "
            f"tile's size where it is smaller; {self.size}x{self.size} tiles {self.stride} pixels "
            "apart, the last of a row or column flush with the edge"
        )

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image when it has been scaled, before it may be padded."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def scaled(self, pixels: Pixels) -> Scaled:
        """The image that tiles are cut from: scaled, antialiased, and padded to a tile at least.

        pixels: (H, W) or (H, W, C). What is smaller than a tile is continued below and on the right
        by its mirror image.
        """
        height, width = self.scaled_size(*pixels.shape[:2])
        if (height, width) != pixels.shape[:2]:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        below, right = max(0, self.size - height), max(0, self.size - width)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)  # (C, h, w)
        if below or right:
            planes = np.pad(planes, ((0, 0), (0, below), (0, right)), mode="reflect")
        return Scaled(np.ascontiguousarray(planes), bool(below or right))

    def count(self, height: int, width: int) -> int:
        """How many tiles an image has, by its height and width before it is scaled."""
        rows, columns = (len(self._along(n)) for n in self.scaled_size(height, width))
        return rows * columns

    def places(self, height: int, width: int) -> Places:
        """Top and left of each tile in a scaled image, (n, 2) pixels, row by row."""
        tops, lefts = self._along(height), self._along(width)
        return np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)

    def in_original(self, places: Places, height: int, width: int) -> Places:
        """Places in a scaled image, (n, 2), as pixels of the image as it was read, (n, 2)."""
        factor = np.array([height, width]) / self.scaled_size(height, width)
        return np.rint(places * factor).astype(np.int64)

    def cut(self, scaled: Pixels, places: Places | None = None) -> Pixels:
        """The tiles of a scaled image, (C, h, w) -> (n, C, size, size).

        places: of some tiles alone, (n, 2), on the grid or not; None for all.
        """
        places = self.places(*scaled.shape[1:]) if places is None else places
        windows = sliding_window_view(scaled, (self.size, self.size), axis=(1, 2))
        return np.ascontiguousarray(windows[:, places[:, 0], places[:, 1]].swapaxes(0, 1))

    def joined(
        self, parts: Iterable[tuple[Places, NDArray[np.float32]]], height: int, width: int
    ) -> NDArray[np.float32]:
        """What was made of each tile, joined to what is made of a scaled image: (..., h, w).

        parts: places, (n, 2), and what was made there, (n, ..., size, size); all tiles together, a
        few at a time. Where tiles overlap, it is their mean. height, width: of the scaled image.
        """
        total: NDArray[np.float32] | None = None
        n = np.zeros((height, width), np.float32)
        for places, values in parts:
            if total is None:
                total = np.zeros((*values.shape[1:-2], height, width), np.float32)
            for (top, left), value in zip(places, values, strict=True):
                here = slice(top, top + self.size), slice(left, left + self.size)
                total[(..., *here)] += value
                n[here] += 1.0
        if total is None:
            raise ValueError("there is no tile to join")
        return total / n

    def _along(self, n: int) -> Places:
        """Where tiles begin along an edge of n pixels; one at 0 where it is shorter than a tile."""
        last = max(0, n - self.size)
        return np.append(np.arange(0, last, self.stride), last)
