"""A batch on one axis, beside the calibration, with the threshold as a line to move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from textual import events
from textual.message import Message
from textual_plot import HiResMode, PlotWidget
from textual_plot.axis_formatter import NumericAxisFormatter

from hvaeood_cli.tui.histogram import Histogram


class _Powers(NumericAxisFormatter):
    """Ticks of log10(1 + count): 0, 1, 10, 100 ..."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        powers = [0.0, *(float(np.log10(1 + 10.0**i)) for i in range(10))]
        return [tick for tick in powers if tick <= max_]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        return [_short(10**tick - 1) for tick in ticks]


class _Counts(NumericAxisFormatter):
    """Ticks of counts: few, and short."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        return super().get_ticks(min_, max_, 4)

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        return [_short(tick) for tick in ticks]


class Distribution(PlotWidget, can_focus=False):
    """Given histograms; says where it was clicked."""

    PARTS: ClassVar = ("here", "flagged", "usual", "line")
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"distribution--{part}" for part in PARTS}
    DEFAULT_CSS = """
    Distribution {
        & > .plot--axis { color: $foreground 25%; }
        & > .plot--tick { color: $text-muted; text-style: none; }
        & > .plot--label { color: $text-muted; text-style: none; }
        & > .distribution--here { color: $primary; }
        & > .distribution--flagged { color: $error; }
        & > .distribution--usual { color: $foreground; }
        & > .distribution--line { color: $warning; text-style: bold; }
    }
    """

    class Pointed(Message):
        """A place on the axis was clicked, or the line dragged to it."""

        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

    class Nudged(Message):
        """The wheel turned: steps stricter, or looser."""

        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

    def __init__(self, **options: str) -> None:
        super().__init__(allow_pan_and_zoom=False, **options)  # type: ignore[arg-type]
        self.set_reactive(PlotWidget.margin_top, 0)
        self.set_reactive(PlotWidget.margin_bottom, 1)
        self.set_reactive(PlotWidget.margin_left, 7)
        self._shown: tuple[Histogram, float | None, bool, NDArray[np.float64] | None] | None = None

    @property
    def n_bins(self) -> int:
        """One a column of the plot."""
        return max(10, min(self.size.width - self.margin_left - 2, 400))

    def show(
        self,
        histogram: Histogram,
        line: float | None,
        log: bool,
        other: NDArray[np.float64] | None = None,
    ) -> None:
        """line: the threshold. log: counts on a logarithmic axis. other: counts to lay over it."""
        self._shown = (histogram, line, log, other)
        self._draw()

    def notify_style_update(self) -> None:
        """A theme's colours are in the drawing."""
        self._draw()
        super().notify_style_update()

    def _draw(self) -> None:
        if self._shown is None or not self.is_mounted:
            return
        histogram, line, log, other = self._shown
        colour = {
            part: str(self.get_component_rich_style(f"distribution--{part}")) for part in self.PARTS
        }
        self.clear()
        self.set_y_formatter(_Powers() if log else _Counts())
        centres, width = histogram.centres, float(histogram.edges[1] - histogram.edges[0])
        for part, counts in (("here", histogram.here), ("flagged", histogram.flagged)):
            there = counts > 0
            if there.any():
                x, y = centres[there], _height(counts[there], log)
                self.bar(x, y, width * 0.98, colour[part], HiResMode.HALFBLOCK)
        for line_counts in (histogram.usual, other):
            if line_counts is not None:
                self.plot(centres, _height(line_counts, log), colour["usual"], HiResMode.BRAILLE)
        low, high = float(histogram.edges[0]), float(histogram.edges[-1])
        if line is not None:
            self.add_v_line(min(max(line, low), high), colour["line"])
        self.set_xlimits(low, high)
        tops = [histogram.here, histogram.usual, other]
        top = max(float(counts.max()) for counts in tops if counts is not None)
        self.set_ylimits(0.0, 1.05 * float(_height(np.array([max(top, 1.0)]), log)[0]))

    # -- the mouse ----------------------------------------------------------------------------

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._point(event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if event.button == 1:
            self._point(event)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.post_message(self.Nudged(1))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.post_message(self.Nudged(-1))

    def _point(self, event: events.MouseEvent) -> None:
        event.stop()
        x = event.screen_x - self.region.x - self.margin_left
        inside = self._scale_rectangle.width
        if self._shown is not None and 0 <= x <= inside + 1:
            low, high = self._shown[0].edges[[0, -1]]
            self.post_message(self.Pointed(float(low + (high - low) * (x - 0.5) / inside)))


def _height(counts: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """Of a bar; no image is at 0 on either scale."""
    return np.log10(1.0 + counts) if log else counts.astype(np.float64)


def _short(count: float) -> str:
    count = round(count)
    if count >= 1_000_000:
        return f"{count / 1_000_000:g}M"
    return f"{count / 1000:g}k" if count >= 1000 else str(count)
