"""The columns and cells of the table of images."""

from __future__ import annotations

from collections.abc import Hashable

from textual.content import Content

from hvaeood_cli.text import format_p, printable
from hvaeood_cli.tui.run import COMBINED, Axis
from hvaeood_cli.tui.view import MARK, PATH, K, Snapshot, listed_axes
from hvaeood_cli.tui.widgets.virtual_table import Cell, CellOf, TableColumn

MARK_WORDS = ("", "OOD", "fine", "unsure", "note")  # by `Snapshot.marks`


def table_columns(snapshot: Snapshot) -> list[TableColumn]:
    """The columns from left to right; a narrow table leaves out the last scores first."""
    run = snapshot.run
    rank = "p" if run.has_p else "combined"
    by_k, single = listed_axes(run)
    ratios = [
        TableColumn(axis, run.label(axis), 9, from_width=50 + 10 * i) for i, axis in enumerate(by_k)
    ]
    others = [
        TableColumn(axis, run.label(axis), 9, from_width=76 + 10 * i)
        for i, axis in enumerate(single)
    ]
    return [
        TableColumn(COMBINED, rank, 10),
        *ratios,
        TableColumn(K, "k", 3, from_width=44),
        *others,
        TableColumn(MARK, "mark", 6, right=False),
        TableColumn(PATH, "image", 0, right=False),
    ]


def caption(snapshot: Snapshot, row: int) -> Content:
    """What stands under a thumbnail: flag, p and mark, in sixteen characters."""
    text, style = table_cell(snapshot)(row, COMBINED)
    colour = {"flagged": "bold $text-error", "muted": "$text-muted"}.get(style, "")
    return Content.assemble(
        (text, colour), " ", (MARK_WORDS[snapshot.marks[row]], "bold $text-accent")
    )


def table_cell(snapshot: Snapshot) -> CellOf:
    """A function that gives a cell's text and style, by row and column."""
    run = snapshot.run
    scores, flagged = run.scores, snapshot.flags.flagged

    def cell(row: int, key: Hashable) -> Cell:
        if key == PATH:
            name = printable(bytes(scores.names[row]))
            return name, "" if scores.status[row] == 0 else "muted"
        if key == MARK:
            return MARK_WORDS[snapshot.marks[row]], "mark"
        if scores.status[row] != 0:
            status = printable(scores.status_name(row).replace("_", " "))
            return (status, "muted") if key == COMBINED else ("", "")
        if key == COMBINED:
            value = run.p[row] if run.has_p else run.combined[row]
            text = format_p(float(value)) if run.has_p else f"{value:.1f}"
            return (f"\u25cf {text}", "flagged") if flagged[row] else (text, "")
        if key == K:
            return str(run.k[row]), "muted"
        assert isinstance(key, Axis)
        digits = 1 if key.column.unit == "nats" else 3
        value = float(run.values(key)[row])
        return f"{value:.{digits}f}", "strong" if key.k and key.k == run.k[row] else ""

    return cell
