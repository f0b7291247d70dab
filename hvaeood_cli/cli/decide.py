"""`hvaeood decide`: flag what is scored already, by another rule or at another level."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvaeood_cli.cli import deciding, options
from hvaeood_cli.cli.printing import Printing
from hvaeood_cli.errors import ExitCode


def decide(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.h5", help="A score file.", show_default=False)
    ],
    fpr: deciding.Fpr = None,
    fdr: deciding.Fdr = None,
    by: deciding.By = False,
    model: options.ModelOfScores = None,
    calibration: deciding.CalibrationFile = None,
    fail_on_flagged: deciding.FailOnFlagged = False,
    top: options.Top = 10,
    json_: options.Json = False,
    jsonl: options.Jsonl = False,
    csv: options.Csv = False,
    quiet: options.Quiet = False,
) -> None:
    """Flag scored images anew, at another level.

    Example: **hvaeood decide photos.scores.h5 --fdr 0.05**

    Reads the scores and the calibration alone: no image, no model, no waiting. The decision in
    the file is replaced. Without a level, the file's own rule is applied again.

    Next: **hvaeood report FILE.h5**
    """
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    rule = deciding.asked_rule(fpr, fdr, by)
    from hvaeood_cli.report.rows import Judged
    from hvaeood_cli.store.reader import read_scores

    scores = read_scores(file)
    found = deciding.calibration_of(scores, model, calibration)
    if found is None:
        raise deciding.not_calibrated(scores.attributes["model_name"])
    scores = deciding.decide_file(scores, found, rule)
    if printing is not Printing.NOTHING:
        deciding.warn_of_group(scores)
    given = {"--model": model, "--calibration": calibration}
    again = {name: str(value) for name, value in given.items() if value is not None}
    done = f"on {scores.attributes['created']}"
    printing.show(scores, Judged.by(scores, found), top, done, again)
    if fail_on_flagged and scores.decision and scores.decision.flagged.any():
        raise typer.Exit(ExitCode.FLAGGED)
