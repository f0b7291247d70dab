"""Chooses one of a folder's score files, before the workbench opens it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar

import numpy as np
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Footer, Static

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.store.reader import Summary, read_summary
from hvaeood_cli.text import printable
from hvaeood_cli.tui.widgets.virtual_table import Cell, TableColumn, VirtualTable

_COLUMNS = [
    TableColumn("file", "score file", 26, right=False),
    TableColumn("images", "images", 10),
    TableColumn("flagged", "flagged", 10),
    TableColumn("scored", "scored", 10, from_width=70),
    TableColumn("model", "model", 0, right=False),
]


class _Files(VirtualTable):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "open", "Open")]


class Picker(App[Path]):
    """Lists score files, and returns the one that the user chose; None for none.

    What a file says of itself is read in a thread, so that a long list stands at once.
    """

    TITLE = "hvaeood"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape", "quit", "Quit", key_display="q")]

    def __init__(
        self, paths: list[Path], refused: HvaeoodError | None = None, at: Path | None = None
    ) -> None:
        """refused: why the file `at`, which was chosen before, could not be opened."""
        super().__init__()
        self._paths = paths
        self._found: dict[int, Summary | HvaeoodError] = {}
        if refused is not None and at is not None:
            self._found[paths.index(at)] = refused
        self._at = at

    def compose(self) -> ComposeResult:
        yield Static(f"{len(self._paths):,} score files here: which one?", id="place")
        yield _Files("", id="images")
        yield Static(id="reason")
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one(VirtualTable)
        table.focus()
        self._draw()
        if self._at is not None:
            table.go_to(self._paths.index(self._at))
        self.run_worker(self._read_all, thread=True)

    def _read_all(self) -> None:
        for row, path in enumerate(self._paths):
            if row not in self._found:
                try:
                    self._found[row] = read_summary(path)
                except HvaeoodError as error:
                    self._found[row] = error
                self.call_from_thread(self._draw)

    def _draw(self) -> None:
        rows = np.arange(len(self._paths), dtype=np.int32)
        self.query_one(VirtualTable).show(_COLUMNS, rows, self._cell, ("file", False))
        self._explain()

    def _cell(self, row: int, key: Hashable) -> Cell:
        found = self._found.get(row)
        if key == "file":
            return printable(self._paths[row].name), "muted" if _is_bad(found) else "strong"
        if isinstance(found, HvaeoodError):
            reason = found.message.removeprefix(f"{self._paths[row]} ")
            cells = {"images": "unreadable", "model": printable(reason)}
            return cells.get(str(key), ""), "muted"
        if found is None:
            return ("…" if key == "images" else ""), "muted"
        header, n = found
        said = {
            "images": (f"{header.n_images:,}", ""),
            "flagged": ("undecided", "muted") if n is None else (f"{n:,}", "flagged" if n else ""),
            "scored": (header.created[:10], ""),
            "model": (printable(header.model_name), ""),
        }
        return said[str(key)]

    @on(VirtualTable.Moved)
    def _explain(self) -> None:
        """Say in full why the file under the cursor cannot be opened."""
        found = self._found.get(self.query_one(VirtualTable).row or 0)
        said = ""
        if isinstance(found, HvaeoodError):
            said = found.message + (f": {found.hint}" if found.hint else "")
        self.query_one("#reason", Static).update(Content(printable(said)))

    @on(VirtualTable.Opened)
    def _choose(self, event: VirtualTable.Opened) -> None:
        if _is_bad(self._found.get(event.row)):
            self.notify("this one cannot be opened", severity="warning")
        else:
            self.exit(self._paths[event.row])


def _is_bad(found: Summary | HvaeoodError | None) -> bool:
    return isinstance(found, HvaeoodError)
