"""Evaluation: how well scores tell labelled images apart, as in the paper's Tables 2 and 7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import MUST_AGREE, Calibration, settings_of
from hvaeood_cli.errors import SourceError, StoreError
from hvaeood_cli.report.labels import Labels, match_files
from hvaeood_cli.report.metrics import Float64, Intervals, Metrics, bootstrap, compare, curves
from hvaeood_cli.store.score_file import ScoreFile

SEED = 0  # of the draw of equally many images of both kinds, and of the bootstrap

Scores = dict[str, Float64]  # by title, (N,) each, higher is more out-of-distribution


@dataclass(frozen=True)
class Figures:
    """The figures of one score in one comparison."""

    score: str
    metrics: Metrics
    intervals: Intervals
    roc: Float64  # (points, 2)
    precision_recall: Float64  # (points, 2)


@dataclass(frozen=True)
class Comparison:
    """In-distribution images (`inside`) against one set of others (`outside`)."""

    inside: str
    outside: str
    n_inside: int
    n_outside: int
    figures: list[Figures]

    def facts(self) -> dict[str, Any]:
        """The comparison as JSON takes it, without the curves."""
        rows = [
            {"score": one.score, **one.metrics._asdict(), "intervals": one.intervals._asdict()}
            for one in self.figures
        ]
        names = {"inside": self.inside, "outside": self.outside, "seed": SEED}
        return names | {"n_inside": self.n_inside, "n_outside": self.n_outside, "scores": rows}


def evaluate(
    files: list[ScoreFile],
    names: list[str],
    labels: Labels | None,
    calibration: Calibration | None = None,
) -> list[Comparison]:
    """Compare every score of in-distribution images with that of each set of others.

    `labels`, if given, say which images of all files belong; else the labels in the files do; else,
    of several files, the first is in-distribution and each other one is a set. Returns an empty
    list where nothing of this is known. calibration: that decided all files, by which typicality
    and each aspect of the combined score are compared as well. Raises SourceError for labels that
    name no image, that name one kind only, or that only some of the files have; StoreError for
    files of different models or settings.
    """
    check_comparable(files)
    ranked = [ranking_scores(scores, calibration) for scores in files]
    if not have_one_calibration(files):
        for of_file in ranked:  # scores of different densities cannot be compared
            of_file.pop("combined", None)
    if labels is not None:
        return [_pooled(ranked, match_files(labels, files).labels, files)]
    stored = [scores.label for scores in files if scores.label is not None]
    if len(stored) == len(files):
        return list(_by_file(ranked, stored, names, files))
    if stored:
        bare = next(scores.path for scores in files if scores.label is None)
        raise SourceError(
            f"{bare} says nothing of what belongs, but another of these files does",
            "score it with --label 0 or 1 as well, or name all of them in --labels FILE.csv",
        )
    if len(files) > 1:
        guessed = [np.full(len(scores), int(i > 0), np.int8) for i, scores in enumerate(files)]
        return list(_by_file(ranked, guessed, names, files))
    return []


def ranking_scores(scores: ScoreFile, calibration: Calibration | None = None) -> Scores:
    """Every score that can rank images, by title; bounds are negated, so that higher is odder.

    calibration: that decided them, for the scores that compare an image with usual ones.

    LLR>k/-L is the ratio as a share of what the image costs. Plain images have few nats to lose at
    any k: every other score takes that for a sign that they belong.
    """
    found: Scores = {}
    for column in scores.scores:
        if column.density is not None and column.odd_end != "either":
            sign = 1.0 if column.odd_end == "high" else -1.0
            found |= {title: sign * each.astype(np.float64) for title, each in scores.each(column)}
    if calibration and not calibration.mismatches_of(scores.header):
        found["typicality"] = calibration.typicality(scores.lower_bound)
        if len(calibration.aspects) > 1:
            rare = calibration.rarities(scores.columns)
            found |= {f"aspect: {aspect}": values for aspect, values in rare.items()}
    if scores.decision:
        found["combined"] = scores.decision.combined
    return found


def have_one_calibration(files: list[ScoreFile]) -> bool:
    """Whether the files' combined scores can be compared: one calibration, or none, made them."""
    return len({scores.decision and scores.decision.calibration_id for scores in files}) <= 1


def check_comparable(files: list[ScoreFile]) -> None:
    """Raise StoreError for files of different models or settings, with what differs."""
    first = files[0]
    for other in files[1:]:
        here, there = (settings_of(one.header) for one in (first, other))
        for key, words in MUST_AGREE.items():
            if here[key] != there[key]:
                raise StoreError(
                    f"{first.path} and {other.path} cannot be compared: {words} "
                    f"{str(here[key])[:12]} in the one, {str(there[key])[:12]} in the other",
                    "score both with the same model and settings",
                )


def _pooled(
    ranked: list[Scores], known: list[NDArray[np.int8]], files: list[ScoreFile]
) -> Comparison:
    """Compare images labelled 0 with images labelled 1, over all files.

    Raises SourceError where no scored image has the one label or the other.
    """
    truth = np.concatenate(known)
    scored = np.concatenate([scores.scored for scores in files])
    names = [name for name in ranked[0] if all(name in of_file for of_file in ranked)]
    pooled = {name: np.concatenate([of_file[name] for of_file in ranked]) for name in names}
    inside, outside = ((truth == kind) & scored for kind in (0, 1))
    if not inside.any() or not outside.any():
        raise SourceError(
            f"the labels name {int(inside.sum())} scored images that belong and "
            f"{int(outside.sum())} that do not",
            "both kinds are needed to compare them",
        )
    return _compare("label 0", "label 1", pooled, inside, pooled, outside)


def _by_file(
    ranked: list[Scores],
    truth: Sequence[NDArray[np.int8]],
    names: list[str],
    files: list[ScoreFile],
) -> Iterator[Comparison]:
    """Compare the OOD images of each file with the in-distribution images of all files."""
    usual = [i for i, of_file in enumerate(truth) if (of_file == 0).any()]
    shared = [name for name in ranked[0] if all(name in of_file for of_file in ranked)]
    for j, of_file in enumerate(truth):
        odd = (of_file == 1) & files[j].scored
        if not usual or not odd.any():
            continue
        pooled = {name: np.concatenate([ranked[i][name] for i in usual]) for name in shared}
        inside = np.concatenate([(truth[i] == 0) & files[i].scored for i in usual])
        if inside.any():
            here = {name: ranked[j][name] for name in shared}
            title = ", ".join(names[i] for i in usual)
            yield _compare(title, names[j], pooled, inside, here, odd)


def _compare(
    inside_name: str,
    outside_name: str,
    usual: Scores,
    inside: NDArray[np.bool_],
    odd: Scores,
    outside: NDArray[np.bool_],
) -> Comparison:
    figures = []
    for name in usual:
        a, b = usual[name][inside], odd[name][outside]
        # A score that could not be computed is not usual: it ranks highest, as an infinite one.
        a, b = (np.nan_to_num(values, nan=np.finfo(np.float64).max) for values in (a, b))
        figures.append(
            Figures(name, compare(a, b, SEED), bootstrap(a, b, SEED), *curves(a, b, SEED))
        )
    return Comparison(inside_name, outside_name, int(inside.sum()), int(outside.sum()), figures)
