"""What `score`, `decide` and `report` share: which calibration, which rule, which files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console
from hvaeood_cli.errors import CalibrationError, ModelError, UsageError
from hvaeood_cli.looks.looker import bundle_of

if TYPE_CHECKING:
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.calibration.rules import Rule
    from hvaeood_cli.store.reader import ScoreFile

Fpr = Annotated[
    float | None,
    typer.Option(
        metavar="LEVEL",
        help="Flag images with p <= LEVEL: each image that belongs is flagged this often at most.",
        show_default="the file's rule, else 0.01",
    ),
]
Fdr = Annotated[
    float | None,
    typer.Option(
        metavar="LEVEL",
        help="Flag by Benjamini-Hochberg: of what is flagged, this fraction at most belongs.",
        show_default=False,
    ),
]
By = Annotated[
    bool, typer.Option("--by", help="With --fdr: Benjamini-Yekutieli, under any dependence.")
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration", metavar="FILE", help="The calibration.", show_default="the model's own"
    ),
]
FailOnFlagged = Annotated[
    bool, typer.Option("--fail-on-flagged", help="Exit with 1 where any image is flagged.")
]


def asked_rule(fpr: float | None, fdr: float | None, by: bool) -> Rule | None:
    """The rule that the command line asks for, if any. Raises UsageError."""
    from hvaeood_cli.calibration.rules import Rule

    if fpr is not None and fdr is not None:
        raise UsageError("--fpr and --fdr exclude one another", "choose one error rate")
    if by and fdr is None:
        raise UsageError("--by goes with --fdr", "--fdr 0.05 --by")
    for option, level in (("--fpr", fpr), ("--fdr", fdr)):
        if level is not None and not 0.0 < level < 1.0:
            raise UsageError(f"{option} {level:g} is not between 0 and 1", f"{option} 0.05")
    if fdr is not None:
        return Rule("fdr-by" if by else "fdr", fdr)
    return None if fpr is None else Rule("fpr", fpr)


def calibration_of(scores: ScoreFile, model: str | None, path: Path | None) -> Calibration | None:
    """The calibration for a score file: what is named, else that of the model it names by hash.

    Raises CalibrationError for a broken one, ModelError for a model that is named and not there.
    """
    from hvaeood_cli.calibration.calibration import Calibration

    if path is not None:
        return Calibration.load(path)
    try:
        bundle = bundle_of(scores, model)
    except ModelError:
        if model is not None:
            raise
        return None
    return Calibration.find(bundle.calibration_paths)


def not_calibrated(model: str) -> CalibrationError:
    return CalibrationError(
        f"the model {model} is not calibrated",
        f"hvaeood calibrate HELD-OUT-IMAGES --model {model}",
    )


def decide_file(scores: ScoreFile, calibration: Calibration, asked: Rule | None) -> ScoreFile:
    """Decide a score file in place, unless it stands decided already; read it again.

    asked: None keeps the rule of the file, or starts with the default one.
    """
    from hvaeood_cli.calibration.rules import Rule, decide
    from hvaeood_cli.store.decision import write_decision
    from hvaeood_cli.store.reader import read_scores

    there = scores.decision
    rule = asked or (Rule(there.rule, there.level) if there else Rule())
    if there and (there.rule, there.level, there.calibration_id) == (
        rule.kind,
        rule.level,
        calibration.id,
    ):
        return scores
    write_decision(scores.path, decide(calibration, scores, rule))
    return read_scores(scores.path)


def warn_of_group(scores: ScoreFile) -> None:
    """Say where an FDR cannot flag a single image, however odd."""
    from hvaeood_cli.calibration.rules import Rule, least_group

    decision, n = scores.decision, int(scores.scored.sum())
    if decision is None or decision.rule == "fpr" or decision.flagged.any():
        return
    rule = Rule(decision.rule, decision.level)
    group = least_group(rule, decision.n_calibration, n)
    if group > 1:
        console.warn(
            f"with {decision.n_calibration:,} calibration images, {rule} can flag images among "
            f"{n:,} only where {group} or more stand out together"
        )
