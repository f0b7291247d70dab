"""What `score`, `decide`, `report` and `tui` share: the choice of calibration and rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from hvaeood_cli.cli import config
from hvaeood_cli.errors import CalibrationError, HvaeoodError, ModelError, UsageError

if TYPE_CHECKING:
    import typer

    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.model.bundle import Bundle
    from hvaeood_cli.store.decision import Decision, Rule
    from hvaeood_cli.store.score_file import ScoreFile

Warn = Callable[[str], None]

_CALIBRATE = "no calibration here has what is usual of it; hvaeood calibrate --statistics makes one"
OF_TILES = "images that are taken by tiles are decided by their peak alone"


class Rules(NamedTuple):
    """The rules that a user wants; each None if there is none."""

    asked: Rule | None  # by the command line: it decides, whatever was decided before
    usual: Rule | None  # by hvaeood.toml: for what nothing has decided

    @classmethod
    def of(cls, context: typer.Context, fpr: float | None, fdr: float | None, by: bool) -> Self:
        """Those of a command with these options. Raises UsageError.

        A level of the command line wins over both that the file may have.
        """
        typed = {
            name
            for name in ("fpr", "fdr", "by")
            if config.source_of(context, name) == "COMMANDLINE"
        }
        if "fpr" in typed and "fdr" not in typed:
            fdr, by = None, by and "by" in typed
        if "fdr" in typed and "fpr" not in typed:
            fpr = None
        rule = _rule(fpr, fdr, by)
        return cls(rule, None) if typed else cls(None, rule)

    def where(self, standing: Decision | None, warn: Warn) -> Rule | None:
        """The rule for a file where this decision stands; None if it is to stay as it is."""
        if self.asked or standing is None:
            return self.asked or self.usual
        if self.usual and self.usual != standing.by:
            warn(
                f"the decision stays at {standing.by}: {config.FILE} sets the level of what is not "
                f"decided yet. --{self.usual.kind[:3]} {self.usual.level:g} decides anew"
            )
        return None


def _rule(fpr: float | None, fdr: float | None, by: bool) -> Rule | None:
    """The rule of these options; None if they ask for none. Raises UsageError."""
    from hvaeood_cli.store.decision import Rule

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


class Asked(NamedTuple):
    """What `score` is asked of the decision."""

    rules: Rules
    calibration: Path | None
    to_fail: bool  # --fail-on-flagged
    force: bool
    rule: Rule | None = None  # which of the rules it is, once it is known what stands


@dataclass
class Decider:
    """Decides a run as `score` was asked to, and remembers how that went."""

    calibration: Calibration | None  # None: nothing is decided, or what is decided stays
    rule: Rule | None
    standing: Decision | None  # what was decided in the file before
    asked: Asked
    assembly: Assembly
    warn: Warn
    outdated: bool = False  # whether the standing decision is of other images than the run
    anew: bool = False  # whether it made a decision that was not there
    refused: CalibrationError | None = None  # why it could not decide

    @classmethod
    def of(cls, assembly: Assembly, out: Path, n_images: int, asked: Asked, warn: Warn) -> Self:
        """For a run of n images into a file.

        A decision that is there already stays, unless another is asked for. Raises
        CalibrationError where one is asked for and cannot be made, before anything is scored.
        """

        standing = standing_decision(out)
        asked = asked._replace(rule=asked.rules.where(standing, warn))
        rule = asked.rule or (standing.by if standing else None)
        decider = cls(None, rule, standing, asked, assembly, warn)
        if not decider.leaves_what_stands:
            decider.calibration = _calibration_to_score_by(decider, out, n_images)
        return decider

    @property
    def leaves_what_stands(self) -> bool:
        asked_anew = self.asked.rule or self.asked.calibration or self.asked.force
        return self.standing is not None and not asked_anew and not self.outdated

    @property
    def is_needed(self) -> bool:
        """Whether a decision was asked for that is not there."""
        asked = self.asked.rule or self.asked.calibration or self.asked.to_fail
        return bool(asked) and not self.leaves_what_stands

    def __call__(self, scores: ScoreFile) -> Decision | None:
        from hvaeood_cli.calibration.rules import decide_as_asked

        try:
            if self.leaves_what_stands and scores.decision is None:  # the images have changed
                self.outdated = True
                self.calibration = _calibration_to_score_by(self, scores.path, scores.n_scored)
                if self.calibration is None:
                    self.warn(
                        "no longer decided: the images have changed, and no calibration of "
                        f"{self.assembly.bundle.name} has these settings: --calibration FILE"
                    )
            if self.calibration is None:
                return None
            decision = decide_as_asked(self.calibration, scores, self.rule)
        except CalibrationError as error:  # the scores are worth keeping without a decision
            self.refused = error
            return None
        self.anew = decision is not scores.decision
        return decision

    def that_decided(self, scores: ScoreFile, model: str, warn: Warn) -> Calibration | None:
        """The calibration that decided the run, if it is at hand; and what is to be said of it.

        Raises CalibrationError where a decision was asked for and could not be made.
        """
        if self.refused and self.is_needed:
            raise self.refused
        if self.refused:
            warn(_undecided(self.refused))
        if self.asked.calibration is None:
            warn_of_another(self.standing, scores.decision, warn)
        warn_of_group(scores, warn)
        if made(scores.decision, self.calibration):
            return self.calibration
        found = calibration_that_decided(scores, model, warn)
        if self.leaves_what_stands and found is None:
            warn("the decision stays as it is: the calibration that made it is not at hand")
        return found


def standing_decision(out: Path) -> Decision | None:
    """What is decided in a score file that is there already; None for a file that is broken.

    Whoever is to replace it need not be able to read it; the run refuses it otherwise.
    """

    from hvaeood_cli.store.reader import read_scores

    try:
        found = read_scores(out).decision if out.is_file() else None
        return found if found and found.by else None
    except HvaeoodError:
        return None


def _calibration_to_score_by(decider: Decider, out: Path, n_images: int) -> Calibration | None:
    """The calibration that will decide a run of n images; None where none has its settings.

    Raises CalibrationError where a decision is needed and cannot be made; where it is not needed,
    a warning says why nothing is decided.
    """
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.calibration.rules import check_level
    from hvaeood_cli.store.decision import Rule

    assembly, warn = decider.assembly, decider.warn
    bundle, settings = assembly.bundle, assembly.wanted_settings
    path, standing = decider.asked.calibration, decider.standing
    try:
        if path:
            found: Calibration | None = Calibration.load(path)
        elif standing and not decider.asked.force:
            found = _kept(standing, out)
            if found:
                _warn_of_newer(bundle, found, warn)
            else:
                found = _find(bundle, settings, standing, warn)
        else:
            found = _find(bundle, settings, standing, warn)
        if found is not None:
            found.check(settings)
            check_level(decider.rule or Rule(), found, n_images)
            if others := sorted({*assembly.settings.asked} - {*found.asked}):
                tiled = bundle.config.fit == "tile"
                warn(f"decided without {', '.join(others)}: {OF_TILES if tiled else _CALIBRATE}")
    except CalibrationError as error:
        if decider.is_needed:
            raise
        warn(_undecided(error))
        return None
    if found is None and decider.is_needed:
        raise not_calibrated(bundle.name)
    return found


def calibration_of(
    scores: ScoreFile, model: str | None, path: Path | None, warn: Warn
) -> Calibration | None:
    """The calibration for a score file: the one at `path`, else the one that decided the file.

    That one is in the file itself. Of a file that is not decided, it is one of the model that
    scored it; None where that model is not among the models here. Raises CalibrationError for a
    broken calibration and for statistics that the file lacks, and ModelError for a `model` that
    does not exist or did not score the file.
    """
    from hvaeood_cli.calibration.calibration import Calibration, wanted_of
    from hvaeood_cli.looks.looker import bundle_of

    if path is not None:
        found: Calibration | None = Calibration.load(path)
    else:
        found = _kept(scores.decision, scores.path) if scores.decision else None
        try:
            bundle = bundle_of(scores, model)
        except ModelError:
            if model is not None:
                raise
        else:
            if found:
                _warn_of_newer(bundle, found, warn)
            else:
                found = _find(bundle, wanted_of(scores.header), scores.decision, warn)
    if found:
        found.check_statistics(scores)
    return found


def _warn_of_newer(bundle: Bundle, kept: Calibration, warn: Warn) -> None:
    """Say where the model has another calibration now than the one that decided."""
    from hvaeood_cli.calibration.calibration import read_calibrations

    there, _ = read_calibrations(bundle.calibrations)
    wanted = kept.settings | {"statistics": " ".join(kept.asked)}
    fitting = [one for one in there if not one.mismatches(wanted) and one.asked == kept.asked]
    if fitting and kept.id not in [one.id for one in fitting]:
        warn(
            f"decided by the calibration {kept.id}, which the score file keeps; the model's own is "
            f"{fitting[0].id} now: --calibration FILE decides by that one"
        )


def _kept(decision: Decision, file: Path) -> Calibration | None:
    """The calibration that made a decision, as the score file keeps it; None where it does not.

    Raises CalibrationError where what is kept is broken, or is not what the decision names.
    """
    from hvaeood_cli.calibration.calibration import Calibration

    if not decision.calibration:
        return None
    found = Calibration.of_bytes(decision.calibration, f"the calibration in {file}")
    if not made(decision, found):
        raise CalibrationError(
            f"the calibration in {file} is {found.id}, of {found.n_layers} layers, and not "
            f"{decision.calibration_id}, which decided it",
            "name the right one, --calibration FILE, and a level, as --fpr 0.01",
        )
    return found


def calibration_that_decided(
    scores: ScoreFile, model: str | None, warn: Warn
) -> Calibration | None:
    """The calibration that decided a score file: it is in the file, or else among the model's."""
    if scores.decision is None:
        return None
    try:
        found = _kept(scores.decision, scores.path)
        if found:
            found.check_statistics(scores)
        else:
            found = calibration_of(scores, model, None, warn)
    except CalibrationError as error:
        warn(left_out(error))
        return None
    return found if made(scores.decision, found) else None


