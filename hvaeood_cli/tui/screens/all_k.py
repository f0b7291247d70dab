"""The distributions of every k, side by side."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Vertical
from textual.content import Content
from textual.widgets import Footer, Static

from hvaeood_cli.tui.histogram import Binning, Histogram
from hvaeood_cli.tui.run import Axis
from hvaeood_cli.tui.screens.judging import SnapshotScreen
from hvaeood_cli.tui.threshold import line_on
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.distribution import Distribution


class AllKScreen(SnapshotScreen):
    """One plot for each k of the measure; flagged images are red in each."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,a", "app.pop_screen", "Back", key_display="esc"),
    ]

    def compose(self) -> ComposeResult:
        run, measure = self.snapshot.run, self.snapshot.view.axis.measure
        yield Static(
            Content.assemble(
                (run.title, "bold"),
                (f"  {run.heading(measure)} at every k: ", "$text-muted"),
                ("█ here", "$primary"),
                ("  █ flagged", "$error"),
                "  ─ calibration" if run.calibration else "",
            ),
            id="place",
        )
        with Grid(id="plots"):
            for axis in run.axes(measure):
                with Vertical():
                    yield Static(Content(f"{run.label(axis)}  {axis.unit}"), classes="caption")
                    yield Distribution(id=f"k-{axis.k}")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.show(self.snapshot)

    def on_resize(self) -> None:
        self.query_one("#plots", Grid).styles.grid_size_columns = self._n_columns()

    def show(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        run, view = snapshot.run, snapshot.view
        for plot in self.query(Distribution):
            axis = Axis(view.axis.measure, int((plot.id or "k-0").removeprefix("k-")))

            def count(n_bins: int, axis: Axis = axis) -> Histogram:
                binning = Binning(run, axis, run.shown_range(axis), n_bins)
                return binning.count(snapshot.flags.flagged)

            plot.show(count, line_on(run, snapshot.flags, axis), view.log)

    def _n_columns(self) -> int:
        """How many plots stand side by side, so that each has at least 36 characters."""
        return max(1, min(len(self.query(Distribution)), self.size.width // 36))
