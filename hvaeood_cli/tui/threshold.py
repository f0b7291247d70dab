"""The threshold: what it flags, what that promises, and how it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration import conformal
from hvaeood_cli.calibration.rules import check_level, least_level
from hvaeood_cli.errors import CalibrationError
from hvaeood_cli.store.decision import KINDS, Rule
from hvaeood_cli.tui.run import COMBINED, Axis, P, Run

_STEPS = 20  # of a level in a decade
_MAX_LEVEL = 0.5
_FENCE = 3.0  # interquartile ranges above the upper quartile: Tukey's "far out"


@dataclass(frozen=True)
class ByScore:
    """Flags what is at least this odd on one axis. Its error rate is not promised but estimated."""

    axis: Axis
    value: float


Threshold = Rule | ByScore


@dataclass(frozen=True, eq=False)
class Flags:
    """What a threshold flags in a run."""

    threshold: Threshold
    flagged: NDArray[np.bool_]  # (N,)
    n_flagged: int
    expected: float | None  # how many of the flagged belong, on average; None where unknown


def kinds(run: Run) -> tuple[str, ...]:
    """The kinds of threshold to choose from."""
    return (*KINDS, "score") if run.has_p else ("score",)


def kind_of(threshold: Threshold) -> str:
    return threshold.kind if isinstance(threshold, Rule) else "score"


def slot(threshold: Threshold) -> str | Axis:
    """What a threshold is remembered by: a rule by its kind, a score by its axis."""
    return threshold.kind if isinstance(threshold, Rule) else threshold.axis


def first_threshold(run: Run) -> Threshold:
    """The rule of the file's decision, else the default one.

    Without p-values, a score that lies far above most of the batch's.
    """
    if not run.has_p:
        return ByScore(COMBINED, _far_out(run.values(COMBINED)))
    decision = run.scores.decision
    rule = decision.by if decision else Rule()
    return supported(run, rule)


def flag(run: Run, threshold: Threshold) -> Flags:
    """Flag the images of a run by a threshold."""
    if isinstance(threshold, Rule):
        p = run.p if threshold.kind == "fpr" else run.adjusted_p(threshold.kind)
        flagged = np.less_equal(p, threshold.level)  # NaN is not
        n_flagged = int(flagged.sum())
        among = run.n_scored if threshold.kind == "fpr" else n_flagged
        return Flags(threshold, flagged, n_flagged, threshold.level * among)
    values = run.values(threshold.axis)
    odder = np.greater_equal if threshold.axis.higher_is_odder else np.less_equal
    flagged = odder(values, threshold.value)
    rate = rate_of(run, threshold)
    expected = None if rate is None else rate * run.n_scored
    return Flags(threshold, flagged, int(flagged.sum()), expected)


def rate_of(run: Run, threshold: ByScore) -> float | None:
    """How often an image that belongs is flagged, by the calibration; None without one."""
    usual = run.usual(threshold.axis)
    if usual is None:
        return None
    if threshold.axis.higher_is_odder:
        n = len(usual) - np.searchsorted(usual, threshold.value, side="left")
    else:
        n = np.searchsorted(usual, threshold.value, side="right")
    return float((n + 1) / (len(usual) + 1))


def line_on(run: Run, flags: Flags, axis: Axis) -> float | None:
    """The place of the threshold on an axis; None if it is not about that axis."""
    threshold = flags.threshold
    if isinstance(threshold, ByScore):
        return threshold.value if threshold.axis == axis else None
    if not axis.is_combined or not run.has_p:
        return None
    cutoff = threshold.level
    if threshold.kind != "fpr":
        cutoff = float(run.p[flags.flagged].max()) if flags.n_flagged else 0.0
    if axis.measure == P:
        return cutoff
    if run.calibration is None:  # between which scores the line lies, nobody can say
        return None
    score = conformal.threshold(run.calibration.combined, cutoff)
    return score if math.isfinite(score) else None


def moved(run: Run, threshold: Threshold, steps: int) -> Threshold:
    """The threshold moved by so many steps: a stricter one flags fewer; negative is looser."""
    if isinstance(threshold, Rule):
        exponent = round(_STEPS * math.log10(threshold.level)) - steps
        level = float(f"{10 ** (exponent / _STEPS):.2g}")
        if level == threshold.level:  # two digits are coarser than a step
            level = float(f"{10 ** ((exponent - np.sign(steps)) / _STEPS):.2g}")
        return supported(run, Rule(threshold.kind, min(level, _MAX_LEVEL)))
    low, high = run.shown_range(threshold.axis)
    step = (high - low) / 100 * (1 if threshold.axis.higher_is_odder else -1)
    return ByScore(threshold.axis, threshold.value + steps * step)


def supported(run: Run, rule: Rule) -> Rule:
    """The rule, with its level raised to the least one that the calibration has images for."""
    if run.calibration is None:
        assert run.decision is not None
        return Rule(rule.kind, max(rule.level, run.decision.least_p))
    try:
        check_level(rule, run.calibration, run.n_scored)
    except CalibrationError:
        return Rule(rule.kind, least_level(rule, run.calibration, run.n_scored))
    return rule


def asked(run: Run, threshold: Threshold, value: float) -> Threshold:
    """The same kind of threshold at a value that the user typed. Raises CalibrationError."""
    if isinstance(threshold, ByScore):
        return ByScore(threshold.axis, value)
    rule = Rule(threshold.kind, value)
    if run.calibration is None:
        return supported(run, rule)
    check_level(rule, run.calibration, run.n_scored)
    return rule


def pointed_at(run: Run, threshold: Threshold, axis: Axis, value: float) -> Threshold:
    """The threshold at a place on a plot: of the same kind, if that is about the plot's axis."""
    bare = axis == COMBINED and run.calibration is None
    if isinstance(threshold, ByScore) or not axis.is_combined or bare or not run.has_p:
        return ByScore(axis, value)
    p = value
    if axis == COMBINED and run.calibration is not None:
        p = float(conformal.conformal_p(run.calibration.combined, np.array([value]))[0])
    if threshold.kind == "fpr":
        level = p
    else:
        adjusted = run.adjusted_p(threshold.kind)[run.p <= p]
        level = float(adjusted.max()) if len(adjusted) else 0.0
    digits = float(f"{min(max(level, 1e-6), _MAX_LEVEL):.2g}")
    return supported(run, Rule(threshold.kind, digits))


