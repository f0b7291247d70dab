"""Rules, which turn p-values into flags, and the error rate that each promises.

A rule bounds, on average, how many in-distribution images are flagged. No rule can promise how
many of the other images it finds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.conformal import Float64, conformal_p, least_p, n_needed, two_sided_p
from hvaeood_cli.calibration.slices import for_slices
from hvaeood_cli.errors import CalibrationError
from hvaeood_cli.store.decision import Decision, Rule
from hvaeood_cli.store.score_file import ScoreFile


def decide(calibration: Calibration, scores: ScoreFile, rule: Rule) -> Decision:
    """Decide a run: p-values and flags of every row. A row without scores has p NaN and no flag.

    Raises CalibrationError where the scores were made with other settings than the calibration,
    where they lack one of its statistics, and where it has too few images for the rule's level.
    """
    calibration.check(scores.header)
    calibration.check_statistics(scores)
    n, n_k, all_scored = len(scores), scores.n_layers - 1, scores.scored
    combined, p_combined, p_value = np.empty(n), np.empty(n), np.empty((n, n_k))
    k = np.empty(n, np.int8)
    sorted_llr, _ = calibration.sorted_llr, calibration.middle_of_llr  # once, not by each thread

    def judge(rows: slice) -> None:
        scored = all_scored[rows]
        part = {name: scores[name][rows] for name in calibration.needed}
        combined[rows] = np.where(scored, calibration.combine(part), np.nan)
        p_combined[rows] = conformal_p(calibration.combined, combined[rows])
        llr = scores.llr[rows]
        k[rows] = np.where(scored, calibration.k_differing_most(llr), 0)
        p_value[rows] = _p_by_k(sorted_llr, np.where(scored[:, None], llr, np.nan))
        scores.room.let_go()

    for_slices(n, judge)
    check_level(rule, calibration, scores.n_scored)
    threshold = _threshold(rule, p_combined[all_scored])
    return Decision(
        combined=combined,
        k=k,
        p_value=p_value,
        p_combined=p_combined,
        flagged=np.less_equal(p_combined, threshold),  # NaN is not flagged
        rule=rule.kind,
        level=rule.level,
        threshold=threshold,
        calibration_id=calibration.id,
        n_calibration=len(calibration.combined),
        calibration=calibration.to_bytes(),
    )


def decide_as_asked(calibration: Calibration, scores: ScoreFile, asked: Rule | None) -> Decision:
    """Decide by the rule asked for, else by the rule of the file's decision, else by `Rule()`.

    Returns the file's own decision, the same object, where this rule and calibration made it.
    Raises CalibrationError as `decide` does.
    """
    there = scores.decision
    rule = asked or (there.by if there else Rule())
    if there and (there.by, there.calibration_id) == (rule, calibration.id):
        return there
    return decide(calibration, scores, rule)


def check_level(rule: Rule, calibration: Calibration, n_images: int) -> None:
    """Raise CalibrationError where no p-value of this calibration could ever be flagged."""
    needed = rule.level / _price(rule, n_images)
    n = len(calibration.combined)
    if least_p(n) > needed:
        least = least_level(rule, calibration, n_images)
        raise CalibrationError(
            f"{rule} takes p-values down to {needed:.3g}; the least that this calibration's "
            f"{n:,} images can give is 1/{n + 1} = {least_p(n):.3g}",
            f"choose a level of {least:.2g} or more, as --{rule.kind[:3]} {least:.2g}, or "
            f"calibrate on at least {calibration.images_for(n_needed(needed)):,} images",
        )


def least_level(rule: Rule, calibration: Calibration, n_images: int) -> float:
    """The least level at which such a rule can flag any of so many images, up to two digits."""
    level = least_p(len(calibration.combined)) * _price(rule, n_images)
    digits = 1 - math.floor(math.log10(level))
    return math.ceil(level * 10.0**digits) / 10.0**digits


def least_group(rule: Rule, n_calibration: int, n_images: int) -> int:
    """How many images must stand out together before any of them can be flagged under an FDR."""
    if rule.kind == "fpr":
        return 1
    least = least_p(n_calibration) * _price(rule, n_images)
    return max(1, math.ceil(n_images * least / rule.level - 1e-9))


def _price(rule: Rule, n_images: int) -> float:
    """By what a rule divides its level: 1 + 1/2 + ... + 1/n, for any dependence among n images."""
    if rule.kind != "fdr-by":
        return 1.0
    return float((1.0 / np.arange(1, max(n_images, 1) + 1)).sum())


def _threshold(rule: Rule, p: Float64) -> float:
    """The largest p that is flagged; 0 where none is."""
    if rule.kind == "fpr":
        return rule.level
    if not len(p):
        return 0.0
    rejected: Float64 = p[adjusted(rule.kind, p) <= rule.level]
    return float(rejected.max()) if len(rejected) else 0.0


def adjusted(kind: str, p: Float64) -> Float64:
    """The least level of FDR at which each of the p-values (N,) is flagged, (N,).

    kind: "fdr", of Benjamini and Hochberg (1995), or "fdr-by", of Benjamini and Yekutieli (2001).
    (As SciPy's false_discovery_control, which takes as long to load as a folder to score.)
    """
    order, places = np.argsort(p), np.arange(1, len(p) + 1)
    found = p[order] * (len(p) / places)
    if kind == "fdr-by":
        found *= (1.0 / places).sum()
    found[order] = np.minimum.accumulate(found[::-1])[::-1].clip(0.0, 1.0)
    return found


def _p_by_k(usual: NDArray[np.floating[Any]], llr: NDArray[np.floating[Any]]) -> Float64:
    """Two-sided conformal p-values of LLR^{>k}, (N, L - 1), against all images calibrated on.

    usual: (n, L - 1) nats, each column sorted upwards; llr: (N, L - 1) nats. Both ends count: a
    plain image has too small a ratio, where a strange one has too large a one.
    """
    columns = zip(usual.T, llr.T, strict=True)
    return np.stack([two_sided_p(there, here) for there, here in columns], axis=1)
