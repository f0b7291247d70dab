"""Counts of a batch, of what is flagged in it, and of the calibration, on one axis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.tui.run import Axis, Run, Values


class Histogram(NamedTuple):
    """B bins of equal width. Values outside the edges count in the outermost bins."""

    edges: NDArray[np.float64]  # (B + 1,)
    here: NDArray[np.int64]  # (B,)
    flagged: NDArray[np.int64]  # (B,) a part of `here`
    usual: NDArray[np.float64] | None  # (B,) scaled to as many images as there are here

    @property
    def centres(self) -> NDArray[np.float64]:
        return (self.edges[:-1] + self.edges[1:]) / 2


class Binning:
    """The bin of each image of a run. It is kept, so that moving the threshold is fast."""

    def __init__(self, run: Run, axis: Axis, span: tuple[float, float], n_bins: int) -> None:
        self.edges = np.linspace(*span, n_bins + 1)
        values = run.values(axis)
        self._rows = np.flatnonzero(~np.isnan(values)).astype(np.int32)
        self._bins = self._place(values[self._rows])
        self._here = np.bincount(self._bins, minlength=n_bins)
        usual = run.usual(axis)
        self._usual: NDArray[np.float64] | None = None
        if usual is not None and len(usual):
            counts = np.bincount(self._place(usual), minlength=n_bins)
            self._usual = counts.astype(np.float64) * (len(self._rows) / len(usual))

    def count(self, flagged: NDArray[np.bool_]) -> Histogram:
        """The histogram. flagged: (N,), which images are counted as flagged."""
        found = np.bincount(self._bins[flagged[self._rows]], minlength=len(self._here))
        return Histogram(self.edges, self._here, found, self._usual)

    def _place(self, values: Values) -> NDArray[np.int16]:
        low, high = self.edges[0], self.edges[-1]
        n_bins = len(self.edges) - 1
        scaled = (np.clip(values, low, high) - low) * (n_bins / (high - low))
        return np.asarray(np.minimum(scaled.astype(np.int16), n_bins - 1), np.int16)
