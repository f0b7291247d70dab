"""One image beside its reconstructions from each k."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Footer, Static

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.look import Look, to_pixels
from hvaeood_cli.text import printable
from hvaeood_cli.tui.messages import Show
from hvaeood_cli.tui.screens.judging import JudgingScreen
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.detail import Detail, MarkChips
from hvaeood_cli.tui.widgets.layer import key_to, under_map
from hvaeood_cli.tui.widgets.picture import ImageWidget, Picture, PictureRow

STEP = Binding.Group("Other image", compact=True)


class LookScreen(JudgingScreen):
    """Shows one row of a snapshot; its pictures appear when they are ready."""

    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-high")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,up,h,k", "step(-1)", "Previous", key_display="←", group=STEP),
        Binding("right,down,l,j", "step(1)", "Next", key_display="→", group=STEP),
        Binding("d", "differences", "Differences"),
        Binding("escape,enter,q", "app.pop_screen", "Back", key_display="esc"),
    ]

    def __init__(
        self, snapshot: Snapshot, row: int, image_widget: ImageWidget | None, no_model: str
    ) -> None:
        """no_model: why there are no reconstructions; empty if there are."""
        super().__init__(snapshot)
        self._row = row
        self._place = 0  # of the row in the list, or where it was before it left the list
        self._image_widget = image_widget
        self._no_model = no_model
        self._look: Look | None = None  # of the row, once it has arrived

    @property
    def row(self) -> int:
        return self._row

    def compose(self) -> ComposeResult:
        n_layers = 0 if self._no_model else self.snapshot.run.n_layers
        yield Static(id="place")
        with PictureRow(id="pictures"):
            yield Picture("image", self._image_widget, id="image")
            for k in range(n_layers):
                yield Picture(f"k = {k}", self._image_widget, id=f"from-{k}")
        with PictureRow(id="differences"):
            yield Picture("as scored", self._image_widget, id="observed")
            for k in range(n_layers):
                yield Picture(f"difference, k = {k}", self._image_widget, id=f"difference-{k}")
        yield Static(id="layer")
        yield Static(id="remark")
        yield MarkChips()
        yield Detail()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._want()

    def show(self, snapshot: Snapshot) -> None:
        before, self.snapshot = self.snapshot.view.layer, snapshot
        self._describe()
        if snapshot.view.layer != before:
            self._show_image()

    def show_look(self, row: int, look: Look | HvaeoodError) -> None:
        """Show a look that has arrived; drop it if the screen shows another row by now."""
        if row != self._row:
            return
        if isinstance(look, HvaeoodError):
            self._clear(printable(f"{look.message}. {look.hint}" if look.hint else look.message))
            return
        remark = self._no_model
        if look.changed:
            remark = "this is another image now than the one that was scored: hvaeood score again"
        self._remark(remark)
        self._look = look
        self._show_image()
        if self._no_model:
            return
        self.query_one("#observed", Picture).show(to_pixels(look.observed))
        for k, mean in enumerate(look.from_k):
            self.query_one(f"#from-{k}", Picture).show(to_pixels(mean))
            difference = to_pixels(np.abs(look.observed - mean))
            self.query_one(f"#difference-{k}", Picture).show(difference)

    def _show_image(self) -> None:
        """The image, below the map that the view asks for."""
        look, k = self._look, self.snapshot.view.layer
        picture, words = self.query_one("#image", Picture), self.query_one("#layer", Static)
        maps = look.maps if look and k else None
        picture.caption("image" if maps is None else f"map of k = {k}")
        words.display = maps is not None
        if look is not None:
            picture.show(under_map(look, k))
        if maps is not None:
            words.update(key_to(maps, k))

    # -- what the user does -------------------------------------------------------------------

    def go_to(self, row: int) -> None:
        if row != self._row:
            self._row = row
            self._want()

    def action_step(self, step: int) -> None:
        rows = self.snapshot.rows
        here = self._place_of_row()
        if here is None:  # it has left the list, and the next one has moved up to its place
            here = self._place - (step > 0)
        place = here + step
        if 0 <= place < len(rows):
            self.go_to(int(rows[place]))

    def action_differences(self) -> None:
        self.toggle_class("-differences")

    # -- parts --------------------------------------------------------------------------------

    def _place_of_row(self) -> int | None:
        places = np.flatnonzero(self.snapshot.rows == self._row)
        return int(places[0]) if len(places) else None

    def _want(self) -> None:
        self._look = None
        self._describe()
        self._clear("")
        self.query_one("#image", Picture).say("…")
        self.post_message(Show(self._row))

    def _describe(self) -> None:
        here = self._place_of_row()
        place = "not in the list"
        if here is not None:
            self._place = here
            place = f"{here + 1:,} of {len(self.snapshot.rows):,}"
        name = printable(bytes(self.snapshot.run.scores.names[self._row]))
        self.query_one("#place", Static).update(
            Content.assemble((f"{place}  ", "$text-muted"), (name, "bold"))
        )
        self.query_one(Detail).show(self.snapshot, self._row, wide=True)
        self.query_one(MarkChips).show_marks(self.snapshot, self._row, wide=True)

    def _clear(self, remark: str) -> None:
        self._show_image()
        for picture in self.query(Picture):
            picture.say("")
        self._remark(remark)

    def _remark(self, text: str) -> None:
        remark = self.query_one("#remark", Static)
        remark.update(Content(text))
        remark.display = bool(text)
