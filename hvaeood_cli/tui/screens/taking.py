"""The dialog that writes a list: which one, in which form, under which name."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, RadioButton, RadioSet, Static

from hvaeood_cli.tui.messages import Write
from hvaeood_cli.tui.taking import FORMATS, LISTS

_ENDINGS = {"csv": ".csv", "lines": ".txt", "nul": ".list"}


class TakeAway(ModalScreen[Write | None]):
    """Asks for a list, a form and a name; the answer says what to write, None if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, stem: str, counts: dict[str, int]) -> None:
        """stem: how offered names begin. counts: how many images each list has."""
        super().__init__()
        self._stem, self._counts = stem, counts

    def compose(self) -> ComposeResult:
        words = {"csv": "CSV with scores", "lines": "paths, a line each", "nul": "paths, NUL ends"}
        with Vertical(classes="dialog"):
            yield Static(Content("Write a list"), classes="dialog-title")
            with Horizontal(classes="dialog-choices"):
                with RadioSet(id="which"):
                    for name in LISTS:
                        label = Content(f"{name} ({self._counts[name]:,})")
                        yield RadioButton(label, value=name == LISTS[0])
                with RadioSet(id="form"):
                    for form in FORMATS:
                        yield RadioButton(words[form], value=form == FORMATS[0])
            yield Input(self._offered(0, 0))
            with Horizontal(classes="dialog-buttons"):
                yield Button("Write", variant="primary", id="write")
                yield Button("Cancel", id="cancel")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(RadioSet.Changed)
    def offer(self) -> None:
        """Offer a name for the chosen list and form, unless the user has typed another."""
        field = self.query_one(Input)
        offered = {self._offered(i, j) for i in range(len(LISTS)) for j in range(len(FORMATS))}
        if field.value in offered:
            field.value = self._offered(*self._chosen())

    @on(Input.Submitted)
    @on(Button.Pressed, "#write")
    def write(self) -> None:
        which, form = self._chosen()
        if name := self.query_one(Input).value:
            self.dismiss(Write(LISTS[which], FORMATS[form], name))

    @on(Button.Pressed, "#cancel")
    def cancel(self) -> None:
        self.dismiss(None)

    def _chosen(self) -> tuple[int, int]:
        sets = [self.query_one(f"#{name}", RadioSet).pressed_index for name in ("which", "form")]
        return max(0, sets[0]), max(0, sets[1])

    def _offered(self, which: int, form: int) -> str:
        return f"{self._stem}.{LISTS[which]}{_ENDINGS[FORMATS[form]]}"
