"""Messages in which screens and widgets tell what the user did. Only the app acts on them."""

from __future__ import annotations

from collections.abc import Callable

from textual.message import Message

from hvaeood_cli.tui.view import Snapshot, View


class Ask(Message):
    """Asks for another view.

    change: makes it from the snapshot that is current when the app acts, so that no step is lost.
    """

    def __init__(self, change: Callable[[Snapshot], View]) -> None:
        super().__init__()
        self.change = change


class Open(Message):
    """Asks for the screen that shows one image."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Glance(Message):
    """Asks for a row's image alone, small."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Thumbs(Message):
    """Asks for the images of many rows, small, one after another."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.rows = rows


class Show(Message):
    """Asks for a row's image and its reconstructions."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class NextLayer(Message):
    """Asks for the map of the next k over the image; after the last k, for none."""


class Judge(Message):
    """Judges a row's image. None leaves the mark, or the note, as it is."""

    def __init__(self, row: int, mark: str | None = None, note: str | None = None) -> None:
        super().__init__()
        self.row, self.mark, self.note = row, mark, note


class Undo(Message):
    """Takes the last judgement back, and goes to its image."""


class Copy(Message):
    """Asks for a row's path in the clipboard."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Write(Message):
    """Asks for a list in the file `name`. which: of `taking.LISTS`; form: of `taking.FORMATS`."""

    def __init__(self, which: str, form: str, name: str) -> None:
        super().__init__()
        self.which, self.form, self.name = which, form, name


class Decide(Message):
    """Asks to write the threshold into the score file, as its decision."""
