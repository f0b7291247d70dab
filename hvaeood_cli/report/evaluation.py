"""Scores beside what is known: the paper's Table 2 and 7 for any score files, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.calibration import SETTINGS, settings_of
from hvaeood_cli.calibration.density import shares
from hvaeood_cli.errors import SourceError, StoreError
from hvaeood_cli.report.labels import Labels, match
from hvaeood_cli.report.metrics import Float, Intervals, Metrics, bootstrap, compare, curves
from hvaeood_cli.store.reader import ScoreFile

SEED = 0  # of the equal draw and of the bootstrap

Floats = NDArray[np.float64]
Columns = dict[str, Floats]


@dataclass(frozen=True)
class Figures:
    """One score on one set."""

    score: str
    metrics: Metrics
    intervals: Intervals
    roc: Float  # (points, 2)
    precision_recall: Float  # (points, 2)


@dataclass(frozen=True)
class Comparison:
    """In-distribution images against one set of others."""

    inside: str
    outside: str
    n_inside: int
    n_outside: int
    figures: list[Figures]

    def facts(self) -> dict[str, Any]:
        """For JSON, without the curves."""
        rows = [
            {"score": one.score, **one.metrics._asdict(), "intervals": one.intervals._asdict()}
            for one in self.figures
        ]
        names = {"inside": self.inside, "outside": self.outside, "seed": SEED}
        return names | {"n_inside": self.n_inside, "n_outside": self.n_outside, "scores": rows}


def evaluate(files: list[ScoreFile], names: list[str], labels: Labels | None) -> list[Comparison]:
    """Every score of in-distribution images against each set of others; empty if none is known.

    With labels, they say which is which over all files. Else the labels in the files do; else,
    of several files, the first is in-distribution and each other one a set of its own.
    Raises SourceError for labels that name no image, or only one kind; StoreError for files that
    different models or settings made.
    """
    check_same_run(files)
    columns = [score_columns(scores) for scores in files]
    if len({scores.decision and scores.decision.calibration_id for scores in files}) > 1:
        for of_file in columns:  # one density's scores say nothing beside another's
            of_file.pop("combined", None)
    if labels is not None:
        known = [match(labels, scores) for scores in files]
        if all((of_file < 0).all() for of_file in known):
            raise SourceError("the labels name none of these images", "paths as they were scored")
        return [_pooled(columns, known, files)]
    stored = [scores.label for scores in files]
    if all(of_file is not None for of_file in stored):
        return list(_by_file(columns, stored, names, files))
    if len(files) > 1:
        guessed = [np.full(len(scores), int(i > 0), np.int8) for i, scores in enumerate(files)]
        return list(_by_file(columns, guessed, names, files))
    return []


def score_columns(scores: ScoreFile) -> Columns:
    """Everything that can rank images, (N,) each, higher is more out-of-distribution.

    LLR>k/-L is the ratio as a share of the image's own cost. Plain images have few nats to lose at
    any level, and only this one does not count it for them.
    """
    lower = {f"L>{k}" if k else "L": -values for k, values in enumerate(scores.lower_bound.T)}
    ratios = {f"LLR>{k}": values for k, values in enumerate(scores.llr.T, start=1)}
    of_cost = shares(scores.lower_bound[:, :1], scores.llr)
    relative = {f"{name}/-L": of_cost[:, i] for i, name in enumerate(ratios)}
    combined = {"combined": scores.decision.combined} if scores.decision else {}
    columns = lower | ratios | relative | combined
    return {name: values.astype(np.float64) for name, values in columns.items()}


def check_same_run(files: list[ScoreFile]) -> None:
    """Raise StoreError where files cannot be compared, with what differs."""
    first = files[0]
    for other in files[1:]:
        here, there = (settings_of(one.attributes, one.settings) for one in (first, other))
        for key, words in SETTINGS.items():
            if here[key] != there[key]:
                raise StoreError(
                    f"{first.path} and {other.path} cannot be compared: {words} "
                    f"{str(here[key])[:12]} in the one, {str(there[key])[:12]} in the other",
                    "score both with the same model and settings",
                )


def _pooled(
    columns: list[Columns], known: list[NDArray[np.int8]], files: list[ScoreFile]
) -> Comparison:
    """All files as one set, split by its labels."""
    truth = np.concatenate(known)
    scored = np.concatenate([scores.scored for scores in files])
    names = [name for name in columns[0] if all(name in of_file for of_file in columns)]
    pooled = {name: np.concatenate([of_file[name] for of_file in columns]) for name in names}
    inside, outside = ((truth == kind) & scored for kind in (0, 1))
    if not inside.any() or not outside.any():
        raise SourceError(
            f"the labels name {int(inside.sum())} scored images that belong and "
            f"{int(outside.sum())} that do not",
            "both kinds are needed to compare them",
        )
    return _compare("label 0", "label 1", pooled, inside, pooled, outside)


def _by_file(
    columns: list[Columns],
    truth: Sequence[NDArray[np.int8] | None],
    names: list[str],
    files: list[ScoreFile],
) -> Iterator[Comparison]:
    """Each file of OOD images against all in-distribution files."""
    rows = [np.zeros(0, np.int8) if of_file is None else of_file for of_file in truth]
    usual = [i for i, of_file in enumerate(rows) if (of_file == 0).any()]
    shared = [name for name in columns[0] if all(name in of_file for of_file in columns)]
    for j, of_file in enumerate(rows):
        odd = (of_file == 1) & files[j].scored
        if not usual or not odd.any():
            continue
        pooled = {name: np.concatenate([columns[i][name] for i in usual]) for name in shared}
        inside = np.concatenate([(rows[i] == 0) & files[i].scored for i in usual])
        if inside.any():
            here = {name: columns[j][name] for name in shared}
            title = ", ".join(names[i] for i in usual)
            yield _compare(title, names[j], pooled, inside, here, odd)


def _compare(
    inside_name: str,
    outside_name: str,
    usual: Columns,
    inside: NDArray[np.bool_],
    odd: Columns,
    outside: NDArray[np.bool_],
) -> Comparison:
    figures = []
    for name in usual:
        a, b = usual[name][inside], odd[name][outside]
        finite = np.finfo(np.float64).max  # an infinite score ranks as the highest
        a, b = (np.clip(values, -finite, finite) for values in (a, b))
        figures.append(
            Figures(name, compare(a, b, SEED), bootstrap(a, b, SEED), *curves(a, b, SEED))
        )
    return Comparison(inside_name, outside_name, int(inside.sum()), int(outside.sum()), figures)
