"""The plot of a batch on one axis, with the calibration, and the threshold as a line to move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from textual import events
from textual.message import Message
from textual_plot import PlotWidget
from textual_plot.axis_formatter import NumericAxisFormatter

from hvaeood_cli.tui.histogram import Histogram
from hvaeood_cli.tui.widgets.bars import Bars


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
    """Draws histograms, and posts where the user clicked."""

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
        """The user clicked a place on the axis, or dragged the line to it."""

        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

    class Nudged(Message):
        """The user turned the wheel: positive steps are stricter, negative ones looser."""

        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

    def __init__(self, **options: str) -> None:
        super().__init__(allow_pan_and_zoom=False, **options)  # type: ignore[arg-type]
        self.set_reactive(PlotWidget.margin_top, 0)
        self.set_reactive(PlotWidget.margin_bottom, 1)
        self.set_reactive(PlotWidget.margin_left, 7)
        self._shown: tuple[Callable[[int], Histogram], float | None, bool] | None = None
        self._span = (0.0, 1.0)

    def show(self, count: Callable[[int], Histogram], line: float | None, log: bool) -> None:
        """Draw a histogram.

        count: makes it with so many bins. line: the threshold on the axis, or None. log: draw
        the counts, not the axis, on a logarithmic scale.
        """
        self._shown = (count, line, log)
        self._draw()

    def notify_style_update(self) -> None:
        """Draw again, since the theme's colours are part of the drawing."""
        super().notify_style_update()
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    @property
    def _inside(self) -> tuple[int, int]:
        """Columns and rows between the axes. Each column is a bin."""
        width = self.size.width - self.margin_left - 2
        return width, self.size.height - self.margin_top - self.margin_bottom - 2

    def _draw(self) -> None:
        n_bins, rows = self._inside
        if self._shown is None or n_bins < 1 or rows < 1:
            return
        count, line, log = self._shown
        histogram = count(n_bins)
        colour = {
            part: _hex(self.get_component_rich_style(f"distribution--{part}"))
            for part in self.PARTS
        }
        tops = [histogram.here] if histogram.usual is None else [histogram.here, histogram.usual]
        top = max(float(counts.max()) for counts in tops)
        top = 1.05 * float(_height(np.array([max(top, 1.0)]), log)[0])
        self.clear()
        self.set_y_formatter(_Powers() if log else _Counts())
        low, high = float(histogram.edges[0]), float(histogram.edges[-1])
        self._span = (low, high)
        self.set_xlimits(low, high)
        self.set_ylimits(0.0, top)

        def eighths(counts: NDArray[Any]) -> NDArray[np.int64]:
            full = np.rint(_height(counts, log) / top * rows * 8).astype(np.int64)
            return np.where(counts > 0, np.maximum(full, 1), 0)

        bars = Bars(rows, eighths(histogram.here), eighths(histogram.flagged))
        caps = None if histogram.usual is None else eighths(histogram.usual)
        for (glyph, ink, paper), cells in bars.cells(caps).items():
            style = f"{colour.get(ink, '')} on {colour[paper]}" if paper else colour[ink]
            columns, levels = zip(*cells, strict=True)
            y = (np.array(levels) + 0.5) / rows * top
            self.scatter(histogram.centres[list(columns)], y, glyph, style.strip())
        if line is not None:
            self.add_v_line(min(max(line, low), high), colour["line"])

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
        n_bins, _ = self._inside
        if self._shown is not None and 0 <= x <= n_bins + 1:
            low, high = self._span
            self.post_message(self.Pointed(low + (high - low) * (x - 0.5) / n_bins))


def _height(counts: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """The heights of bars. A count of 0 has height 0 on either scale."""
    return np.log10(1.0 + counts) if log else counts.astype(np.float64)


def _hex(style: Style) -> str:
    """The colour of a style, by the name that the plot takes."""
    return style.color.name if style.color else "default"


def _short(count: float) -> str:
    count = round(count)
    if count >= 1_000_000:
        return f"{count / 1_000_000:g}M"
    return f"{count / 1000:g}k" if count >= 1000 else str(count)
