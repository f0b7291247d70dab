"""All that the page says, gathered: what was scored, what is flagged, how it looks, how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.conformal import threshold
from hvaeood_cli.calibration.drift import Drift
from hvaeood_cli.calibration.rules import Rule
from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.look import Look, Looker
from hvaeood_cli.report import figures
from hvaeood_cli.report.evaluation import Comparison
from hvaeood_cli.report.gallery import Sight, picture
from hvaeood_cli.report.rows import Judged
from hvaeood_cli.store.judgements import Judgement, Judgements
from hvaeood_cli.store.reader import ScoreFile

MAX_BAD = 50  # unreadable images that are listed
MAX_JUDGED = 200  # judged images that are listed


@dataclass(frozen=True)
class Distribution:
    """One statistic of calibration and batch."""

    title: str
    drawing: Markup


@dataclass(frozen=True)
class Odd:
    """One image of the gallery."""

    name: bytes
    flagged: bool
    suspicion: float
    p_combined: float | None
    p_value: list[float]  # by k, from 1; empty where not decided
    llr: list[float]  # by k, from 1, nats
    k: int
    bits_per_dim: float
    judgement: Judgement
    sight: Sight


@dataclass(frozen=True)
class Section:
    """One score file."""

    scores: ScoreFile
    judged: Judged
    n_scored: int
    rule: Rule | None
    n_flagged: int
    cut_in_words: str
    calibrated: bool  # whether the calibration that decided is at hand
    distributions: list[Distribution]
    gallery: list[Odd]
    judged_images: list[tuple[bytes, Judgement]]
    n_judged: int
    bad: list[tuple[bytes, str, str]]  # path, status, why
    n_bad: int

    @property
    def drift(self) -> Drift | None:
        return self.judged.drift


@dataclass(frozen=True)
class Contents:
    """The whole report."""

    sections: list[Section]
    comparisons: list[Comparison]
    created: str
    tool_version: str
    remarks: list[str] = field(default_factory=list)


def gather(
    scores: ScoreFile,
    calibration: Calibration | None,
    judgements: Judgements,
    look: Looker | None,
    top: int,
) -> Section:
    """What there is to say of one score file; its `top` oddest images are looked at.

    judgements: what a person made of its images. calibration: the one that decided it, or None.
    look: None where the model is not at hand.
    """
    judged = Judged.by(scores, calibration)
    decision = scores.decision
    rule = Rule(decision.rule, decision.level) if decision else None
    bad = np.flatnonzero(~scores.scored)
    by_hand = list(judgements.rows(scores))
    names = {code: name for name, code in scores.status_codes.items()}
    return Section(
        scores=scores,
        judged=judged,
        n_scored=int(scores.scored.sum()),
        rule=rule,
        n_flagged=int(decision.flagged.sum()) if decision else 0,
        cut_in_words=f"p = {decision.threshold:.2g}" if decision and decision.threshold else "",
        calibrated=calibration is not None,
        distributions=_distributions(scores, calibration),
        gallery=_gallery(scores, judged, judgements, look, top),
        judged_images=[(bytes(scores.names[i]), one) for i, one in by_hand[:MAX_JUDGED]],
        n_judged=len(by_hand),
        bad=[
            (bytes(scores.names[i]), names.get(int(scores.status[i]), "?"), scores.errors[i])
            for i in bad[:MAX_BAD]
        ],
        n_bad=len(bad),
    )


def _distributions(scores: ScoreFile, calibration: Calibration | None) -> list[Distribution]:
    """The combined score where there is one, then LLR^{>k} for each k, then bits/dim."""
    scored, decision = scores.scored, scores.decision
    level = decision.threshold if decision else 0.0
    words = f"p = {level:.2g}"
    found: list[Distribution] = []
    usual: NDArray[np.floating[Any]] | None

    def add(title: str, axis: str, usual: Any, here: Any, cut: float | None) -> None:
        drawing = figures.histogram(usual, here[scored].astype(np.float64), cut, axis, words)
        found.append(Distribution(title, drawing))

    def cut(usual: Any) -> float | None:
        return threshold(usual, level) if calibration and level > 0 else None

    if decision:
        usual = calibration.oddness if calibration else None
        add("Combined score", "-log density, nats", usual, decision.combined, cut(usual))
    for k, llr in enumerate(scores.llr.T, start=1):
        usual = calibration.sorted_llr[:, k - 1] if calibration else None
        add(f"LLR>{k}", f"LLR>{k}, nats", usual, llr, cut(usual))
    usual = None
    if calibration:  # bits/dim is L on another scale, which the file itself shows
        ratio = _nats_per_bit(scores)
        usual = calibration.lower_bound[:, 0] / ratio if ratio else None
    add("Bits per dimension", "bits/dim", usual, scores.bits_per_dim, None)
    return found


def _nats_per_bit(scores: ScoreFile) -> float:
    """-D ln 2: what L is divided by to give bits/dim; 0 where no image tells."""
    bits, nats = scores.bits_per_dim[scores.scored], scores.lower_bound[scores.scored, 0]
    useful = np.abs(bits) > 1e-6
    return float(np.median(nats[useful] / bits[useful])) if useful.any() else 0.0


def _gallery(
    scores: ScoreFile, judged: Judged, judgements: Judgements, look: Looker | None, top: int
) -> list[Odd]:
    rows = judged.order()[:top]
    sights = _sights(look, rows)
    decision = scores.decision
    return [
        Odd(
            name=bytes(scores.names[i]),
            flagged=bool(decision and decision.flagged[i]),
            suspicion=float(judged.suspicion[i]),
            p_combined=float(decision.p_combined[i]) if decision else None,
            p_value=[float(p) for p in decision.p_value[i]] if decision else [],
            llr=[float(value) for value in scores.llr[i]],
            k=int(judged.k[i]),
            bits_per_dim=float(scores.bits_per_dim[i]),
            judgement=judgements.of(scores, int(i)),
            sight=sight,
        )
        for i, sight in zip(rows, sights, strict=True)
    ]


def _sights(look: Looker | None, rows: NDArray[np.int64]) -> list[Sight]:
    if look is None or not len(rows):
        return [Sight(note="not shown")] * len(rows)
    seen: Sequence[Look | HvaeoodError]
    try:
        seen = look([int(row) for row in rows])
    except HvaeoodError as error:  # the model's files are broken: the report still stands
        seen = [error] * len(rows)
    return [picture(one) for one in seen]
