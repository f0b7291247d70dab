"""`hvaeood decide`: flag scored images anew, by another rule or at another level."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hvaeood_cli.cli import console, deciding, options, taken
from hvaeood_cli.cli.printing import Printing
from hvaeood_cli.errors import CalibrationError, ExitCode, UsageError
from hvaeood_cli.files import NO_LOCKS, has_locks


def decide(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.h5", help="A score file.", show_default=False)
    ] = None,
    fpr: options.Fpr = None,
    fdr: options.Fdr = None,
    by: options.By = False,
    model: options.ModelOfScores = None,
    calibration: options.CalibrationFile = None,
    copy_to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy flagged images to DIR.", show_default=False),
    ] = None,
    move_to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Move flagged images to DIR.", show_default=False),
    ] = None,
    link_to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Make symbolic links to flagged images in DIR.", show_default=False
        ),
    ] = None,
    undo_move: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Put back what --move-to DIR moved; this takes no FILE.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    data_root: options.DataRoot = None,
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

    With --copy-to, --move-to or --link-to, the flagged images are taken to a folder. Nothing is
    overwritten there, an image that has changed since it was scored is left, and the same command
    goes on after an interruption.

    Next: **hvaeood report FILE.h5**, or **hvaeood decide FILE.h5 --copy-to odd/**
    """
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    folders = {"copy": copy_to, "move": move_to, "link": link_to}
    rules = deciding.Rules.of(context, fpr, fdr, by)
    if undo_move is not None:
        if file or rules.asked or any(folders.values()):
            raise UsageError(
                "--undo-move decides nothing: DIR itself says where its images were",
                f"hvaeood decide --undo-move {shlex.quote(str(undo_move))}",
            )
        if not taken.put_back(undo_move, dry_run, quiet):
            raise typer.Exit(ExitCode.SOME_UNREADABLE)
        return
    if file is None:
        raise UsageError("no score file was named", "hvaeood decide FILE.h5 --fdr 0.05")
    printed = printing in (Printing.SUMMARY, Printing.NOTHING)
    taking = taken.Asked.of(folders, dry_run, list_all=printed, quiet=quiet)
    from hvaeood_cli.calibration.ranking import Ranking
    from hvaeood_cli.calibration.rules import decide_as_asked
    from hvaeood_cli.store.reader import read_scores
    from hvaeood_cli.store.writer import write_decision

    scores = read_scores(file).present
    warn = console.warner(quiet)
    standing = scores.decision
    rule = rules.where(standing, warn)
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
        if not dry_run:
            if not has_locks(file):
                warn(NO_LOCKS)
            write_decision(scores, decision)
        scores = replace(scores, decision=decision)
    if calibration is None:
        deciding.warn_of_another(standing, decision, warn)
    deciding.warn_of_group(scores, warn)
    given = {"--model": model, "--calibration": calibration}
    again = {name: str(value) for name, value in given.items() if value is not None}
    done = f"on {scores.header.created}"
    printing.show(scores, Ranking.of(scores, found), top, done, again)
    if taking and not taking.take(scores, data_root):
        raise typer.Exit(ExitCode.SOME_UNREADABLE)
    if fail_on_flagged and decision.n_flagged:
        raise typer.Exit(ExitCode.FLAGGED)