def _find(
    bundle: Bundle, settings: Mapping[str, Any], standing: Decision | None, warn: Warn
) -> Calibration | None:
    """Of a model's own calibrations the one that made the standing decision, else one that fits.

    Warns of those that cannot be read. Raises CalibrationError where there are only such.
    """
    from hvaeood_cli.calibration.calibration import find_calibration

    preferred = standing.calibration_id if standing else ""

    def skipped(error: CalibrationError) -> None:
        warn(left_out(error))

    return find_calibration(bundle.calibrations, settings, preferred, skipped)


def made(decision: Decision | None, calibration: Calibration | None) -> bool:
    """Whether this calibration made this decision, which has a p-value for each of its k."""
    if not (decision and calibration) or decision.calibration_id != calibration.id:
        return False
    return bool(decision.p_value.shape[1] == calibration.n_layers - 1)


def warn_of_another(before: Decision | None, now: Decision | None, warn: Warn) -> None:
    """Say where another calibration decides than the one that did before."""
    if before and now and before.calibration_id != now.calibration_id:
        warn(
            f"decided by the model's own calibration, {now.calibration_id}; the decision before "
            f"was by {before.calibration_id}: --calibration FILE names that one"
        )


def left_out(error: CalibrationError) -> str:
    """That a calibration cannot be read, and what mends it."""
    return f"left out: {error.message}: {error.hint}"


def _undecided(error: CalibrationError) -> str:
    return f"not decided: {error.message}: {error.hint}"


def not_calibrated(model: str) -> CalibrationError:
    return CalibrationError(
        f"the model {model} is not calibrated",
        f"hvaeood calibrate HELD-OUT-IMAGES --model {model}",
    )


def warn_of_group(scores: ScoreFile, warn: Warn) -> None:
    """Warn if this FDR can flag no single image, however odd, but only several together."""
    from hvaeood_cli.calibration.rules import least_group

    decision, n = scores.decision, scores.n_scored
    if decision is None or decision.rule == "fpr" or decision.n_flagged:
        return
    rule = decision.by
    group = least_group(rule, decision.n_calibration, n)
    if group > 1:
        warn(
            f"with {decision.n_calibration:,} calibration images, {rule} can flag images among "
            f"{n:,} only where {group} or more stand out together"
        )
