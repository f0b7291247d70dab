"""The paper's tables as rows, ours beside the paper's, and these as Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.published import BITS, DETECTIONS, Detection
from hvaeood_cli.report.metrics import bootstrap, compare

Float = NDArray[np.float64]
Scores = Mapping[str, Float]  # by name, (N,), higher is odder
Row = tuple[str, ...]

DETECTION_HEAD: Row = ("table", "trained on", "against", "score", "the paper's model",
                       "AUROC", "AUPRC", "FPR80",
                       "ours: AUROC", "AUPRC", "FPR80", "n")  # fmt: skip
BITS_HEAD: Row = ("model", "trained on", "images",
                  "L", "L^{>1}", "L^{>2}", "L^{>3}",
                  "ours: L", "L^{>1}", "L^{>2}")  # fmt: skip

# Rows of the paper that another model made, and beside which ours has the same score.
_SAME_SCORE = ("likelihood regret", "WAIC")


def cell(inside: Sequence[Float], outside: Sequence[Float]) -> Row:
    """AUROC, AUPRC, FPR80 and n of a score. inside, outside: (N,) by model.

    Of one model with bootstrap intervals at 95 %, of several with mean and standard deviation. WAIC
    is one score of several models.
    """
    pairs = list(zip(inside, outside, strict=True))
    if all(np.array_equal(a, b) for pair in pairs for a, b in zip(pair, pairs[0], strict=True)):
        pairs = pairs[:1]
    metrics = [compare(usual, odd) for usual, odd in pairs]
    names = ("auroc", "auprc", "fpr80")
    if len(pairs) == 1:
        intervals = bootstrap(*pairs[0])
        texts = []
        for name in names:
            low, high = getattr(intervals, name)
            texts.append(f"{getattr(metrics[0], name):.3f} [{low:.3f}, {high:.3f}]")
    else:
        values = np.array([[getattr(each, name) for name in names] for each in metrics])
        spread = values.std(0, ddof=1)
        texts = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), spread, strict=True)]
    return *texts, str(metrics[0].n)


def detection_rows(
    of: Mapping[tuple[str, str], Sequence[Scores]],
    lacking: Mapping[tuple[str, str], str],
    samples: int,
) -> list[Row]:
    """Every row of Tables 2 and 5 to 8, and below each set the scores that only we have.

    of: by (trained on, images), the scores of each model; "<name>-train" is its training set.
    lacking: by the same, why there are none. samples: our S; a row of another S stays empty.
    """
    rows, done = [], set()
    sets = dict.fromkeys((d.table, d.trained_on, d.outside) for d in DETECTIONS)
    for table, trained_on, outside in sets:
        inside_of, outside_of = (
            of.get((trained_on, trained_on)),
            of.get((trained_on, f"{outside}-train" if outside == trained_on else outside)),
        )
        why = lacking.get((trained_on, trained_on)) or lacking.get(
            (trained_on, f"{outside}-train" if outside == trained_on else outside), ""
        )
        for row in DETECTIONS:
            if (row.table, row.trained_on, row.outside) != (table, trained_on, outside):
                continue
            rows.append(_published(row) + _ours(row, inside_of, outside_of, why, samples))
            done.add((table, outside, _plain(row.score)))
        for score in inside_of[0] if inside_of and outside_of else ():
            if table == 2 and (table, outside, score) not in done:
                figures = _figures(score, inside_of, outside_of)
                rows.append(("2", trained_on, outside, score, "", "", "", "", *figures))
    return rows


def _published(row: Detection) -> Row:
    figures = ("–" if value is None else f"{value:.3f}" for value in row.figures)
    return str(row.table), row.trained_on, row.outside, row.score, row.model, *figures


def _ours(
    row: Detection,
    inside: Sequence[Scores] | None,
    outside: Sequence[Scores] | None,
    why: str,
    samples: int,
) -> Row:
    score, _, named = row.score.partition(", S = ")
    if row.model not in ("HVAE", "BIVA") and score not in _SAME_SCORE:
        return "another model", "", "", ""
    if row.model == "BIVA":
        return "no such model", "", "", ""
    if not inside or not outside:
        return why, "", "", ""
    if named and int(named) != samples:
        return f"not computed: S = {samples}", "", "", ""
    return _figures(score, inside, outside)


def _figures(score: str, inside: Sequence[Scores], outside: Sequence[Scores]) -> Row:
    if any(score not in each for each in (*inside, *outside)):
        return "not computed", "", "", ""
    return cell([each[score] for each in inside], [each[score] for each in outside])


def _plain(score: str) -> str:
    """A score's name without its S."""
    return score.partition(", S = ")[0]


def bits_rows(
    of: Mapping[tuple[str, str], Sequence[Float]], lacking: Mapping[tuple[str, str], str]
) -> list[Row]:
    """Table 1. of: by (trained on, images), bits/dim of L, L^{>1} ... of each model, (L,)."""
    rows = []
    for row in BITS:
        published = tuple(f"{bits:g}" for bits in row.bounds) + ("",) * (4 - len(row.bounds))
        ours: Row = ("another model", "", "")
        if row.model == "BIVA":
            ours = ("no such model", "", "")
        if row.model == "HVAE":
            found = of.get((row.trained_on, row.images))
            ours = (lacking.get((row.trained_on, row.images), ""), "", "")
            if found:
                ours = tuple(_mean(np.array([each[k] for each in found])) for k in range(3))
        rows.append((row.model, row.trained_on, row.images, *published, *ours))
    return rows


def _mean(values: Float) -> str:
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def markdown(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def write(folder: Path, name: str, head: Row, rows: Sequence[Row]) -> None:
    """NAME.md and NAME.csv."""
    (folder / f"{name}.md").write_text(markdown(head, rows) + "\n", encoding="utf-8")
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