def by_score(run: Run, axis: Axis, n_flagged: int) -> ByScore:
    """The score on an axis that flags about `n_flagged` images."""
    values = run.values(axis)
    order = run.order(axis)[: run.n_scored]
    if not len(order):
        return ByScore(axis, 0.0)
    if axis.higher_is_odder:
        order = order[::-1]
    place = min(max(n_flagged, 1), len(order)) - 1
    return ByScore(axis, float(values[order[place]]))


def _far_out(values: NDArray[np.floating[Any]]) -> float:
    """Tukey's outer fence above these values, in nats; 0 where there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0
    low, high = np.quantile(finite, [0.25, 0.75])
    return float(high + _FENCE * max(high - low, 1.0))


def of_kind(run: Run, flags: Flags, kind: str, axis: Axis) -> Threshold:
    """A threshold of another kind: a rule at the same or the default level, or by a score.

    The score flags about as many images as are flagged now.
    """
    if kind == "score":
        return by_score(run, axis, flags.n_flagged)
    here = flags.threshold
    level = here.level if isinstance(here, Rule) else Rule().level
    return supported(run, Rule(kind, level))


def promise(run: Run, flags: Flags) -> str:
    """What a threshold promises about errors, in words."""
    threshold, expected = flags.threshold, flags.expected
    if isinstance(threshold, Rule) and threshold.kind != "fpr":
        return f"of these, about {expected:,.1f} at most belong, on average"
    if expected is None:
        return "no error rate without a calibration"
    if isinstance(threshold, ByScore):
        rate = f"FPR about {100 * (rate_of(run, threshold) or 0):.2g} %; "
        return f"{rate}if all belonged, about {expected:,.1f} would be"
    return f"if all belonged, about {expected:,.1f} would be"


def words(run: Run, threshold: Threshold) -> str:
    """The threshold in a few words."""
    if isinstance(threshold, Rule):
        return str(threshold)
    sign = "\u2265" if threshold.axis.higher_is_odder else "\u2264"
    return f"{run.label(threshold.axis)} {sign} {threshold.value:.4g}"
