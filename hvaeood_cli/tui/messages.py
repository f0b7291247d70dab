"""What the user did, as screens and widgets say it. The app hears; nothing else acts."""

from __future__ import annotations

from collections.abc import Callable

from textual.message import Message

from hvaeood_cli.tui.view import Snapshot, View


class Ask(Message):
    """The view should change. change: from the snapshot that holds by then, so no step is lost."""

    def __init__(self, change: Callable[[Snapshot], View]) -> None:
        super().__init__()
        self.change = change


class Open(Message):
    """Look at an image."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Glance(Message):
    """The image alone, small, is wanted."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Show(Message):
    """The image and its reconstructions are wanted."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Judge(Message):
    """A row's image is judged. None leaves the mark, or the note, as it is."""

    def __init__(self, row: int, mark: str | None = None, note: str | None = None) -> None:
        super().__init__()
        self.row, self.mark, self.note = row, mark, note


class Copy(Message):
    """A row's path should go to the clipboard."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class Write(Message):
    """A list should go to a file. which: of `taking.LISTS`; form: of `taking.FORMATS`."""

    def __init__(self, which: str, form: str, name: str) -> None:
        super().__init__()
        self.which, self.form, self.name = which, form, name


class Decide(Message):
    """The threshold should become the decision in the score file."""
