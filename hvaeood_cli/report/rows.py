"""A score file as JSON, JSON lines and CSV: a row an image."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.drift import LEVEL, Drift, measure_drift
from hvaeood_cli.calibration.reference import Reference
from hvaeood_cli.store.decision import ATTRIBUTES, Decision
from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.store.reader import ScoreFile
from hvaeood_cli.text import defuse

JSON_FORMAT, JSON_VERSION = "hvaeood-score", 1


@dataclass(frozen=True)
class Judged:
    """Scores beside what is usual."""

    reference: Reference
    suspicion: NDArray[np.floating[Any]]  # (N,) what ranks: higher is odder, NaN without scores
    k: NDArray[np.integer[Any]]  # (N,) the k that stands out, 0 for rows without scores
    drift: Drift | None = None  # of the whole batch, where there is a calibration
    judgements: Judgements = field(default_factory=lambda: Judgements({}))

    @classmethod
    def by(
        cls, scores: ScoreFile, calibration: Calibration | None, reference: Reference | None = None
    ) -> Judged:
        """By the file's decision; without one by the model's reference, else the batch itself.

        calibration: what the decision was made with, if it is at hand.
        """
        usual = Reference.of_validation(calibration.llr) if calibration else reference
        judge = usual or Reference.of_batch(scores.llr)
        drift = None
        if calibration and scores.scored.any():
            drift = measure_drift(calibration.sorted_llr, scores.llr[scores.scored])
        if scores.decision:
            return cls(judge, scores.decision.combined, scores.decision.k, drift)
        return cls(judge, judge.suspicion(scores.llr), judge.k_standing_out(scores.llr), drift)

    def order(self) -> NDArray[np.int64]:
        """Scored rows, the most suspicious first; ties in manifest order."""
        scored = np.flatnonzero(~np.isnan(self.suspicion))
        return scored[np.argsort(-self.suspicion[scored], kind="stable")]


def as_json(scores: ScoreFile, judged: Judged) -> Iterator[str]:
    """One object, streamed: the run, then its images in manifest order."""
    run = {key: scores.attributes[key] for key in sorted(scores.attributes) if key != "format"}
    head = {
        "format": JSON_FORMAT,
        "version": JSON_VERSION,
        "score_file": str(scores.path),
        "run": run,
        "n_images": len(scores),
        "n_scored": int(scores.scored.sum()),
        "ranked_by": _ranked_by(scores, judged),
        "decision": _decision(scores.decision),
        "drift": _drift(judged.drift),
    }
    yield json.dumps(head)[:-1] + ', "images": ['
    for number, row in enumerate(_rows(scores, judged)):
        yield (",\n" if number else "\n") + json.dumps(row)
    yield "\n]}\n"


def files_as_json(
    files: Sequence[ScoreFile], judged: Sequence[Judged], comparisons: list[dict[str, Any]]
) -> Iterator[str]:
    """One object, streamed: how well the files are told apart, then each as `as_json` has it."""
    head = {"format": "hvaeood-report", "version": JSON_VERSION, "comparisons": comparisons}
    yield json.dumps(head)[:-1] + ', "files": ['
    for number, (scores, of_file) in enumerate(zip(files, judged, strict=True)):
        yield ",\n" if number else "\n"
        yield from as_json(scores, of_file)
    yield "]}\n"


def as_jsonl(scores: ScoreFile, judged: Judged) -> Iterator[str]:
    """An object an image, in manifest order."""
    for row in _rows(scores, judged):
        yield json.dumps(row) + "\n"


def as_csv(scores: ScoreFile, judged: Judged) -> Iterator[str]:
    """A header, then a row an image. Cells that a spreadsheet would run get an apostrophe."""
    write = _CsvLines()
    yield write(_csv_header(scores.n_layers))
    for row in _rows(scores, judged):
        yield write(_csv_cells(row, scores.n_layers))


def files_as_csv(
    files: Sequence[ScoreFile],
    judged: Sequence[Judged],
    labels: Sequence[NDArray[np.int8] | None],
) -> Iterator[str]:
    """As `as_csv`, of all files, with the score file and the label in front of each row."""
    write = _CsvLines()
    n_layers = max(scores.n_layers for scores in files)
    yield write(["score_file", "label", *_csv_header(n_layers), "mark", "note"])
    for scores, of_file, known in zip(files, judged, labels, strict=True):
        for i, row in enumerate(_rows(scores, of_file)):
            label = None if known is None or known[i] < 0 else int(known[i])
            by_hand = [row.get("mark"), defuse(row.get("note", ""))]
            yield write([defuse(str(scores.path)), label, *_csv_cells(row, n_layers), *by_hand])


class _CsvLines:
    """Cells -> a line of CSV."""

    def __init__(self) -> None:
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

    def __call__(self, cells: list[Any]) -> str:
        self._writer.writerow(["" if cell is None else cell for cell in cells])
        line = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return line


def _csv_header(n_layers: int) -> list[str]:
    layers = range(n_layers)
    header = ["path", "status", "error", "suspicion", "k", "bits_per_dim"]
    header += [f"lower_bound_{k}" for k in layers] + [f"llr_{k}" for k in layers[1:]]
    return header + [f"p_{k}" for k in layers[1:]] + ["p_combined", "flagged"]


def _csv_cells(row: dict[str, Any], n_layers: int) -> list[Any]:
    cells = [defuse(row["path"]), row["status"], defuse(row["error"])]
    cells += [row["suspicion"], row["k"], row["bits_per_dim"]]
    for name, n in (("lower_bound", n_layers), ("llr", n_layers - 1), ("p_value", n_layers - 1)):
        values = row[name] or []
        cells += values + [None] * (n - len(values))
    return [*cells, row["p_combined"], None if row["flagged"] is None else int(row["flagged"])]


def _rows(scores: ScoreFile, judged: Judged) -> Iterator[dict[str, Any]]:
    status_names = {code: name for name, code in scores.status_codes.items()}
    decision = scores.decision
    by_hand = dict(judged.judgements.rows(scores))
    for i in range(len(scores)):
        row = {
            "path": bytes(scores.names[i]).decode("utf-8", "surrogateescape"),
            "status": status_names.get(int(scores.status[i]), str(scores.status[i])),
            "error": scores.errors[i],
            "suspicion": _number(judged.suspicion[i]),
            "k": int(judged.k[i]) or None,
            "bits_per_dim": _number(scores.bits_per_dim[i]),
            "lower_bound": [_number(value) for value in scores.lower_bound[i]],
            "llr": [_number(value) for value in scores.llr[i]],
            "p_value": None,
            "p_combined": None,
            "flagged": None,
        }
        if decision:
            row["p_value"] = [_number(value) for value in decision.p_value[i]]
            row["p_combined"] = _number(decision.p_combined[i])
            row["flagged"] = bool(decision.flagged[i])
        if i in by_hand:
            row |= {"mark": by_hand[i].mark, "note": by_hand[i].note}
        yield row


def _ranked_by(scores: ScoreFile, judged: Judged) -> str:
    if scores.decision:
        return "calibration"
    return "model" if judged.reference.from_model else "batch"


def _decision(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    facts = {name: getattr(decision, name) for name in ATTRIBUTES}
    return facts | {"least_p": decision.least_p, "n_flagged": int(decision.flagged.sum())}


def _drift(drift: Drift | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    shifts = [shift._asdict() | {"effect": shift.effect} for shift in drift.shifts]
    facts = {"drifted": drift.drifted, "n": drift.n, "n_calibration": drift.n_calibration}
    return facts | {"level": LEVEL, "shifts": shifts}


def _number(value: np.floating[Any]) -> float | None:
    """A float that JSON has: six significant digits, and null for NaN."""
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
