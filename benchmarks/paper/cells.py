"""Scores of one set of images by one model, each kept in a file, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Cell:
    """What identifies the scores of a set: with all of it the same, they are the same."""

    what: str  # "scores", "regret" ...
    model_sha256: str
    calibration: str  # its id; empty without one
    images: str  # the set's name
    content: str  # a hash of its pixels
    n: int
    samples: int
    seed: int


@dataclass(frozen=True)
class Cells:
    """A folder of them."""

    folder: Path

    def get(self, cell: Cell, compute: Callable[[], Columns]) -> dict[str, NDArray[Any]]:
        """The columns of a cell, (N,) or (N, n) each: kept ones if there are, else computed.

        A file appears whole or not at all, so that one left by a kill is never taken for done.
        """
        wanted = json.dumps(asdict(cell), sort_keys=True)
        kept = _read(path := self._path(cell))
        if kept is not None and str(kept.pop("cell")) == wanted:
            return kept
        print(f"{cell.what} of {cell.n} {cell.images} by {cell.model_sha256[:12]} ...", flush=True)
        columns = {name: np.asarray(values) for name, values in compute().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, cell=wanted, **columns)
        part.replace(path)
        return columns

    def _path(self, cell: Cell) -> Path:
        name = f"{cell.what}-{cell.model_sha256[:12]}-{cell.images}-S{cell.samples}-n{cell.n}"
        return self.folder / f"{name}.npz"


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return dict(arrays)
