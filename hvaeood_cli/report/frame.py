"""Score files as tables for data analysis: a pandas DataFrame, or a Parquet file.

A row for each image, the columns of CSV, and why a flagged image is odd. pandas and pyarrow need
not be installed for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.errors import UsageError
from hvaeood_cli.store.columns import Column, Sizes, columns
from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.store.score_file import ScoreFile

if TYPE_CHECKING:
    from pandas import DataFrame

_TEXTS = ("path", "status", "error", "copy_of")
_AT_ONCE = 1 << 16  # rows of a Parquet file that are in memory together


class Part(NamedTuple):
    """A score file as a part of a Parquet file."""

    scores: ScoreFile
    calibration: Calibration | None  # the one that decided it, if it is at hand
    judgements: Judgements
    label: NDArray[np.int8] | None  # (N,): 0 belongs, 1 does not, -1 unknown


def to_frame(scores: ScoreFile, calibration: Calibration | None = None) -> DataFrame:
    """A run as a DataFrame, a row for each image in manifest order.

    calibration: the one that decided the run; `why` needs it. A value that there is not is missing.
    Raises UsageError where pandas is not installed.
    """
    pandas = optional("pandas")
    table = _columns(scores, Ranking.of(scores, calibration), calibration, slice(None))
    for name in _TEXTS:  # any text, even what is no Unicode
        table[name] = pandas.Series(table[name], dtype=object)
    return pandas.DataFrame(table).astype({"k": "Int8", "flagged": "boolean"})


def to_parquet(path: Path, parts: Sequence[Part]) -> None:
    """Write score files into one Parquet file, after the name of each file and the labels.

    Raises UsageError where pyarrow is not installed, and OSError.
    """
    pyarrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    sizes = reduce(Sizes.beside, (part.scores.sizes for part in parts))
    types = {name: pyarrow.from_numpy_dtype(dtype) for name, dtype in _numbers(sizes).items()}
    for name in ("score_file", *_TEXTS, "why", "mark", "note"):
        types[name] = pyarrow.string()
    first = ["score_file", "label", "path", "status", "error"]
    names = [*first, *(name for name in types if name not in first)]
    schema = pyarrow.schema([(name, types[name]) for name in names])
    with path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            for n, rows in _slices(part):
                whole = {name: rows.get(name, [None] * n) for name in names}
                writer.write_table(pyarrow.Table.from_pydict(whole, schema=schema))


def optional(module: str) -> Any:
    """The module. Raises UsageError where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UsageError(
            f"{package} is not installed", "pip install 'hvaeood[frames]' brings it"
        ) from None


def _numbers(sizes: Sizes) -> dict[str, np.dtype[Any]]:
    """The columns of numbers and their types."""
    found = {"label": "int8", "combined": "float64", "k": "int8"}
    for column in _kept():
        found |= dict.fromkeys(column.csv_names(sizes), column.dtype)
    return {name: np.dtype(dtype) for name, dtype in found.items()}


def _kept() -> list[Column]:
    """The columns of the table that every row has: those of CSV."""
    return [column for column in columns("scores", "decision") if column.csv]


def _columns(
    scores: ScoreFile, ranking: Ranking, calibration: Calibration | None, part: slice
) -> dict[str, Any]:
    """Some rows of a run, by column: (n,) each."""
    rows = range(*part.indices(len(scores)))
    found: dict[str, Any] = {
        "path": [scores.name(i) for i in rows],
        "status": [scores.status_name(i) for i in rows],
        "error": scores.errors[part],
        "combined": ranking.combined[part],
        "k": [int(k) or None for k in ranking.k[part]],
    }
    for column in _kept():
        values = _values(scores, column, part)
        names = column.csv_names(scores.sizes)
        each = np.ascontiguousarray(values.reshape(len(rows), -1).T)
        found |= dict(zip(names, each, strict=True))
    found["why"] = _why(scores, calibration, rows)
    first = scores.first_copies[part]
    found["copy_of"] = [scores.name(j) if j != i else "" for i, j in zip(rows, first, strict=True)]
    return found


def _values(scores: ScoreFile, column: Column, part: slice) -> NDArray[Any]:
    """The values of a column, (n,) or (n, m); missing ones where the file does not have it."""
    if column.group == "scores" and column.name in scores.columns:
        return np.asarray(scores[column.name][part])
    if column.group == "decision" and scores.decision:
        return np.asarray(getattr(scores.decision, column.name)[part])
    n = len(range(*part.indices(len(scores))))
    missing, dtype = (None, "object") if column.dtype == "bool" else (np.nan, column.dtype)
    return np.full((n, *column.shape(scores.sizes)), missing, dtype)


def _why(scores: ScoreFile, calibration: Calibration | None, rows: range) -> list[str]:
    """Why each flagged image is odd, as far as the calibration is at hand; else empty."""
    said = [""] * len(rows)
    if scores.decision and calibration:
        flagged = np.flatnonzero(scores.decision.flagged[rows.start : rows.stop])
        found = reasons(calibration, scores, flagged + rows.start)
        for i, reason in zip(flagged, found, strict=True):
            said[i] = str(reason or "")
    return said


def _slices(part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """A score file's rows, some at a time: how many, and their columns."""
    scores, calibration, judgements, label = part
    ranking, judged = Ranking.of(scores, calibration), dict(judgements.rows(scores))
    for first in range(0, len(scores), _AT_ONCE):
        some = slice(first, min(first + _AT_ONCE, len(scores)))
        n = some.stop - first
        found = _columns(scores, ranking, calibration, some)
        for name in _TEXTS:
            found[name] = [_unicode(text) for text in found[name]]
        found["score_file"] = [_unicode(str(scores.path))] * n
        if label is not None:
            found["label"] = [int(one) if one >= 0 else None for one in label[some]]
        here = [judged.get(i) for i in range(first, some.stop)]
        found["mark"] = [one.mark if one else None for one in here]
        found["note"] = [_unicode(one.note) if one else None for one in here]
        yield n, found


def _unicode(text: str) -> str:
    """The text with escapes for bytes that are no UTF-8, which Parquet cannot hold."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
