"""A table of any length that draws only the lines in sight."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hvaeood_cli.text import shorten


class TableColumn(NamedTuple):
    """A column. key: of the message when its head is clicked. width: 0 takes what others leave."""

    key: Hashable
    title: str
    width: int
    right: bool = True
    from_width: int = 0  # the column is left out where the table is narrower


Cell = tuple[str, str]  # text that is safe to show, and "", "flagged", "strong", "muted", "mark"
CellOf = Callable[[int, Hashable], Cell]


class VirtualTable(ScrollView, can_focus=True, inherit_bindings=False):
    """A table whose rows are numbers. The text of a cell is asked for when it is drawn."""

    STYLES: ClassVar = ("head", "cursor", "flagged", "strong", "muted", "mark", "sorted")
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"table--{name}" for name in STYLES}
    DEFAULT_CSS = """
    VirtualTable {
        overflow-x: hidden;
        & > .table--head { color: $text-muted; }
        & > .table--sorted { color: $text-primary; text-style: bold; }
        & > .table--cursor { background: $primary-muted; }
        & > .table--flagged { color: $text-error; text-style: bold; }
        & > .table--strong { color: $text-warning; }
        & > .table--muted { color: $text-muted; }
        & > .table--mark { color: $text-accent; text-style: bold; }
        &:focus > .table--cursor { background: $primary; color: $text; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Look"),
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-2147483648)", show=False),
        Binding("end", "move(2147483648)", show=False),
    ]

    class Moved(Message):
        """The cursor moved to another row."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    class Opened(Moved):
        """The user opened a row."""

    class SortAsked(Message):
        """The user clicked a column's head."""

        def __init__(self, key: Hashable) -> None:
            super().__init__()
            self.key = key

    def __init__(self, empty: str, **options: str) -> None:
        """empty: the text where there are no rows, which says how to get some."""
        super().__init__(**options)  # type: ignore[arg-type]
        self._empty = empty
        self._columns: Sequence[TableColumn] = ()
        self._rows: NDArray[np.int32] = np.empty(0, np.int32)
        self._cell: CellOf = lambda row, key: ("", "")
        self._sorted: tuple[Hashable, bool] = ("", True)
        self.cursor = 0  # a place in the table, not a row
        self._last: int | None = None  # the row that the last `Moved` told of

    @property
    def row(self) -> int | None:
        """The row under the cursor."""
        return int(self._rows[self.cursor]) if self.cursor < len(self._rows) else None

    def show(
        self,
        columns: Sequence[TableColumn],
        rows: NDArray[np.int32],
        cell: CellOf,
        by: tuple[Hashable, bool],
    ) -> None:
        """Show rows in this order. by: the column that sorts them, and whether downwards.

        The cursor stays on its row where a filter or a threshold leaves it in the table; sorting
        starts at the top.
        """
        kept = self.row
        fresh = by != self._sorted
        if rows is not self._rows and not fresh and kept is not None:
            places = np.flatnonzero(rows == kept)
            self.cursor = int(places[0]) if len(places) else min(self.cursor, len(rows) - 1)
        if fresh:
            self.cursor = 0
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self._columns, self._rows, self._cell, self._sorted = columns, rows, cell, by
        size = Size(self.size.width, len(rows) + 1)
        if size != self.virtual_size:
            self.virtual_size = size
        self._follow()
        self.refresh()
        self._say()

    def start_over(self) -> None:
        """Forget the rows, since the next ones are of another file: the cursor goes to the top."""
        self.cursor, self._last = 0, None
        self._rows = np.empty(0, np.int32)

    # -- moving -------------------------------------------------------------------------------

    def go_to(self, row: int) -> None:
        """Move the cursor to a row; it stays where the table does not list it."""
        places = np.flatnonzero(self._rows == row)
        if len(places):
            self.action_move(int(places[0]) - self.cursor)

    def action_move(self, lines: int) -> None:
        self.cursor = max(0, min(self.cursor + lines, len(self._rows) - 1))
        self._follow()
        self.refresh()
        self._say()

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self.size.height - 2))

    def action_open(self) -> None:
        if self.row is not None:
            self.post_message(self.Opened(self.row))

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            place = 0
            for column, width in self._laid_out():
                if place <= event.x < place + width:
                    self.post_message(self.SortAsked(column.key))
                place += width + 1
            return
        index = int(self.scroll_offset.y) + event.y - 1
        if index < len(self._rows):
            self.action_move(index - self.cursor)
            if event.chain == 2:
                self.action_open()

    def on_resize(self) -> None:
        self._follow()

    def _say(self) -> None:
        if self.row is not None and self.row != self._last:
            self._last = self.row
            self.post_message(self.Moved(self.row))

    def _follow(self) -> None:
        """Scroll so that the cursor is in sight; the head hides one line."""
        if self.size.height > 1:
            line = Region(0, self.cursor + 1, 1, 1)
            top, height = int(self.scroll_offset.y), self.size.height
            if line.y <= top:
                self.scroll_to(y=line.y - 1, animate=False, immediate=True, force=True)
            elif line.y >= top + height:
                self.scroll_to(y=line.y - height + 1, animate=False, immediate=True, force=True)

    # -- drawing ------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        styles = {name: self.get_component_rich_style(f"table--{name}") for name in self.STYLES}
        width = self.size.width
        if y == 0:
            return self._head(styles, base).extend_cell_length(width, base).crop(0, width)
        index = int(self.scroll_offset.y) + y - 1
        if index >= len(self._rows):
            text = self._empty if y == 2 and not len(self._rows) else ""
            return Strip([Segment(set_cell_size(f" {text}", width), base + styles["muted"])])
        here = index == self.cursor
        row = int(self._rows[index])
        segments = []
        for column, room in self._laid_out():
            text, name = self._cell(row, column.key)
            look = base + styles[name] if name else base
            if here:
                look += styles["cursor"]
            segments.append(Segment(_fit(text, room, column.right) + " ", look))
        line = Strip(segments)
        end = base + styles["cursor"] if here else base
        return line.extend_cell_length(width, end).crop(0, width)

    def _head(self, styles: dict[str, Style], base: Style) -> Strip:
        segments = []
        key, descending = self._sorted
        for column, room in self._laid_out():
            title = column.title
            look = styles["head"]
            if column.key == key:
                title += "▾" if descending else "▴"
                look = styles["sorted"]
            segments.append(Segment(_fit(title, room, column.right) + " ", base + look))
        return Strip(segments)

    def _laid_out(self) -> list[tuple[TableColumn, int]]:
        """The columns that there is room for, each with its width."""
        width = self.size.width
        shown = [column for column in self._columns if width >= column.from_width]
        left = width - sum(column.width + 1 for column in shown)
        return [(column, column.width or max(8, left)) for column in shown]


def _fit(text: str, width: int, right: bool) -> str:
    """The text in exactly `width` cells; a longer one loses its middle."""
    if cell_len(text) > width:
        text = shorten(text, width)
    if right:
        text = " " * (width - cell_len(text)) + text
    return set_cell_size(text, width)
