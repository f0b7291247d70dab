"""Gathers all that a report says: counts, flags, distributions, odd images, comparisons."""

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
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.look import Look, Looker
from hvaeood_cli.report import figures
from hvaeood_cli.report.evaluation import Comparison
from hvaeood_cli.report.gallery import Sight, picture
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.judgements import Judgement, Judgements
from hvaeood_cli.store.score_file import ScoreFile

MAX_BAD = 50  # unreadable images that are listed
MAX_JUDGED = 200  # judged images that are listed


@dataclass(frozen=True)
class Distribution:
    """The distribution of one score over the calibration's images and over the batch."""

    title: str
    drawing: Markup


@dataclass(frozen=True)
class Odd:
    """One image of the gallery."""

    name: bytes
    flagged: bool
    combined: float
    p_combined: float | None
    p_value: list[float]  # by k, from 1; empty if the file has no decision
    llr: list[float]  # by k, from 1, nats
    k: int
    bits_per_dim: float
    judgement: Judgement
    sight: Sight


@dataclass(frozen=True)
class Section:
    """What a report says of one score file."""

    scores: ScoreFile
    ranking: Ranking
    rule: Rule | None
    n_flagged: int
    cut_in_words: str
    calibrated: bool  # whether the calibration that decided is at hand
    distributions: list[Distribution]
    gallery: list[Odd]
    judged_images: list[tuple[bytes, Judgement]]
    n_judged: int
    bad: list[tuple[bytes, str, str]]  # path, status and reason of unreadable images
    n_bad: int

    @property
    def drift(self) -> Drift | None:
        return self.ranking.drift


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
    """Gather what a report says of one score file.

    calibration: the one that decided the file; None if it is not at hand. look: shows images; None
    if they cannot be shown. top: how many of the oddest images the gallery has.
    """
    ranking = Ranking.of(scores, calibration)
    decision = scores.decision
    bad = np.flatnonzero(~scores.scored)
    judged = list(judgements.rows(scores))
    return Section(
        scores=scores,
        ranking=ranking,
        rule=scores.rule,
        n_flagged=decision.n_flagged if decision else 0,
        cut_in_words=f"p = {decision.threshold:.2g}" if decision and decision.threshold else "",
        calibrated=calibration is not None,
        distributions=_distributions(scores, ranking, calibration),
        gallery=_gallery(scores, ranking, judgements, look, top),
        judged_images=[(bytes(scores.names[i]), one) for i, one in judged[:MAX_JUDGED]],
        n_judged=len(judged),
        bad=[
            (bytes(scores.names[i]), scores.status_name(i), scores.errors[i]) for i in bad[:MAX_BAD]
        ],
        n_bad=len(bad),
    )


def _distributions(
    scores: ScoreFile, ranking: Ranking, calibration: Calibration | None
) -> list[Distribution]:
    """Distributions of the combined score and of each score that lists show."""
    scored, decision = scores.scored, scores.decision
    level = decision.threshold if decision else 0.0
    found: list[Distribution] = []

    def add(title: str, axis: str, usual: Any, here: Any, cut: float | None) -> None:
        drawing = figures.histogram(usual, here[scored], cut, axis, f"p = {level:.2g}")
        found.append(Distribution(title, drawing))

    def cut(usual: Any) -> float | None:
        return threshold(np.sort(usual), level) if calibration and level > 0 else None

    combined = calibration.combined if calibration else None
    add("Combined score", "-log density, nats", combined, ranking.combined, cut(combined))
    for column in scores.scores:
        if not column.listed:
            continue
        known = calibration.columns.get(column.name) if calibration else None
        for i, (title, here) in enumerate(scores.each(column)):
            usual = None if known is None else known.reshape(len(known), -1)[:, i]
            line = cut(usual) if column.name == "llr" else None
            unit = "" if column.unit in title else f", {column.unit}"
            add(title, f"{title}{unit}", usual, here, line)
    return found


def _gallery(
    scores: ScoreFile, ranking: Ranking, judgements: Judgements, look: Looker | None, top: int
) -> list[Odd]:
    rows = ranking.order()[:top]
    sights = _sights(look, rows)
    decision = scores.decision
    return [
        Odd(
            name=bytes(scores.names[i]),
            flagged=bool(decision and decision.flagged[i]),
            combined=float(ranking.combined[i]),
            p_combined=float(decision.p_combined[i]) if decision else None,
            p_value=[float(p) for p in decision.p_value[i]] if decision else [],
            llr=[float(value) for value in scores.llr[i]],
            k=int(ranking.k[i]),
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
    except HvaeoodError as error:  # the model's files are broken: make the report all the same
        seen = [error] * len(rows)
    return [picture(one) for one in seen]
