"""What browsing and looking share: judging the image at hand, and taking things away."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen

from hvaeood_cli.text import printable
from hvaeood_cli.tui.messages import Copy, Judge
from hvaeood_cli.tui.screens.asking import AskText
from hvaeood_cli.tui.view import Snapshot


class JudgingScreen(Screen[None]):
    """A screen with an image at hand."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mark('ood')", "OOD", show=False),
        Binding("2", "mark('fine')", "Fine", show=False),
        Binding("3", "mark('unsure')", "Unsure", show=False),
        Binding("0", "mark('')", "Unmark", show=False),
        Binding("n", "note", "Note", show=False),
        Binding("y", "copy", "Copy path", show=False),
    ]

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    @property
    def row(self) -> int | None:
        """The image at hand."""
        raise NotImplementedError

    def show(self, snapshot: Snapshot) -> None:
        """Draw another moment."""
        raise NotImplementedError

    def action_mark(self, mark: str) -> None:
        if self.row is not None:
            self.post_message(Judge(self.row, mark=mark))

    def action_note(self) -> None:
        row = self.row
        if row is None:
            return
        judgement = self.snapshot.judgements.of(self.snapshot.run.scores, row)
        name = printable(bytes(self.snapshot.run.scores.names[row]))

        def take(text: str | None) -> None:
            if text is not None:
                self.post_message(Judge(row, note=text))

        self.app.push_screen(AskText("Note", name, judgement.note), take)

    def action_copy(self) -> None:
        if self.row is not None:
            self.post_message(Copy(self.row))
