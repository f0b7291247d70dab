"""`hvaeood merge`: one score file of the parts that `score --shard` made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console, deciding, options, scoring
from hvaeood_cli.cli.printing import Printing
from hvaeood_cli.errors import ExitCode, StoreError
from hvaeood_cli.files import check_output

if TYPE_CHECKING:
    from hvaeood_cli.scoring.run import Decide
    from hvaeood_cli.store.parts import Parts
    from hvaeood_cli.store.score_file import ScoreFile


def merge(
    context: typer.Context,
    parts: Annotated[
        list[Path],
        typer.Argument(
            metavar="PARTS...",
            help="Folders of parts, or parts: what score --shard made.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The score file (HDF5).", show_default=False
        ),
    ],
    model: options.ModelOfScores = None,
    fpr: options.Fpr = None,
    fdr: options.Fdr = None,
    by: options.By = False,
    calibration: options.CalibrationFile = None,
    fail_on_flagged: options.FailOnFlagged = False,
    top: options.Top = 10,
    json_: options.Json = False,
    jsonl: options.Jsonl = False,
    csv: options.Csv = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge parts, scored shard by shard, to one score file.

    Example: **hvaeood merge photos.parts/ -o photos.scores.h5**

    The file is what one hvaeood score would have written, and is decided as it would be. Parts of
    several runs, and shards that are missing, are named, and nothing is written. The parts stay.

    Next: **hvaeood report FILE** shows them all; **hvaeood decide FILE --fdr 0.05** flags anew.
    """
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    rules = deciding.Rules.of(context, fpr, fdr, by)
    check_output(output, "scores.h5")
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.calibration.ranking import Ranking
    from hvaeood_cli.looks.looker import bundle_of
    from hvaeood_cli.settings import ScoreSettings
    from hvaeood_cli.store.parts import Parts, find_parts

    there = Parts.read(find_parts(parts, output))
    scores = there.merged(output)
    bundle = bundle_of(scores, model)
    settings = {name: getattr(scores.header, name) for name in ScoreSettings.model_fields}
    assembly = Assembly(bundle.folder, **settings)
    warn = console.warner(quiet)
    asked = deciding.Asked(rules, calibration, fail_on_flagged, force)
    decide = deciding.Decider.of(assembly, output, len(scores), asked, warn)
    scores, fresh = _written(scores, there, decide, force)
    found = decide.that_decided(scores, str(bundle.folder), warn)
    for line in scoring.remarks(assembly, scores):
        warn(line)
    n = len(there.all)
    done = f"on {scoring.place(scores)}, in {n:,} {'part' if n == 1 else 'parts'}"
    if not fresh:
        done += "; merged before" + ("; decided anew" if decide.anew else "")
    run = scores.header
    given = {
        "--model": model,
        "--calibration": calibration,
        "--seed": run.seed or None,
        "--proposal": None if run.proposal == "mean" else run.proposal,
    }
    again = {name: str(value) for name, value in given.items() if value is not None}
    printing.show(scores, Ranking.of(scores, found), top, done, again)
    if fail_on_flagged and scores.decision and scores.decision.n_flagged:
        raise typer.Exit(ExitCode.FLAGGED)
    if scores.unreadable.any():
        raise typer.Exit(ExitCode.SOME_UNREADABLE)


def _written(
    scores: ScoreFile, parts: Parts, decide: Decide, force: bool
) -> tuple[ScoreFile, bool]:
    """Decide merged scores and write them to their file; return them, and whether it is new.

    A file that holds them already is decided anew where that is asked for. Raises StoreError for
    one that holds anything else.
    """
    from hvaeood_cli.images.folder import stamp_of
    from hvaeood_cli.scoring.run import check_still, writing
    from hvaeood_cli.store.header import differences
    from hvaeood_cli.store.reader import read_scores
    from hvaeood_cli.store.writer import manifest_sha256, write_decision, write_scores

    out = scores.path
    seen = stamp_of(out)
    if out.exists() and not force:
        found = read_scores(out)
        differing = differences(found.identity, scores.identity)
        if not differing and found.manifest_sha256 != manifest_sha256(scores):
            differing = ["the images"]
        if differing:
            raise StoreError(
                f"{out} is there already, and is no merger of these: {'; '.join(differing)}",
                "choose another -o, or --force to replace it",
            )
        decision = decide(found)
        if decision is not None and decision is not found.decision:
            with writing(out):
                write_decision(found, decision)
            found = replace(found, decision=decision)
        return found, False
    scores = replace(scores, decision=decide(scores))
    with writing(out):
        tiles = parts.tiles()
        return write_scores(out, scores, lambda: check_still(out, seen, force), tiles), True
