"""Score files as JSON, JSON lines and CSV: a row per image, its columns by the column table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.drift import LEVEL, Drift
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.store.columns import Column, columns
from hvaeood_cli.store.decision import ATTRIBUTES, Decision
from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.text import defuse

JSON_FORMAT, JSON_VERSION = "hvaeood-score", 2


class Listing(NamedTuple):
    """A score file with the ranking of its images and the judgements on them."""

    scores: ScoreFile
    ranking: Ranking
    judgements: Judgements = Judgements({})


def as_json(listing: Listing) -> Iterator[str]:
    """One object, streamed: the run, then its images in manifest order."""
    scores, ranking, _ = listing
    head = {
        "format": JSON_FORMAT,
        "version": JSON_VERSION,
        "score_file": str(scores.path),
        "run": scores.header.model_dump() | {"manifest_sha256": scores.manifest_sha256},
        "n_images": len(scores),
        "n_scored": scores.n_scored,
        "ranked_by": ranking.by,
        "decision": _decision(scores.decision),
        "drift": _drift(ranking.drift),
    }
    yield json.dumps(head)[:-1] + ', "images": ['
    for number, row in enumerate(_rows(listing)):
        yield (",\n" if number else "\n") + json.dumps(row)
    yield "\n]}\n"


def files_as_json(listings: Sequence[Listing], comparisons: list[dict[str, Any]]) -> Iterator[str]:
    """One object, streamed: the comparisons of the files, then each file as `as_json` gives it."""
    head = {"format": "hvaeood-report", "version": JSON_VERSION, "comparisons": comparisons}
    yield json.dumps(head)[:-1] + ', "files": ['
    for number, listing in enumerate(listings):
        yield ",\n" if number else "\n"
        yield from as_json(listing)
    yield "]}\n"


def as_jsonl(listing: Listing) -> Iterator[str]:
    """One object for each image, in manifest order."""
    for row in _rows(listing):
        yield json.dumps(row) + "\n"


def as_csv(listing: Listing) -> Iterator[str]:
    """A header, then one row for each image.

    A cell that a spreadsheet would take for a formula starts with an apostrophe.
    """
    write = _CsvLines()
    yield write(_csv_header(listing.scores.n_layers))
    for row in _rows(listing):
        yield write(_csv_cells(row, listing.scores.n_layers))


def files_as_csv(
    listings: Sequence[Listing], labels: Sequence[NDArray[np.int8] | None]
) -> Iterator[str]:
    """All files as one CSV: rows as in `as_csv`, after the name of the score file and the label."""
    write = _CsvLines()
    n_layers = max(listing.scores.n_layers for listing in listings)
    yield write(["score_file", "label", *_csv_header(n_layers), "mark", "note"])
    for listing, known in zip(listings, labels, strict=True):
        path = defuse(str(listing.scores.path))
        for i, row in enumerate(_rows(listing)):
            label = None if known is None or known[i] < 0 else int(known[i])
            judgement = [row.get("mark"), defuse(row.get("note", ""))]
            yield write([path, label, *_csv_cells(row, n_layers), *judgement])


class _CsvLines:
    """Turns cells into a line of CSV."""

    def __init__(self) -> None:
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

    def __call__(self, cells: list[Any]) -> str:
        self._writer.writerow(["" if cell is None else cell for cell in cells])
        line = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return line


def _numbers() -> list[Column]:
    """The columns of CSV and JSON: the scores, then the decision."""
    return [column for column in columns("scores", "decision") if column.csv]


def _csv_header(n_layers: int) -> list[str]:
    names = [name for column in _numbers() for name in column.csv_names(n_layers)]
    return ["path", "status", "error", "combined", "k", *names]


def _csv_cells(row: dict[str, Any], n_layers: int) -> list[Any]:
    """A row's cells in the order of `_csv_header`; a cell without a value is empty."""
    texts = [defuse(row[name]) for name in ("path", "status", "error")]
    cells = [*texts, row["combined"], row["k"]]
    for column in _numbers():
        found = row.get(column.name)
        values = found if isinstance(found, list) else [found]
        room = len(column.csv_names(n_layers))
        cells += [*values, *[None] * room][:room]
    return [int(cell) if isinstance(cell, bool) else cell for cell in cells]


def _rows(listing: Listing) -> Iterator[dict[str, Any]]:
    scores, ranking, judgements = listing
    decision = scores.decision
    values = {column.name: scores[column.name] for column in scores.scores}
    decided = [column.name for column in columns("decision") if column.csv]
    judged = dict(judgements.rows(scores))
    for i in range(len(scores)):
        row = {
            "path": scores.name(i),
            "status": scores.status_name(i),
            "error": scores.errors[i],
            "combined": _plain(ranking.combined[i]),
            "k": int(ranking.k[i]) or None,
        }
        row |= {name: _plain(of_all[i]) for name, of_all in values.items()}
        row |= {name: _plain(getattr(decision, name)[i]) if decision else None for name in decided}
        if i in judged:
            row |= {"mark": judged[i].mark, "note": judged[i].note}
        yield row


def _decision(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    facts = {name: getattr(decision, name) for name in ATTRIBUTES}
    return facts | {"least_p": decision.least_p, "n_flagged": decision.n_flagged}


def _drift(drift: Drift | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    shifts = [shift._asdict() | {"effect": shift.effect} for shift in drift.shifts]
    facts = {"drifted": drift.drifted, "n": drift.n, "n_calibration": drift.n_calibration}
    return facts | {"level": LEVEL, "shifts": shifts}


def _plain(value: Any) -> Any:
    """What JSON has for a number or an array of them; null for NaN.

    A float64, such as a p-value that a threshold is compared with, has all its digits; a float32
    has six significant ones.
    """
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        return None
    return number if isinstance(value, np.float64) else float(f"{number:.6g}")
