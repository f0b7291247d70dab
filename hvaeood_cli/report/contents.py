"""Gathers all that a report says: flagged images and why, distributions, comparisons."""

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
from hvaeood_cli.calibration.foreign import Foreign, foreign
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.look import Look, Looker
from hvaeood_cli.report import figures
from hvaeood_cli.report.evaluation import Comparison
from hvaeood_cli.report.gallery import PAGE, Sight, picture, thumbnail
from hvaeood_cli.store.conversions import conversions_in_words
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.judgements import Judgement, Judgements
from hvaeood_cli.store.score_file import ScoreFile

MAX_BAD = 50  # unreadable images that are listed
MAX_JUDGED = 200  # judged images that are listed
MAX_THUMBNAILS = 2000  # reading more images takes minutes
# Images that are read and reconstructed together: more would not fit in memory. Those of a model
# that takes tiles may be large, and are taken one by one.
_AT_ONCE = 16
_LINE = 500  # bytes that an image without a picture takes on a page, about


@dataclass(frozen=True)
class Distribution:
    """The distribution of one score over the calibration's images and over the batch."""

    title: str
    drawing: Markup


@dataclass(frozen=True)
class Odd:
    """One image of the gallery, with its copies: they have the same pixels and the same scores."""

    name: bytes
    copies: list[bytes]  # the names of the others
    flagged: bool
    why: str  # why it is flagged, in words; empty where it is not, or the calibration not at hand
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
    foreign: Foreign | None  # where the model does not know these images
    conversions: str  # what was done to how many images, in words; empty if nothing was
    gallery: list[Odd]  # the oddest, with pictures
    more: list[Odd]  # the other flagged ones; of foreign images none, for they are no finds
    n_pictures: int  # how many were looked for
    missing: list[tuple[bytes, str]]  # pictures that could not be shown, and why
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
    glance: Looker | None,
    top: int,
    room: int = PAGE,
) -> Section:
    """Gather what a report says of one score file.

    calibration: the one that decided the file; None if it is not at hand. look: shows images beside
    their reconstructions, glance: alone; None if they are not to be shown. top: how many of the
    oddest images are shown large. room: bytes that all this may take on a page.
    """
    ranking = Ranking.of(scores, calibration)
    decision = scores.decision
    bad = np.flatnonzero(scores.unreadable)
    judged = list(judgements.rows(scores))
    unknown = foreign(scores, calibration)
    rows = _without_copies(scores, ranking.order())
    shown, rest = rows[:top], rows[top:]
    flagged = decision.flagged[rest] if decision and not unknown else np.zeros(len(rest), bool)
    rest = rest[flagged]
    tiled = scores.header.fit == "tile"
    at_once = 1 if tiled else _AT_ONCE
    # Where the peak decides, which is of the highest k, its map is the one that says where.
    k = np.full(len(scores), scores.n_layers - 1) if tiled else ranking.k
    large = _pictures(look, shown, k, at_once)
    taken = sum(sight.n_bytes for sight in large)
    small = _thumbnails(glance, rest, room - taken - _LINE * len(rest), at_once)
    odd = _odd(scores, ranking, judgements, [*shown, *rest], [*large, *small])
    return Section(
        scores=scores,
        ranking=ranking,
        rule=scores.rule,
        n_flagged=decision.n_flagged if decision else 0,
        cut_in_words=f"p = {decision.threshold:.2g}" if decision and decision.threshold else "",
        calibrated=calibration is not None,
        distributions=_distributions(scores, ranking, calibration),
        foreign=unknown,
        conversions=_conversions(scores),
        gallery=odd[: len(shown)],
        more=odd[len(shown) :],
        n_pictures=sum(bool(one.sight.image or one.sight.missing) for one in odd),
        missing=[(one.name, one.sight.note) for one in odd if one.sight.missing],
        judged_images=[(bytes(scores.names[i]), one) for i, one in judged[:MAX_JUDGED]],
        n_judged=len(judged),
        bad=[
            (bytes(scores.names[i]), scores.status_name(i), scores.errors[i]) for i in bad[:MAX_BAD]
        ],
        n_bad=len(bad),
    )


def _conversions(scores: ScoreFile) -> str:
    done, size = scores.conversion_counts, scores.header.image_size
    return conversions_in_words(scores.n_scored, done, size) or ""


