"""What `score`, `decide`, `report` and `tui` share: the choice of calibration and rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.cli import console
from hvaeood_cli.errors import CalibrationError, ModelError, UsageError

if TYPE_CHECKING:
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.calibration.rules import Rule
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.store.score_file import ScoreFile


def asked_rule(fpr: float | None, fdr: float | None, by: bool) -> Rule | None:
    """The rule that the command line asks for; None if it asks for none. Raises UsageError."""
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


def calibration_to_score_by(
    detector: Detector, path: Path | None, rule: Rule | None, n_images: int, needed: bool
) -> Calibration | None:
    """The calibration that will decide a run of n images; None where none has its settings.

    path: the calibration that the user named. needed: whether the user asked for a decision. If
    so, raises CalibrationError where none can be made; if not, warns why nothing is decided.
    """
    from hvaeood_cli.calibration.calibration import Calibration, find_calibration
    from hvaeood_cli.calibration.rules import check_level

    settings = detector.calibration_settings
    if path is not None:
        found: Calibration | None = Calibration.load(path)
    else:
        found = find_calibration(detector.bundle.calibrations, settings)
    if found is None:
        if needed:
            raise not_calibrated(detector.bundle.name)
        return None
    differing = found.mismatches(settings)
    if differing and (needed or path is not None):
        found.check(settings)
    if differing:
        console.warn("not decided: the calibration has other settings: " + "; ".join(differing))
        return None
    if rule:
        check_level(rule, found, n_images)
    return found


def calibration_of(scores: ScoreFile, model: str | None, path: Path | None) -> Calibration | None:
    """The calibration for a score file: the one at `path`, else one of the model that scored it.

    Returns None where that model is not among the models here. Raises CalibrationError for a
    broken calibration, and ModelError for a `model` that does not exist or did not score the file.
    """
    from hvaeood_cli.calibration.calibration import Calibration, find_calibration, settings_of
    from hvaeood_cli.looks.looker import bundle_of

    if path is not None:
        return Calibration.load(path)
    try:
        bundle = bundle_of(scores, model)
    except ModelError:
        if model is not None:
            raise
        return None
    return find_calibration(bundle.calibrations, settings_of(scores.header))


def not_calibrated(model: str) -> CalibrationError:
    return CalibrationError(
        f"the model {model} is not calibrated",
        f"hvaeood calibrate HELD-OUT-IMAGES --model {model}",
    )


def warn_of_group(scores: ScoreFile) -> None:
    """Warn if this FDR can flag no single image, however odd, but only several together."""
    from hvaeood_cli.calibration.rules import least_group, rule_of

    decision, n = scores.decision, scores.n_scored
    if decision is None or decision.rule == "fpr" or decision.n_flagged:
        return
    rule = rule_of(decision)
    group = least_group(rule, decision.n_calibration, n)
    if group > 1:
        console.warn(
            f"with {decision.n_calibration:,} calibration images, {rule} can flag images among "
            f"{n:,} only where {group} or more stand out together"
        )
