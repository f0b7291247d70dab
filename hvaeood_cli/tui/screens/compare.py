"""Compares two score files: their distributions in one plot, and the images they share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import numpy as np
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from hvaeood_cli.text import printable
from hvaeood_cli.tui.histogram import Binning, Histogram
from hvaeood_cli.tui.joint import COLUMNS, Joint, join
from hvaeood_cli.tui.messages import Open
from hvaeood_cli.tui.run import COMBINED, Axis, P
from hvaeood_cli.tui.threshold import line_on
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.distribution import Distribution
from hvaeood_cli.tui.widgets.virtual_table import Cell, TableColumn, VirtualTable


class CompareScreen(Screen[None]):
    """Draws two snapshots, the first as bars and the second as a line.

    at: the one, 0 or 1, whose image opens when the user chooses a row.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right_square_bracket", "step_k(1)", "Next k", key_display="]"),
        Binding("left_square_bracket", "step_k(-1)", "Previous k", show=False),
        Binding("m", "next_measure", "Measure"),
        Binding("L", "log", "Log counts"),
        Binding("s", "next_column", "Sort"),
        Binding("S", "reverse", "Reverse", show=False),
        Binding("escape,q,c", "app.pop_screen", "Back", key_display="esc"),
    ]

    def __init__(self, first: Snapshot, second: Snapshot, at: int) -> None:
        super().__init__()
        self._two = (first, second)
        self._at = at
        self._axis = self._near(first.view.axis.measure, first.view.axis.k)
        self._log = first.view.log
        self._by = ("difference", True)
        self._joint: Joint = join(first.run, second.run, (first.flags, second.flags))

    def compose(self) -> ComposeResult:
        yield Static(id="place")
        yield Distribution()
        yield Static(id="agreement")
        yield VirtualTable("no image occurs in both files", id="images")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(VirtualTable).focus()
        self._show()

    def _show(self) -> None:
        counts = ", ".join(f"{name} {n:,}" for name, n in self._joint.counts().items())
        n = len(self._joint)
        said = f"{n:,} images in both files. Flagged by {counts}" if n else "no image in both files"
        self.query_one("#agreement", Static).update(Content(said))
        self._plot()
        self._tabulate()

    def _plot(self) -> None:
        first, second = self._two
        plot, axis = self.query_one(Distribution), self._axis
        plot.display = axis is not None
        if axis is None:
            self._place("")
            return
        spans = [snapshot.run.shown_range(axis) for snapshot in self._two]
        span = (min(span[0] for span in spans), max(span[1] for span in spans))
        scale = first.run.n_scored / max(second.run.n_scored, 1)

        def count(n_bins: int) -> Histogram:
            """The histogram of the first file, with the second in the calibration's place."""
            bars, line = (
                Binning(snapshot.run, axis, span, n_bins).count(snapshot.flags.flagged)
                for snapshot in self._two
            )
            return bars._replace(usual=line.here.astype(np.float64) * scale)

        plot.show(count, line_on(first.run, first.flags, axis), self._log)
        self._place(first.run.label(axis))

    def _place(self, label: str) -> None:
        """Say which files there are and what is plotted of them: nothing where `label` is empty."""
        first, second = self._two
        bars = ("█ ", "$primary"), f"{_named(first)}   ─ {_named(second)}"
        nothing = "two models, not both calibrated: only places in the rankings compare. "
        said = (
            ((f"{label}  ", "bold"), *bars, ("  scaled to as many", "$text-muted"))
            if label
            else ((nothing, "$text-warning"), f"{_named(first)}, {_named(second)}")
        )
        self.query_one("#place", Static).update(Content.assemble(*said))

    def _tabulate(self) -> None:
        rank = "p" if self._joint.are_p else "place"
        titles = (f"{rank}, first", f"{rank}, second", "difference", "flagged", "image")
        table_columns = [
            TableColumn(key, title, width, right=key not in ("flagged", "path"))
            for key, title, width in zip(COLUMNS, titles, (14, 14, 16, 8, 0), strict=True)
        ]
        order = self._joint.order(*self._by).astype("int32")
        self.query_one(VirtualTable).show(table_columns, order, self._cell, self._by)

    def _cell(self, i: int, key: Hashable) -> Cell:
        joint = self._joint
        if key == "path":
            row = joint.rows[i, 0]
            return printable(bytes(self._two[0].run.scores.names[row])), ""
        if key == "flagged":
            first, second = joint.flagged[i]
            words = {(True, True): "both", (True, False): "first", (False, True): "second"}
            return words.get((bool(first), bool(second)), ""), "flagged"
        if key == "difference":
            unit = " decades" if joint.are_p else " places"
            digits = 1 if joint.are_p else 0
            return f"{joint.difference[i]:+,.{digits}f}{unit}", "strong"
        value = joint.values[i, COLUMNS.index(str(key))]
        return (f"{value:.2g}" if joint.are_p else f"{value:,.0f}"), ""

    # -- what the user does -------------------------------------------------------------------

    @on(VirtualTable.Opened)
    def opened(self, event: VirtualTable.Opened) -> None:
        self.post_message(Open(int(self._joint.rows[event.row, self._at])))

    @on(VirtualTable.SortAsked)
    def sort_asked(self, event: VirtualTable.SortAsked) -> None:
        key, descending = str(event.key), self._by[1]
        self._by = (key, not descending if key == self._by[0] else self._telling(key))
        self._tabulate()

    def action_next_column(self) -> None:
        following = COLUMNS[(COLUMNS.index(self._by[0]) + 1) % len(COLUMNS)]
        self._by = (following, self._telling(following))
        self._tabulate()

    def _telling(self, key: str) -> bool:
        """Whether the odd end of a column is its upper one."""
        return key not in ("path", "first", "second")

    def action_reverse(self) -> None:
        self._by = (self._by[0], not self._by[1])
        self._tabulate()

    def action_step_k(self, step: int) -> None:
        if self._axis is not None:
            axes = self._axes(self._axis.measure)
            self._axis = axes[(axes.index(self._axis) + step) % len(axes)]
            self._plot()

    def action_next_measure(self) -> None:
        if self._axis is not None:
            measures = self._measures()
            following = measures[(measures.index(self._axis.measure) + 1) % len(measures)]
            self._axis = self._near(following, self._axis.k)
            self._plot()

    def _near(self, measure: str, k: int) -> Axis | None:
        """A measure at k, or the nearest thing that can be compared; None where nothing can."""
        measures = self._measures()
        if not measures:
            return None
        axes = self._axes(measure if measure in measures else measures[0])
        return next((axis for axis in axes if axis.k == k), axes[0])

    def _measures(self) -> list[str]:
        """The measures that both runs have, and by which they can be compared."""
        first, second = (snapshot.run for snapshot in self._two)
        both = [measure for measure in first.measures if measure in second.measures]
        return [measure for measure in both if self._axes(measure)]

    def _axes(self, measure: str) -> list[Axis]:
        """The axes of a measure on which the numbers of both runs mean the same.

        p always does, scores do if one model made them, combined scores if one calibration did.
        """
        runs = [snapshot.run for snapshot in self._two]
        axes = min(runs, key=lambda run: run.n_layers).axes(measure)
        if measure == P:
            return axes
        first, second = runs
        if first.scores.header.model_sha256 != second.scores.header.model_sha256:
            return []
        one, other = first.calibration, second.calibration
        comparable = one is not None and other is not None and one.id == other.id
        return [axis for axis in axes if comparable or axis != COMBINED]

    def action_log(self) -> None:
        self._log = not self._log
        self._plot()


def _named(snapshot: Snapshot) -> str:
    return f"{snapshot.run.title} ({snapshot.run.n_scored:,})"
