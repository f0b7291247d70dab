"""A score file as JSON, JSON lines and CSV: a row an image."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.reference import Reference
from hvaeood_cli.store.reader import ScoreFile

JSON_FORMAT, JSON_VERSION = "hvaeood-score", 1


@dataclass(frozen=True)
class Judged:
    """Scores beside what is usual."""

    reference: Reference
    suspicion: NDArray[np.float64]  # (N,)
    k: NDArray[np.int64]  # (N,) the k that stands out, 0 for rows without scores

    @classmethod
    def by(cls, scores: ScoreFile, reference: Reference | None) -> Judged:
        """By the model's reference; without one, by the batch itself."""
        judge = reference or Reference.of_batch(scores.llr)
        return cls(judge, judge.suspicion(scores.llr), judge.k_standing_out(scores.llr))

    def order(self) -> NDArray[np.int64]:
        """Scored rows, the most suspicious first; ties in manifest order."""
        scored = np.flatnonzero(np.isfinite(self.suspicion))
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
        "ranked_by": "model" if judged.reference.from_model else "batch",
    }
    yield json.dumps(head)[:-1] + ', "images": ['
    for number, row in enumerate(_rows(scores, judged)):
        yield (",\n" if number else "\n") + json.dumps(row)
    yield "\n]}\n"


def as_jsonl(scores: ScoreFile, judged: Judged) -> Iterator[str]:
    """An object an image, in manifest order."""
    for row in _rows(scores, judged):
        yield json.dumps(row) + "\n"


def as_csv(scores: ScoreFile, judged: Judged) -> Iterator[str]:
    """A header, then a row an image. Cells that a spreadsheet would run get an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    layers = range(scores.n_layers)
    header = ["path", "status", "error", "suspicion", "k", "bits_per_dim"]
    header += [f"lower_bound_{k}" for k in layers] + [f"llr_{k}" for k in layers[1:]]
    writer.writerow(header)
    for row in _rows(scores, judged):
        cells = [defuse(row["path"]), row["status"], defuse(row["error"])]
        cells += [row["suspicion"], row["k"], row["bits_per_dim"]]
        cells += row["lower_bound"] + row["llr"]
        writer.writerow(["" if cell is None else cell for cell in cells])  # "" and numbers
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def defuse(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _rows(scores: ScoreFile, judged: Judged) -> Iterator[dict[str, Any]]:
    status_names = {code: name for name, code in scores.status_codes.items()}
    for i in range(len(scores)):
        yield {
            "path": bytes(scores.names[i]).decode("utf-8", "surrogateescape"),
            "status": status_names.get(int(scores.status[i]), str(scores.status[i])),
            "error": scores.errors[i],
            "suspicion": _number(judged.suspicion[i]),
            "k": int(judged.k[i]) or None,
            "bits_per_dim": _number(scores.bits_per_dim[i]),
            "lower_bound": [_number(value) for value in scores.lower_bound[i]],
            "llr": [_number(value) for value in scores.llr[i]],
        }


def _number(value: np.floating[Any]) -> float | None:
    """A float that JSON has: six significant digits, and null for NaN."""
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
