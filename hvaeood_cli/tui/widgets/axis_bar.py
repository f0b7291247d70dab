"""What is plotted: the quantity, the k, the scale; and what the colours mean."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from hvaeood_cli.tui.run import Quantity
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.chips import Chip, Chips


class AxisBar(Horizontal):
    """Chips on the left, a legend on the right where there is room."""

    DEFAULT_CSS = "AxisBar { height: 1; }"

    def compose(self) -> ComposeResult:
        yield Chips(id="axes")
        yield Static(id="legend")

    def show(self, snapshot: Snapshot) -> None:
        run, view = snapshot.run, snapshot.view
        here = view.axis
        quantities = [
            Chip(q, f"screen.axis('{q.name}', {here.k})", q is here.quantity)
            for q in run.quantities
        ]
        ks = []
        for axis in run.axes(here.quantity):
            all_k = axis.k == 0 and axis.quantity in (Quantity.LLR, Quantity.P)
            action = f"screen.axis('{axis.quantity.name}', {axis.k})"
            ks.append(Chip("all" if all_k else str(axis.k), action, axis == here))
        scale = [Chip("log" if view.log else "linear", "screen.log")]
        self.query_one(Chips).show(("m", quantities), ("k", ks), ("l", scale))
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
        """Whether the legend's width changes: a layout costs more than the rest of a step."""
        changed, self._label = label != self._label, label
        return changed
