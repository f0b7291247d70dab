"""The tiles of a run's images: a ragged table beside the rows, which stays on the disk.

An image of many megapixels has thousands of tiles, and a folder has thousands of images. So no
reader holds them all: a `TileTable` reads those of one image, and a writer is given them image by
image. Row i has tiles first[i] to first[i + 1] - 1 of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError
from hvaeood_cli.store.columns import Sizes, Tiles, tile_columns, tile_dtype

GROUP = "tiles"
FIRST, PLACE = f"/{GROUP}/first", f"/{GROUP}/place"

Block = tuple[int, Tiles]
"""A row, and the tiles of its image."""


def first_of(n_tiles: NDArray[Any]) -> NDArray[np.int64]:
    """Where the tiles of each row begin, and where they end, (N + 1,). n_tiles: of each, (N,)."""
    return np.concatenate([[0], np.cumsum(n_tiles, dtype=np.int64)]).astype(np.int64)


def blocks_of(n_tiles: NDArray[Any], tiles: Tiles) -> Iterator[Block]:
    """The tiles of consecutive rows, row by row. n_tiles: of each row, (n,)."""
    first = first_of(n_tiles)
    for row in np.flatnonzero(n_tiles):
        yield int(row), tiles[first[row] : first[row + 1]]


@dataclass(frozen=True, eq=False)
class TileTable:
    """The tiles of N rows, in a score file. They are read when they are asked for."""

    path: Path
    manifest_sha256: str  # of the file when it was opened: by it, another in its place is noticed
    sizes: Sizes
    first: NDArray[np.int64]  # (N,) place in the table of each row's first tile
    n_tiles: NDArray[np.int64]  # (N,)

    def of(self, row: int) -> Tiles:
        """The tiles of a row's image, row by row from its upper left corner, (n_tiles[row],).

        Raises StoreError where the file has been replaced meanwhile, or is damaged.
        """
        with self._opened() as file:
            return self._read(file, row)

    def blocks(self) -> Iterator[Block]:
        """The tiles of each row that has any, row by row. Raises StoreError as `of` does."""
        with self._opened() as file:
            for row in np.flatnonzero(self.n_tiles):
                yield int(row), self._read(file, int(row))

    def of_rows(self, rows: NDArray[np.bool_]) -> TileTable:
        """Those of some rows alone. rows: which, (N,)."""
        return replace(self, first=self.first[rows], n_tiles=self.n_tiles[rows])

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("manifest_sha256") != self.manifest_sha256:
                    raise StoreError(
                        f"{self.path} was scored anew since it was read", "open it again"
                    )
                yield file
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise StoreError(
                f"the tiles in {self.path} cannot be read ({reason})", "score the images again"
            ) from None

    def _read(self, file: h5py.File, row: int) -> Tiles:
        begin = int(self.first[row])
        end = begin + int(self.n_tiles[row])
        tiles = np.empty(end - begin, tile_dtype(self.sizes))
        for name in tiles.dtype.names or ():
            tiles[name] = file[f"/{GROUP}/{name}"][begin:end]
        return tiles


def datasets(sizes: Sizes) -> dict[str, tuple[tuple[int, ...], str, str, str]]:
    """Of each dataset that has a row for each tile: shape of a row, dtype, meaning, unit."""
    place = "top and left of the tile, in pixels of the image as it was read"
    return {PLACE: ((2,), "int32", place, "pixels")} | {
        f"/{GROUP}/{column.name}": (
            column.shape(sizes),
            column.dtype,
            column.sentence,
            column.unit,
        )
        for column in tile_columns()
    }
