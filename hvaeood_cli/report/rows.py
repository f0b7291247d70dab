"""Score files as JSON, JSON lines and CSV: a row per image, its columns by the column table."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.drift import LEVEL, Drift
from hvaeood_cli.calibration.foreign import knows_images
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.store.columns import Column, Sizes, columns
from hvaeood_cli.store.decision import Decision
from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.text import defuse

JSON_FORMAT, JSON_VERSION = "hvaeood-score", 2

_AT_ONCE = 4096  # rows whose numbers are made plain together


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
        "model_knows_images": knows_images(scores),
        "decision": _decision(scores.decision),
        "drift": _drift(ranking.drift),
    }
    yield json.dumps(head)[:-1] + ', "images": ['
    for number, row in enumerate(_rows(listing)):
        yield (",\n" if number else "\n") + json.dumps(row)
    yield "\n]}\n"


def files_as_json(
    listings: Sequence[Listing], comparisons: list[dict[str, Any]], remarks: list[str]
) -> Iterator[str]:
    """One object, streamed: the comparisons of the files, then each file as `as_json` gives it."""
    head = {"format": "hvaeood-report", "version": JSON_VERSION, "remarks": remarks}
    yield json.dumps(head | {"comparisons": comparisons})[:-1] + ', "files": ['
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
    yield write([*_csv_header(listing.scores.sizes), "copy_of"])
    for row in _rows(listing):
        yield write([*_csv_cells(row, listing.scores.sizes), _copy_of(row)])


def files_as_csv(
    listings: Sequence[Listing], labels: Sequence[NDArray[np.int8] | None]
) -> Iterator[str]:
    """All files as one CSV: rows as in `as_csv`, after the name of the score file and the label."""
    write = _CsvLines()
    sizes = reduce(Sizes.beside, (listing.scores.sizes for listing in listings))
    yield write(["score_file", "label", *_csv_header(sizes), "mark", "note", "copy_of"])
    for listing, known in zip(listings, labels, strict=True):
        path = defuse(str(listing.scores.path))
        for i, row in enumerate(_rows(listing)):
            label = None if known is None or known[i] < 0 else int(known[i])
            judgement = [row.get("mark"), defuse(row.get("note", ""))]
            yield write([path, label, *_csv_cells(row, sizes), *judgement, _copy_of(row)])


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


def _csv_header(sizes: Sizes) -> list[str]:
    names = [name for column in _numbers() for name in column.csv_names(sizes)]
    return ["path", "status", "error", "combined", "k", *names, "why"]


def _csv_cells(row: dict[str, Any], sizes: Sizes) -> list[Any]:
    """A row's cells in the order of `_csv_header`; a cell without a value is empty."""
    texts = [defuse(row[name]) for name in ("path", "status", "error")]
    cells = [*texts, row["combined"], row["k"]]
    for column in _numbers():
        found = row.get(column.name)
        values = found if isinstance(found, list) else [found]
        room = len(column.csv_names(sizes))
        cells += [*values, *[None] * room][:room]
    cells = [int(cell) if isinstance(cell, bool) else cell for cell in cells]
    return [*cells, row["why"]]


def _copy_of(row: dict[str, Any]) -> str:
    return defuse(row["copy_of"] or "")


def _rows(listing: Listing) -> Iterator[dict[str, Any]]:
    """An object an image, in manifest order. Numbers are made plain for many images at once."""
    scores, ranking, judgements = listing
    judged = dict(judgements.rows(scores))
    first = scores.first_copies.tolist()
    columns_of_rows = _columns(listing)
    undecided = {} if scores.decision else dict.fromkeys(_decided())
    for begin in range(0, len(scores), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        plain = {name: _plain(values[part]) for name, values in columns_of_rows.items()}
        why = _why(listing, part)
        for i in range(begin, min(begin + _AT_ONCE, len(scores))):
            row = {
                "path": scores.name(i),
                "status": scores.status_name(i),
                "error": scores.errors[i],
                "copy_of": scores.name(first[i]) if first[i] != i else None,
                "combined": plain["combined"][i - begin],
                "k": int(ranking.k[i]) or None,
            }
            row |= {name: values[i - begin] for name, values in plain.items()}
            row |= undecided
            row["why"] = why.get(i)
            if i in judged:
                row |= {"mark": judged[i].mark, "note": judged[i].note}
            yield row


def _columns(listing: Listing) -> dict[str, NDArray[Any]]:
    """What every row has, by name: (N,) or (N, n)."""
    scores, ranking, _ = listing
    found: dict[str, NDArray[Any]] = {"combined": ranking.combined}
    found |= {column.name: scores[column.name] for column in scores.scores}
    if scores.decision:
        found |= {name: getattr(scores.decision, name) for name in _decided()}
    return found


def _why(listing: Listing, part: slice) -> dict[int, str]:
    """Why the flagged rows of a part are odd, by row; empty where the calibration is not at hand.

    Only flagged rows are looked at: that keeps a long file fast.
    """
    scores, ranking, _ = listing
    if scores.decision is None or ranking.calibration is None:
        return {}
    rows = np.arange(len(scores))[part][scores.decision.flagged[part]]
    found = reasons(ranking.calibration, scores, rows)
    return {int(i): reason.sentence for i, reason in zip(rows, found, strict=True) if reason}


def _decided() -> list[str]:
    """The columns of a decision that rows have."""
    return [column.name for column in columns("decision") if column.csv]


def _decision(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    return decision.facts | {"n_flagged": decision.n_flagged}


def _drift(drift: Drift | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    shifts = [shift._asdict() | {"effect": shift.effect} for shift in drift.shifts]
    facts = {"drifted": drift.drifted, "n": drift.n, "n_calibration": drift.n_calibration}
    return facts | {"level": LEVEL, "shifts": shifts}


def _plain(values: NDArray[Any]) -> list[Any]:
    """What JSON has for an array of numbers, nested as it is: (n,) or (n, m). Null for NaN.

    A float64, such as a p-value that a threshold is compared with, has all its digits; a float32
    has six significant ones.
    """
    if values.dtype.kind != "f":
        return list(values.tolist())
    if values.ndim > 1:
        flat = iter(_plain(values.ravel()))
        return [list(itertools.islice(flat, values.shape[1])) for _ in range(len(values))]
    whole = values.dtype == np.float64
    return [
        None if not math.isfinite(value) else value if whole else float(f"{value:.6g}")
        for value in values.tolist()
    ]
