"""What the screens share that have an image at hand: judging it, and copying its path."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen

from hvaeood_cli.text import printable
from hvaeood_cli.tui.messages import Copy, Judge, NextLayer, Undo
from hvaeood_cli.tui.screens.asking import AskText
from hvaeood_cli.tui.view import Snapshot

JUDGE = Binding.Group("Judge", compact=True)


class SnapshotScreen(Screen[None]):
    """A screen that is drawn from a snapshot, and drawn again from each new one."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def show(self, snapshot: Snapshot) -> None:
        """Draw another snapshot."""
        raise NotImplementedError


class JudgingScreen(SnapshotScreen):
    """A screen with an image at hand, which the user can judge."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mark('ood')", "OOD", group=JUDGE),
        Binding("2", "mark('fine')", "Fine", group=JUDGE),
        Binding("3", "mark('unsure')", "Unsure", group=JUDGE),
        Binding("0", "mark('')", "Unmark", show=False),
        Binding("z", "undo", "Take the last judgement back", show=False),
        Binding("n", "note", "Note", group=JUDGE),
        Binding("o", "next_layer", "Map"),
        Binding("y", "copy", "Copy path", show=False),
    ]

    @property
    def row(self) -> int | None:
        """The row of the image at hand; None if there is none."""
        raise NotImplementedError

    def go_to(self, row: int) -> None:
        """Take another image to hand, if the list has it."""
        raise NotImplementedError

    def action_step(self, step: int) -> None:
        """Take the next image of the list to hand, or the one before; the ends stay at hand."""
        raise NotImplementedError

    def action_mark(self, mark: str) -> None:
        """Mark the image and go on to the next; an image whose mark is taken off stays."""
        if self.row is not None:
            self.post_message(Judge(self.row, mark=mark))
            if mark:
                self.action_step(1)  # at once, so that no key is lost to somebody who types fast

    def action_undo(self) -> None:
        self.post_message(Undo())

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

    def action_next_layer(self) -> None:
        self.post_message(NextLayer())

    def action_copy(self) -> None:
        if self.row is not None:
            self.post_message(Copy(self.row))
