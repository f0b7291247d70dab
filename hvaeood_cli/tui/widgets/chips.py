"""A line of chips, which are words to click: the choices, of which some are chosen."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from textual.content import Content
from textual.style import Style
from textual.widgets import Static


class Chip(NamedTuple):
    """A word to click. action: runs on a click. chosen: whether it is the current choice."""

    text: str
    action: str
    chosen: bool = False


class Chips(Static):
    """Groups of chips. The label of a group names the key that does the same as a click."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"chips--label", "chips--chip", "chips--chosen"}
    DEFAULT_CSS = """
    Chips {
        height: 1;
        width: 1fr;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        link-style: none;
        link-style-hover: bold;
        link-color-hover: $text;
        link-background-hover: $primary 40%;
        & > .chips--label { color: $text-accent; }
        & > .chips--chip { color: $text; }
        & > .chips--chosen { color: $text-primary; background: $primary-muted; text-style: bold; }
    }
    """

    _shown: tuple[tuple[str, list[Chip]], ...] = ()

    def show(self, *groups: tuple[str, list[Chip]]) -> None:
        """groups: for each its label and its chips."""
        if groups == self._shown:
            return
        self._shown = groups
        styles = {part: self.get_visual_style(f"chips--{part}") for part in ("label", "chip")}
        chosen = self.get_visual_style("chips--chosen")
        parts: list[Content | tuple[str, Style]] = []
        for label, chips in groups:
            gap = "  " if parts else ""
            parts.append((f"{gap}{label} " if label else gap, styles["label"]))
            for chip in chips:
                look = chosen if chip.chosen else styles["chip"]
                click = Style.from_meta({"@click": chip.action}) if chip.action else Style()
                parts.append((f" {chip.text} ", look + click))
        self.update(Content.assemble(*parts), layout=False)
