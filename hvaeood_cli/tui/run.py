"""A score file beside its calibration: the numbers that can be plotted, sorted and thresholded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.batch import BatchDensity
from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.conformal import conformal_p, two_sided_p
from hvaeood_cli.calibration.rules import adjusted
from hvaeood_cli.store.columns import Column, column
from hvaeood_cli.store.decision import Decision
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.text import printable

Values = NDArray[np.floating[Any]]
T = TypeVar("T")


P = "p"  # the p-values, beside the scores of the column table


class Axis(NamedTuple):
    """A number of each image that can be plotted: a score, or P, at one k or layer.

    For LLR and P, k = 0 means the combined score.
    """

    measure: str  # a column's name, or P
    k: int

    @property
    def column(self) -> Column:
        """Its column in the column table."""
        if self == COMBINED:
            return column("combined")
        return column(self.measure if self.measure != P else "p_value" if self.k else "p_combined")

    @property
    def is_combined(self) -> bool:
        """Whether it is the combined score, or its p-value."""
        return self.k == 0 and self.measure in (COMBINED.measure, P)

    @property
    def higher_is_odder(self) -> bool:
        return self.column.odd_end != "low"

    @property
    def unit(self) -> str:
        return self.column.unit if self.column.unit not in self.column.title else ""


COMBINED = Axis("llr", 0)


@dataclass(frozen=True, eq=False)
class Run:
    """N images scored by a model of L layers, and what is usual. Results are computed once."""

    scores: ScoreFile
    calibration: Calibration | None = None
    why_not: str = ""  # why there is no calibration, and the command that mends it
    _kept: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: ScoreFile, calibration: Calibration | None, why_not: str = "") -> Run:
        """The run with its calibration, unless that was made with other settings."""
        if calibration is None:
            model = printable(scores.header.model_name)
            mend = f"hvaeood calibrate HELD-OUT-IMAGES --model {model}"
            return cls(scores, None, why_not or f"not calibrated: {mend}")
        differing = calibration.mismatches_of(scores.header)
        if differing:
            why_not = f"the calibration has other settings ({'; '.join(differing)}): "
            return cls(scores, None, why_not + "hvaeood calibrate with these settings")
        return cls(scores, calibration)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def title(self) -> str:
        return printable(self.scores.path.name)

    @property
    def n_layers(self) -> int:
        return self.scores.n_layers

    @property
    def n_scored(self) -> int:
        return self.scores.n_scored

    # -- what ranks ---------------------------------------------------------------------------

    @property
    def decision(self) -> Decision | None:
        """The file's decision, where it stands alone: the calibration that made it is not here."""
        return self.scores.decision if self.calibration is None else None

    @property
    def has_p(self) -> bool:
        """Whether images have p-values, by the calibration or as the file's decision has them."""
        return self.calibration is not None or self.decision is not None

    @cached_property
    def combined(self) -> Values:
        """(N,) what ranks images, in nats, higher is odder, NaN without scores.

        Without a calibration it is what the file's decision says. Without that either, it says how
        odd an image is in this batch.
        """
        if self.decision is not None:
            return self.decision.combined
        if self.calibration is None:
            return self._batch.combine(self.scores)
        found = self.calibration.combine(self.scores.columns)
        found[~self.scores.scored] = np.nan
        return found

    @cached_property
    def k(self) -> NDArray[np.int8]:
        """(N,) whose LLR^{>k} differs most; 0 without scores."""
        if self.decision is not None:
            return self.decision.k
        if self.calibration is None:
            return self._batch.k_differing_most(self.scores)
        k = self.calibration.k_differing_most(self.scores.llr)
        return np.where(self.scores.scored, k, 0).astype(np.int8)

    @cached_property
    def p(self) -> Values:
        """(N,) p-value of `combined`; only where `has_p`."""
        return self._p(0, self.combined)

    def adjusted_p(self, kind: str) -> Values:
        """(N,) p adjusted for the batch: an FDR rule of this kind flags those <= its level."""
        return self._keep(("adjusted", kind), lambda: self._adjust(kind))

    # -- what can be plotted ------------------------------------------------------------------

    @property
    def measures(self) -> list[str]:
        """The names of what images can be measured by, LLR first."""
        names = [column.name for column in self.scores.scores]
        names = ["llr", *(name for name in names if name != "llr")]
        return [*names, P] if self.has_p else names

    def axes(self, measure: str) -> list[Axis]:
        """A measure at every k or layer that it has; for LLR and P, the combined score first."""
        combined = measure in (COMBINED.measure, P)
        found = column("llr" if combined else measure).indices(self.scores.sizes)
        indices = [0] if found is None else [0, *found] if combined else list(found)
        return [Axis(measure, k) for k in indices]

    def axis_near(self, measure: str, k: int) -> Axis:
        """A measure at k, or at the first k that it has."""
        axes = self.axes(measure)
        return next((axis for axis in axes if axis.k == k), axes[0])

    def heading(self, measure: str) -> str:
        """A measure's name, for people."""
        return P if measure == P else column(measure).heading

    def label(self, axis: Axis) -> str:
        """An axis's name, for people."""
        if axis == COMBINED:
            return "combined score"
        if axis.measure == P:
            return f"p>{axis.k}" if axis.k else "p combined"
        return axis.column.titles(self.scores.sizes)[self._place(axis)]

    def word(self, axis: Axis) -> str:
        """What tells an axis from the others of its measure: k, the layer, or a word."""
        words = [] if axis.measure == P else axis.column.words(self.scores.sizes)
        return words[self._place(axis)] if words else str(axis.k)

    def each(self, axis: Axis) -> str:
        """What its measure has a value for: `Column.each`."""
        return "k" if axis.measure == P else axis.column.each

    def values(self, axis: Axis) -> Values:
        """The values on an axis, (N,); NaN for rows without scores.

        A scored row whose value could not be computed stands at the odd end.
        """
        return self._keep(("values", axis), lambda: self._whole(axis, self._values(axis)))

    def usual(self, axis: Axis) -> Values | None:
        """The calibration's values on an axis, sorted upwards; None without a calibration."""
        return self._keep(("usual", axis), lambda: self._usual(axis))

    def shown_range(self, axis: Axis) -> tuple[float, float]:
        """The range of a plot: all but the outermost thousandths, which count at its edges."""
        return self._keep(("range", axis), lambda: self._range(axis))

    def percentile(self, row: int, axis: Axis) -> float | None:
        """How many per cent of the calibration lie below a row; None if that is not known."""
        usual, value = self.usual(axis), float(self.values(axis)[row])
        if usual is None or math.isnan(value):
            return None
        return float(100 * np.searchsorted(usual, value, side="left") / len(usual))

    def p_of(self, row: int, k: int) -> float | None:
        """The p-value of a row at one k (0: combined); None where it has none."""
        if not self.has_p or not self.scores.scored[row]:
            return None
        if self.decision is not None:
            return float(self._p(k, self.combined)[row])
        values = self.combined[row : row + 1] if k == 0 else self.scores.llr[row : row + 1, k - 1]
        return float(self._p(k, values)[0])

    # -- what can be sorted -------------------------------------------------------------------

    def order(self, axis: Axis) -> NDArray[np.int32]:
        """The rows sorted upwards by an axis, (N,); those without scores last."""
        key = ("order", axis)

        def sort() -> NDArray[np.int32]:
            values = self.values(axis).astype(np.float32, copy=False)  # sorts in half the time
            return np.argsort(values).astype(np.int32)

        return self._keep(key, sort)

    @cached_property
    def order_by_k(self) -> NDArray[np.int32]:
        return np.argsort(self.k, kind="stable").astype(np.int32)

    @cached_property
    def order_by_path(self) -> NDArray[np.int32]:
        """The rows sorted by the bytes of their paths, (N,).

        Eight bytes are compared at a time, as a number, which is faster.
        """
        names = self.scores.names
        if len(names) < 2 or bool((names[:-1] <= names[1:]).all()):
            return np.arange(len(names), dtype=np.int32)
        width = -(-names.itemsize // 8)
        words = names.astype(f"S{8 * width}").view(">u8").reshape(len(names), width)
        keys = [words[:, i].astype(np.uint64) for i in range(width)]
        telling = [key for key in keys if key.min() != key.max()]
        if not telling:
            return np.arange(len(names), dtype=np.int32)
        return np.lexsort(telling[::-1]).astype(np.int32)

    def containing(self, text: str) -> NDArray[np.bool_]:
        """Which rows have a text in their path, (N,). Case matters if the text has upper case."""
        names, wanted = self.scores.names, text.encode("utf-8", "surrogateescape")
        if wanted == wanted.lower():
            names = np.char.lower(names)
        return np.asarray(np.char.find(names, wanted) >= 0)

    # -- how it is computed ---------------------------------------------------------------------

    @cached_property
    def _batch(self) -> BatchDensity:
        return BatchDensity.of(self.scores)

    def _keep(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])

    def _p(self, k: int, values: Values) -> Values:
        """The p-values of `values`, at one k (0: combined). A decision has those of all rows."""
        if self.decision is not None:
            return self.decision.p_value[:, k - 1] if k else self.decision.p_combined
        assert self.calibration is not None
        if k:
            return two_sided_p(self.calibration.sorted_llr[:, k - 1], values)
        return conformal_p(self.calibration.combined, values)

    def _adjust(self, kind: str) -> Values:
        found = np.full(len(self), np.nan)
        scored = self.scores.scored
        found[scored] = adjusted(kind, self.p[scored].astype(np.float64))
        return found

    def _whole(self, axis: Axis, values: Values) -> Values:
        holes = np.isnan(values) & self.scores.scored
        if not holes.any():
            return values
        worst = 0.0 if axis.measure == P else np.inf if axis.higher_is_odder else -np.inf
        return np.where(holes, values.dtype.type(worst), values)

    def _values(self, axis: Axis) -> Values:
        if axis == COMBINED:
            return self.combined
        if axis.measure == P:
            return self._p(axis.k, self.scores.llr[:, axis.k - 1]) if axis.k else self.p
        return self._part(axis, self.scores[axis.measure])

    def _usual(self, axis: Axis) -> Values | None:
        if self.calibration is None:
            return None
        if axis == COMBINED:
            return self.calibration.combined
        if axis.measure == P:
            n = len(self.calibration) if axis.k else len(self.calibration.combined)
            return np.arange(1, n + 1) / (n + 1)
        if axis.measure not in self.calibration.columns:
            return None
        usual = self._part(axis, self.calibration[axis.measure])
        return np.sort(usual[~np.isnan(usual)])

    def _part(self, axis: Axis, values: Values) -> Values:
        """The values on one axis, (N,), taken from those of its column, (N,) or (N, n)."""
        return values if values.ndim == 1 else np.ascontiguousarray(values[:, self._place(axis)])

    def _place(self, axis: Axis) -> int:
        """The index of an axis among its column's values."""
        indices = axis.column.indices(self.scores.sizes)
        return 0 if indices is None else indices.index(axis.k)

    def _range(self, axis: Axis) -> tuple[float, float]:
        if axis.measure == P:
            return 0.0, 1.0
        usual = self.usual(axis)
        parts = [self.values(axis)] if usual is None else [self.values(axis), usual]
        ends = []
        for part in parts:
            finite = part[np.isfinite(part)]
            if len(finite):
                ends += [float(end) for end in np.quantile(finite, [0.001, 0.999])]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        return low, max(high, low + 1e-6)
