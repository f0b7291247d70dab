"""What browsing and looking share: judging the image at hand, and taking things away."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen

from hvaeood_cli.text import printable
from hvaeood_cli.tui.messages import Copy, Judge
from hvaeood_cli.tui.screens.asking import AskText
from hvaeood_cli.tui.view import Snapshot

JUDGE = Binding.Group("Judge", compact=True)


class SnapshotScreen(Screen[None]):
    """A screen that follows the snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def show(self, snapshot: Snapshot) -> None:
        """Draw another moment."""
        raise NotImplementedError


class JudgingScreen(SnapshotScreen):
    """A screen with an image at hand."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mark('ood')", "OOD", group=JUDGE),
        Binding("2", "mark('fine')", "Fine", group=JUDGE),
        Binding("3", "mark('unsure')", "Unsure", group=JUDGE),
        Binding("0", "mark('')", "Unmark", show=False),
        Binding("n", "note", "Note"),
        Binding("y", "copy", "Copy path", show=False),
    ]

    @property
    def row(self) -> int | None:
        """The image at hand."""
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
