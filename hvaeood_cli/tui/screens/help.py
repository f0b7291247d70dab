"""The help: every key, and what the words mean."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

_KEYS = {
    "See": [
        ("[ ]", "previous, next k, with the combined score"),
        ("m", "what is measured: LLR, L, bits/dim, p"),
        ("L", "linear or logarithmic counts"),
        ("a", "all k side by side"),
        ("c", "compare with the second file"),
        ("x", "browse the other file"),
    ],
    "Threshold": [
        ("← →  or  , .", "looser, stricter; with shift five steps; wheel"),
        ("r", "FPR, FDR, FDR-BY, or by the plotted score"),
        ("t", "type it; a click in the plot puts it there"),
        ("w", "write the decision into the score file"),
    ],
    "Browse": [
        ("v", "the same list as pictures, and as a table again"),
        ("↑ ↓  or  k j", "move; pgup, pgdn, home and end go further"),
        ("← →  or  h l", "move among pictures"),
        ("s S", "sort by the next column; the other way"),
        ("f u J", "only flagged, unreadable, judged; again for all"),
        ("d", "only those that differ most at k = 1, 2, ..."),
        ("/", "only paths with a text in them"),
        ("esc", "clear the filters"),
    ],
    "Look and judge": [
        ("enter", "the image beside its reconstructions"),
        ("o", "where it is odd: the map of the highest k, of lower ones, none"),
        ("1 2 3", "OOD, fine, unsure; goes on to the next image"),
        ("0", "no mark and no note"),
        ("z", "takes the last judgement back, and goes to its image"),
        ("n", "a note"),
        ("y", "copy the path"),
        ("e", "write the flagged, judged or listed images"),
    ],
    "Else": [("ctrl+p", "every command, and themes"), ("?", "this"), ("q", "quit")],
}
_WORDS = (
    (
        "LLR>k",
        "how much likelier the image is with all latents than from those above k alone, "
        "nats; high for what the upper features do not explain",
    ),
    ("combined", "minus the log density of all statistics among the calibration's; in nats"),
    ("p", "how often an image that belongs is as odd: the share of the calibration's images"),
    ("FPR 1 %", "of the images that belong, 1 % at most are flagged, on average"),
    ("FDR 5 %", "of the flagged images, 5 % at most belong, on average"),
    (
        "map",
        "colours where the latents above k explain the image worse than is usual there; it shows "
        "where to look, and is no outline and no cause",
    ),
    ("red", "flagged;  white line: the calibration, scaled to as many images as there are here"),
)


class HelpScreen(ModalScreen[None]):
    """The help, as a page to scroll."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Back")
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog", id="help"):
            yield Static(Content("Keys"), classes="dialog-title")
            yield Static(Content("\n").join(_lines()))
            yield Static(Content("Words"), classes="dialog-title")
            for word, meaning in _WORDS:
                yield Static(Content.assemble((word, "bold $text-accent"), f"  {meaning}"))

    def on_mount(self) -> None:
        self.query_one("#help").focus()


def _lines() -> list[Content]:
    lines = []
    for title, keys in _KEYS.items():
        lines.append(Content.assemble((title, "bold")))
        lines += [
            Content.assemble((f"  {key:<14}", "bold $text-accent"), what) for key, what in keys
        ]
    return lines
