"""A gallery of any length: only the pictures in sight are asked for and drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from hvaeood_cli.tui.widgets.picture import ImageWidget, Picture

_WIDTH, _HEIGHT = 18, 9  # cells of a thumbnail with its caption and what stands around it

CaptionOf = Callable[[int], Content]


class Thumb(Picture):
    """A small picture with its caption below. It is given one row after another to show."""

    DEFAULT_CSS = """
    Thumb {
        width: 18;
        height: 9;
        padding: 0 1;
        & > .caption { dock: bottom; color: $text; }
        & > .words { height: 8; content-align: center middle; }
        &.-chosen { background: $primary; }
    }
    """

    row: int | None = None
    _said = Content("")

    def show_row(self, row: int | None, caption: Content, chosen: bool) -> bool:
        """Stand for a row, or for none. Returns whether its picture is not shown yet."""
        self.set_class(chosen, "-chosen")
        if chosen:  # what is red elsewhere could not be read on the cursor's colour
            caption = Content(caption.plain).stylize("bold")
        if not caption.is_same(self._said):
            self._said = caption
            self.query_one(".caption", Static).update(caption, layout=False)
        if row == self.row:
            return False
        self.row = row
        self.say("" if row is None else "…")
        return row is not None


class Gallery(Container, can_focus=True, inherit_bindings=False):
    """Pictures of the rows of a list, line by line. It has as many pictures as there is room for.

    The cursor is the owner's, so that a table may share it.
    """

    DEFAULT_CSS = """
    Gallery {
        layout: grid;
        grid-columns: 18;
        grid-rows: 9;
        overflow: hidden;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Look"),
        Binding("left,h", "move(-1, 0)", show=False),
        Binding("right,l", "move(1, 0)", show=False),
        Binding("up,k", "move(0, -1)", show=False),
        Binding("down,j", "move(0, 1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "end(-1)", show=False),
        Binding("end", "end(1)", show=False),
    ]

    class Opened(Message):
        """The user opened a row."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    class Wanted(Message):
        """The pictures of these rows are in sight, and not shown yet."""

        def __init__(self, rows: list[int]) -> None:
            super().__init__()
            self.rows = rows

    def __init__(
        self,
        empty: str,
        image_widget: ImageWidget | None,
        move: Callable[[int], int],
        **options: str,
    ) -> None:
        """empty: the text where there are no rows. move: moves the cursor; returns its place."""
        super().__init__(**options)  # type: ignore[arg-type]
        self._empty = empty
        self._move = move
        self._image_widget = image_widget
        self._rows: NDArray[np.int32] = np.empty(0, np.int32)
        self._caption: CaptionOf = lambda row: Content("")
        self._cursor = 0
        self._top = 0  # the line of the list that is the first in sight
        self._columns = self._lines = 1

    def compose(self) -> ComposeResult:
        yield Static(Content(self._empty), classes="empty")

    def show(self, rows: NDArray[np.int32], cursor: int, caption: CaptionOf) -> None:
        """Show rows in this order. caption: makes a row's caption."""
        self._rows, self._cursor, self._caption = rows, cursor, caption
        self._fill()

    def forget(self) -> None:
        """Ask for every picture again, since the rows are of another file."""
        for thumb in self.query(Thumb):
            thumb.row = None

    def show_image(self, row: int, image: NDArray[np.uint8] | str) -> None:
        """Show a picture that has come, or the words for one that cannot come."""
        for thumb in self.query(Thumb):
            if thumb.row == row:
                thumb.say(image) if isinstance(image, str) else thumb.show(image)

    # -- moving -------------------------------------------------------------------------------

    def action_move(self, right: int, down: int) -> None:
        """Go along the list, or to another line. A last line that is short takes what comes."""
        place = self._cursor + right + down * self._columns
        last = len(self._rows) - 1
        if down > 0 and place > last and last // self._columns > self._cursor // self._columns:
            place = last
        if 0 <= place <= last:
            self._go_to(place)

    def action_page(self, pages: int) -> None:
        here = self._cursor % self._columns
        place = self._cursor + pages * self._lines * self._columns
        last_line = (len(self._rows) - 1) // self._columns * self._columns
        if len(self._rows):
            self._go_to(min(max(place, here), last_line + here, len(self._rows) - 1))

    def action_end(self, end: int) -> None:
        if len(self._rows):
            self._go_to(0 if end < 0 else len(self._rows) - 1)

    def action_open(self) -> None:
        if self._cursor < len(self._rows):
            self.post_message(self.Opened(int(self._rows[self._cursor])))

    def on_click(self, event: events.Click) -> None:
        widget: Widget | None = event.widget
        while widget is not None and not isinstance(widget, Thumb):
            widget = widget.parent if isinstance(widget.parent, Widget) else None
        if widget is not None and widget.row is not None:
            self._go_to(int(np.flatnonzero(self._rows == widget.row)[0]))
            if event.chain == 2:
                self.post_message(self.Opened(widget.row))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(0, 1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(0, -1)

    def _go_to(self, place: int) -> None:
        self._cursor = self._move(place - self._cursor)
        self._fill()

    # -- drawing ------------------------------------------------------------------------------

    async def on_resize(self) -> None:
        """Have as many pictures as there is room for."""
        width, height = self.size
        self._columns, self._lines = max(1, width // _WIDTH), max(1, height // _HEIGHT)
        self.styles.grid_size_columns = self._columns
        thumbs = list(self.query(Thumb))
        missing = self._columns * self._lines - len(thumbs) if width and height else 0
        if missing > 0:
            await self.mount_all(Thumb("", self._image_widget) for _ in range(missing))
        elif missing < 0:
            await self.remove_children(thumbs[missing:])
        self._fill()

    def _fill(self) -> None:
        """Give each picture its row, and ask for those that are not shown yet."""
        thumbs = list(self.query(Thumb))
        if not thumbs or not all(thumb.is_mounted for thumb in thumbs):
            return
        line = self._cursor // self._columns
        self._top = min(max(self._top, line - self._lines + 1), line)
        first = self._top * self._columns
        self.query_one(".empty").display = not len(self._rows)
        wanted = []
        for place, thumb in enumerate(thumbs, start=first):
            row = int(self._rows[place]) if place < len(self._rows) else None
            caption = Content("") if row is None else self._caption(row)
            if thumb.show_row(row, caption, place == self._cursor and row is not None):
                wanted.append(row)
        if wanted:
            self.post_message(self.Wanted([row for row in wanted if row is not None]))
