"""`hvaeood decide`: flag scored images anew, by another rule or at another level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hvaeood_cli.cli import console, deciding, options
from hvaeood_cli.cli.printing import Printing
from hvaeood_cli.errors import CalibrationError, ExitCode


def decide(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.h5", help="A score file.", show_default=False)
    ],
    fpr: options.Fpr = None,
    fdr: options.Fdr = None,
    by: options.By = False,
    model: options.ModelOfScores = None,
    calibration: options.CalibrationFile = None,
    fail_on_flagged: options.FailOnFlagged = False,
    top: options.Top = 10,
    json_: options.Json = False,
    jsonl: options.Jsonl = False,
    csv: options.Csv = False,
    quiet: options.Quiet = False,
) -> None:
    """Flag scored images anew, at another level.

    Example: **hvaeood decide photos.scores.h5 --fdr 0.05**

    Reads the scores and the calibration alone: no image, no model, no waiting. The decision in
    the file is replaced. Without a level, the file's own rule is applied again, by the calibration
    that decided it.

    Next: **hvaeood report FILE.h5**
    """
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    rule = deciding.asked_rule(fpr, fdr, by)
    from hvaeood_cli.calibration.ranking import Ranking
    from hvaeood_cli.calibration.rules import decide_as_asked
    from hvaeood_cli.store.reader import read_scores
    from hvaeood_cli.store.writer import write_decision

    scores = read_scores(file).present
    warn = console.warner(quiet)
    standing = scores.decision
    found = deciding.calibration_of(scores, model, calibration, warn)
    if standing and not (rule or calibration or deciding.made(standing, found)):
        raise CalibrationError(
            f"the calibration {standing.calibration_id}, which decided {file}, is not at hand",
            "name it, --calibration FILE; or a level, as --fpr 0.01, for the model's own",
        )
    if found is None:
        raise deciding.not_calibrated(scores.header.model_name)
    decision = decide_as_asked(found, scores, rule)
    if decision is not scores.decision:
        write_decision(scores, decision)
        scores = replace(scores, decision=decision)
    if calibration is None:
        deciding.warn_of_another(standing, decision, warn)
    deciding.warn_of_group(scores, warn)
    given = {"--model": model, "--calibration": calibration}
    again = {name: str(value) for name, value in given.items() if value is not None}
    done = f"on {scores.header.created}"
    printing.show(scores, Ranking.of(scores, found), top, done, again)
    if fail_on_flagged and decision.n_flagged:
        raise typer.Exit(ExitCode.FLAGGED)
