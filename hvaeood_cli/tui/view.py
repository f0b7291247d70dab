"""From what the user asks for to one frozen snapshot, from which every widget is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.tui.run import COMBINED, Axis, Run
from hvaeood_cli.tui.threshold import (
    ByScore,
    Flags,
    Threshold,
    by_score,
    first_threshold,
    flag,
    of_kind,
    slot,
)

ALL, FLAGGED, UNREADABLE, JUDGED = SHOWN = ("all", "flagged", "unreadable", "judged")
MARK, PATH, K = "mark", "path", "k"  # columns to sort by that are not an axis

SortKey = Axis | str


@dataclass(frozen=True)
class Filter:
    """Which images the table lists. All conditions hold together."""

    shown: str = ALL  # of SHOWN
    k: int = 0  # only images where this k differs most; 0: any
    text: str = ""  # only images with this in their path

    def __bool__(self) -> bool:
        return self != Filter()


@dataclass(frozen=True)
class View:
    """What the user asks to see."""

    axis: Axis
    threshold: Threshold
    column: SortKey = COMBINED
    descending: bool = True
    filter: Filter = field(default_factory=Filter)
    log: bool = True  # whether counts are logarithmic, so that a few odd images are seen
    layer: int = 0  # the k whose map lies over the image; 0: none
    own: Mapping[str | Axis, Threshold] = field(default_factory=dict)
    """The thresholds that somebody chose, by their `slot`; the last one chosen is last."""

    @classmethod
    def first(cls, run: Run, threshold: Threshold | None = None) -> View:
        """threshold: to begin with; None: the file's."""
        of_file = first_threshold(run)
        view = cls(COMBINED, of_file).flagging(of_file)
        return view if threshold is None else view.flagging(threshold)

    def flagging(self, threshold: Threshold) -> View:
        """The view with a threshold that the user chose: moved, typed or pointed at."""
        others = {key: each for key, each in self.own.items() if key != slot(threshold)}
        return replace(self, threshold=threshold, own=others | {slot(threshold): threshold})

    def sorted_by(self, column: SortKey) -> View:
        """The view sorted by a column, its odd end first; by the same column again, reversed."""
        if column == self.column:
            return replace(self, descending=not self.descending)
        odd_end = column.higher_is_odder if isinstance(column, Axis) else column != PATH
        return replace(self, column=column, descending=odd_end)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One moment: everything on the screen follows from it."""

    run: Run
    view: View
    judgements: Judgements
    marks: NDArray[np.int8]  # (N,), as `Judgements.marks` gives them
    flags: Flags
    rows: NDArray[np.int32]  # the rows that the table lists, in its order

    def with_rule(self, kind: str) -> View:
        """The view with another kind of threshold: the one that was chosen, else one like it."""
        view = self.view
        chosen = view.own.get(view.axis if kind == "score" else kind)
        return replace(view, threshold=chosen or of_kind(self.run, self.flags, kind, view.axis))

    def with_axis(self, axis: Axis) -> View:
        """The view of another axis. A threshold by score becomes the one chosen there, or alike."""
        view = self.view
        threshold = view.threshold
        if isinstance(threshold, ByScore) and threshold.axis != axis:
            threshold = view.own.get(axis) or by_score(self.run, axis, self.flags.n_flagged)
        return replace(view, axis=axis, threshold=threshold)

    @property
    def n_shown(self) -> dict[str, int]:
        """How many images each filter of SHOWN lets through."""
        n = len(self.run)
        judged = int((self.marks > 0).sum())
        n_bad = int(self.run.scores.unreadable.sum())
        counts = (n, self.flags.n_flagged, n_bad, judged)
        return dict(zip(SHOWN, counts, strict=True))


def take(run: Run, view: View, judgements: Judgements, before: Snapshot | None = None) -> Snapshot:
    """Take the snapshot of a view. before: the last one, whose unchanged parts are used again."""
    same_run = before is not None and before.run is run
    if before is not None and same_run and before.judgements is judgements:
        marks = before.marks
    else:
        marks = judgements.marks(run.scores)
    if before is not None and same_run and before.view.threshold == view.threshold:
        flags = before.flags
    else:
        flags = flag(run, view.threshold)
    rows = _ordered(run, view, marks)
    kept = _kept(run, view.filter, marks, flags)
    if kept is not None:
        rows = rows[kept[rows]]
    return Snapshot(run, view, judgements, marks, flags, rows)


def columns(run: Run) -> list[SortKey]:
    """The columns by which the table can be sorted, from left to right."""
    by_k, single = listed_axes(run)
    return [MARK, COMBINED, *by_k, K, *single, PATH]


def listed_axes(run: Run) -> tuple[list[Axis], list[Axis]]:
    """The scores that lists show: those with a value for each k, then those with one."""
    by_k: list[Axis] = []
    single: list[Axis] = []
    for column in run.scores.scores:
        if column.listed:
            axes = [axis for axis in run.axes(column.name) if not axis.is_combined]
            (single if column.each == "image" else by_k).extend(axes)
    return by_k, single


def _ordered(run: Run, view: View, marks: NDArray[np.int8]) -> NDArray[np.int32]:
    """All rows, sorted; those without scores are last in either direction."""
    column = view.column
    if column == PATH:
        order = run.order_by_path
        return order[::-1] if view.descending else order
    if column == MARK:
        order = np.argsort(marks, kind="stable").astype(np.int32)
    elif isinstance(column, Axis):
        order = run.order(column)
    else:
        order = run.order_by_k
    if column == K:  # rows without scores have k = 0, and stand first
        n_bad = len(order) - run.n_scored
        order = np.concatenate([order[n_bad:], order[:n_bad]])
    if not view.descending:
        return order
    n = len(order) if column == MARK else run.n_scored
    return np.concatenate([order[:n][::-1], order[n:]])


def _kept(
    run: Run, wanted: Filter, marks: NDArray[np.int8], flags: Flags
) -> NDArray[np.bool_] | None:
    """Which rows a filter keeps, (N,); None for all."""
    if not wanted:
        return None
    kept = np.ones(len(run), np.bool_)
    if wanted.shown == FLAGGED:
        kept &= flags.flagged
    elif wanted.shown == UNREADABLE:
        kept &= run.scores.unreadable
    elif wanted.shown == JUDGED:
        kept &= marks > 0
    if wanted.k:
        kept &= run.k == wanted.k
    if wanted.text:
        kept &= run.containing(wanted.text)
    return kept