def _without_copies(scores: ScoreFile, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in their order, of copies only the first."""
    _, places = np.unique(scores.first_copies[order], return_index=True)
    return order[np.sort(places)]


def _distributions(
    scores: ScoreFile, ranking: Ranking, calibration: Calibration | None
) -> list[Distribution]:
    """Distributions of the combined score, if there is one, and of each score that lists show."""
    scored, decision = scores.scored, scores.decision
    level = decision.threshold if decision else 0.0
    found: list[Distribution] = []

    def add(title: str, axis: str, usual: Any, here: Any, cut: float | None) -> None:
        drawing = figures.histogram(usual, here[scored], cut, axis, f"p = {level:.2g}")
        found.append(Distribution(title, drawing))

    if decision:  # by the combined score alone: the others have no threshold
        combined = calibration.combined if calibration else None
        line = None if combined is None or not level else threshold(combined, level)
        combined = None if ranking.within else combined
        add("Combined score", "-log density, nats", combined, decision.combined, line)
    for column in scores.scores:
        if not column.listed:
            continue
        shown = calibration if not ranking.within else None  # it would be the same images twice
        known = shown.columns.get(column.name) if shown else None
        for i, (title, here) in enumerate(scores.each(column)):
            usual = None if known is None else known.reshape(len(known), -1)[:, i]
            unit = "" if column.unit in title else f", {column.unit}"
            add(title, f"{title}{unit}", usual, here, None)
    return found


def _odd(
    scores: ScoreFile,
    ranking: Ranking,
    judgements: Judgements,
    rows: Sequence[np.int64],
    sights: Sequence[Sight],
) -> list[Odd]:
    decision = scores.decision
    copies = _copies(scores, rows)
    why = _why(scores, ranking, rows)
    return [
        Odd(
            name=bytes(scores.names[i]),
            copies=copies.get(int(i), []),
            flagged=bool(decision and decision.flagged[i]),
            why=why.get(int(i), ""),
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


def _why(scores: ScoreFile, ranking: Ranking, rows: Sequence[np.int64]) -> dict[int, str]:
    """Why those of the rows that are flagged are odd, by row."""
    if scores.decision is None or ranking.calibration is None:
        return {}
    flagged = [int(i) for i in rows if scores.decision.flagged[i]]
    found = reasons(ranking.calibration, scores, flagged)
    return {i: reason.sentence for i, reason in zip(flagged, found, strict=True) if reason}


def _copies(scores: ScoreFile, rows: Sequence[np.int64]) -> dict[int, list[bytes]]:
    """The names of the other copies of each row's image, by row, where there are any."""
    first, counts = scores.first_copies, np.bincount(scores.first_copies)
    copied = {int(first[i]): int(i) for i in rows if counts[first[i]] > 1}
    found: dict[int, list[bytes]] = {}
    for other in np.flatnonzero(np.isin(first, list(copied))):
        row = copied[int(first[other])]
        if other != row:
            found.setdefault(row, []).append(bytes(scores.names[other]))
    return found


def _pictures(
    look: Looker | None, rows: NDArray[np.int64], k: NDArray[np.integer], at_once: int
) -> list[Sight]:
    """Each image beside its reconstructions; a note where that cannot be.

    k: whose map is shown of each row of the file, (N,).
    """
    if look is None:
        return [Sight(note="not shown")] * len(rows)
    return [
        picture(one, int(k[row]), len(rows))
        for part in _parts(rows, at_once)
        for row, one in zip(part, _seen(look, part), strict=True)
    ]


def _thumbnails(
    glance: Looker | None, rows: NDArray[np.int64], room: int, at_once: int
) -> list[Sight]:
    """Small pictures of the first of the rows, until there is no room; nothing of the others."""
    sights: list[Sight] = []
    for part in _parts(rows, at_once):
        if glance is None or room <= 0 or len(sights) >= MAX_THUMBNAILS:
            break
        found = [thumbnail(one) for one in _seen(glance, part)]
        room -= sum(sight.n_bytes for sight in found)
        sights += found
    return sights + [Sight()] * (len(rows) - len(sights))


def _parts(rows: NDArray[np.int64], at_once: int) -> list[NDArray[np.int64]]:
    return [rows[first : first + at_once] for first in range(0, len(rows), at_once)]


def _seen(look: Looker, rows: NDArray[np.int64]) -> Sequence[Look | HvaeoodError]:
    """A look at each row, or the error that prevents it."""
    try:
        return look([int(row) for row in rows])
    except HvaeoodError as error:  # the model's files are broken: make the report all the same
        return [error] * len(rows)
