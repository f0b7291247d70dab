"""Dialogs over another screen: they ask for a line of text, or for a choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.text import printable

KEEP, LEAVE = "keep", "leave"


class AskText(ModalScreen[str | None]):
    """Asks for a line of text; the answer is None if the user cancels."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(
        self, title: str, about: str, value: str, check: Callable[[str], object] | None = None
    ) -> None:
        """about: below the title. check: raises HvaeoodError or ValueError for a bad text."""
        super().__init__()
        self._title, self._about, self._value, self._check = title, about, value, check

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="dialog-title")
            yield Static(Content(self._about), classes="dialog-about")
            yield Input(printable(self._value), select_on_focus=True)
            yield Static(classes="dialog-error")
            with Horizontal(classes="dialog-buttons"):
                yield Button("OK", variant="primary", id="ok")
                yield Button("Cancel", id="cancel")

    @on(Input.Submitted)
    @on(Button.Pressed, "#ok")
    def accept(self) -> None:
        text = self.query_one(Input).value
        try:
            if self._check is not None:
                self._check(text)
        except HvaeoodError as error:
            self._complain(f"{error.message}. {error.hint}")
        except ValueError:
            self._complain("that is no number")
        else:
            self.dismiss(text)

    @on(Button.Pressed, "#cancel")
    def cancel(self) -> None:
        self.dismiss(None)

    def _complain(self, text: str) -> None:
        self.query_one(".dialog-error", Static).update(Content(printable(text)))


class KeepThreshold(ModalScreen[str | None]):
    """Asks what becomes of a threshold before it is lost: KEEP, LEAVE, or None to stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "keep", "Keep"),
        Binding("n", "dismiss('leave')", "Leave"),
        Binding("escape", "dismiss(None)", "Cancel"),
    ]

    def __init__(self, title: str, about: str, can_keep: bool) -> None:
        """can_keep: whether a decision can say it."""
        super().__init__()
        self._title, self._about, self._can_keep = title, about, can_keep

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="dialog-title")
            yield Static(Content(self._about), classes="dialog-about")
            with Horizontal(classes="dialog-buttons"):
                if self._can_keep:
                    yield Button("Keep as decision", variant="primary", id=KEEP)
                yield Button("Leave it", id=LEAVE)
                yield Button("Cancel", id="cancel")

    @on(Button.Pressed)
    def answer(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id if event.button.id in (KEEP, LEAVE) else None)

    def action_keep(self) -> None:
        if self._can_keep:
            self.dismiss(KEEP)


class Confirm(ModalScreen[bool]):
    """Asks for yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "dismiss(False)", "No"),
        Binding("y", "dismiss(True)", "Yes"),
    ]

    def __init__(self, title: str, about: str) -> None:
        super().__init__()
        self._title, self._about = title, about

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="dialog-title")
            yield Static(Content(self._about), classes="dialog-about")
            with Horizontal(classes="dialog-buttons"):
                yield Button("Yes", variant="primary", id="yes")
                yield Button("No", id="no")

    @on(Button.Pressed)
    def answer(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")
