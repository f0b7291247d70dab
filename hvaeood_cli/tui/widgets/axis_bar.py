"""The bar above the plot: its measure, k and scale, and what the colours mean."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.chips import Chip, Chips

_MOST = 8  # values of a measure that are shown: z_1 may have a hundred channels
_BEFORE = 3  # of them in front of the chosen one
# What the chips of a measure's values tell apart, where it is not k.
_NAMED = {"layer": "layer", "channel": "channel", "residual": "of"}


class AxisBar(Horizontal):
    """Chips on the left, and a legend on the right where there is room."""

    DEFAULT_CSS = "AxisBar { height: 1; }"

    def compose(self) -> ComposeResult:
        yield Chips(id="axes")
        yield Static(id="legend")

    def show(self, snapshot: Snapshot) -> None:
        run, view = snapshot.run, snapshot.view
        here = view.axis
        measures = [
            Chip(run.heading(name), f"screen.axis('{name}', {here.k})", name == here.measure)
            for name in run.measures
        ]
        ks = []
        for axis in run.axes(here.measure):
            action = f"screen.axis('{axis.measure}', {axis.k})"
            ks.append(Chip("all" if axis.is_combined else run.word(axis), action, axis == here))
        scale = [Chip("log" if view.log else "linear", "screen.log")]
        # What does not fit is cut off at the end, so the chosen one of many stands near the begin.
        chosen = next((i for i, chip in enumerate(ks) if chip.chosen), 0)
        ks = ks[max(0, chosen - _BEFORE) :][:_MOST]
        first = max(0, run.measures.index(here.measure) - 1)
        of = f"[ ] {_NAMED.get(run.each(here), 'k')}"
        self.query_one(Chips).show((of, ks), ("L", scale), ("m", measures[first:]))
        unit = f", {here.unit}" if here.unit else ""
        self.query_one("#legend", Static).update(
            Content.assemble(
                (f"{run.label(here)}{unit}  ", "bold"),
                ("█", "$primary"),
                " here  ",
                ("█", "$error"),
                " flagged",
                "  ─ calibration" if run.calibration else "",
            ),
            layout=self._widens(f"{run.label(here)}{unit}"),
        )

    _label = ""

    def _widens(self, label: str) -> bool:
        """Whether the legend's width changes. A new layout costs more than the rest of a step."""
        changed, self._label = label != self._label, label
        return changed
