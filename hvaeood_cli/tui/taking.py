"""Lists of images to write to a file: as CSV, or as paths for another program."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError, UsageError
from hvaeood_cli.files import replacing
from hvaeood_cli.text import defuse
from hvaeood_cli.tui.run import Run
from hvaeood_cli.tui.view import Snapshot

CSV, LINES, NULS = FORMATS = ("csv", "lines", "nul")
LISTS = ("flagged", "judged", "shown")


def rows_of(snapshot: Snapshot, which: str) -> NDArray[np.int32]:
    """The rows of a list, the oddest first; the list of shown images keeps the table's order."""
    if which == "shown":
        return snapshot.rows
    wanted = snapshot.flags.flagged if which == "flagged" else snapshot.marks > 0
    rows = np.flatnonzero(wanted).astype(np.int32)
    combined = np.nan_to_num(snapshot.run.combined[rows], nan=-np.inf)
    return rows[np.argsort(-combined, kind="stable")]


def write_list(path: Path, snapshot: Snapshot, which: str, form: str) -> int:
    """Write a list to a new file; returns how many images it has.

    Raises StoreError if the file exists or cannot be written; UsageError if its folder does not
    exist, or a path cannot be written in this form.
    """
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path} is there already", "choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"no such folder: {path.parent}", "make it first, or choose another name")
    rows = rows_of(snapshot, which)
    parts = _as_csv(snapshot, rows) if form == CSV else _as_paths(snapshot.run, rows, form)
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", "choose another folder"
        ) from None
    return len(rows)


def _as_paths(run: Run, rows: NDArray[np.int32], form: str) -> Iterator[bytes]:
    end = b"\0" if form == NULS else b"\n"
    for row in rows:
        name = bytes(run.scores.names[row])
        if end in name:
            kind = "a line break" if form == LINES else "a NUL"
            other = "separate them by NUL" if form == LINES else "choose CSV"
            raise UsageError(f"a path has {kind} in it", other)
        yield name + end


def _as_csv(snapshot: Snapshot, rows: NDArray[np.int32]) -> Iterator[bytes]:
    run, ks = snapshot.run, range(1, snapshot.run.n_layers)
    ranked = "p_combined" if run.has_p else "combined"
    header = ["path", "flagged", ranked, "k", *(f"llr_{k}" for k in ks), "mark", "note"]
    yield _line(header)
    for row in map(int, rows):
        name = run.scores.name(row)
        judgement = snapshot.judgements.of(run.scores, row)
        scored = bool(run.scores.scored[row])
        rank = run.p[row] if run.has_p else run.combined[row]
        numbers = [_number(value) if scored else "" for value in (rank, *run.scores.llr[row])]
        k = str(run.k[row]) if scored else ""
        cells = [defuse(name), str(int(snapshot.flags.flagged[row])), numbers[0], k]
        yield _line([*cells, *numbers[1:], judgement.mark, defuse(judgement.note)])


def _number(value: np.floating[Any]) -> str:
    """A float64, which a threshold is compared with, in full; a float32 to six digits."""
    return repr(float(value)) if isinstance(value, np.float64) else f"{value:.6g}"


def _line(cells: list[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode("utf-8", "surrogateescape")
