"""How well scores tell two sets apart: a thin layer over scikit-learn with the paper's FPR80.

The positive class is out-of-distribution; a higher score is more out-of-distribution.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]

_RESAMPLES = 1000
_MAX_DRAWS = 10_000_000  # images drawn in all resamples of one score; large sets get fewer


class Metrics(NamedTuple):
    """Threshold-free figures of one score (paper, section 5)."""

    auroc: float
    auprc: float  # average precision
    fpr80: float  # false-positive rate at the first threshold whose true-positive rate is >= 0.8
    n: int  # images of each class


class Intervals(NamedTuple):
    """Bootstrap 95 % intervals, (low, high), of each figure in `Metrics`."""

    auroc: tuple[float, float]
    auprc: tuple[float, float]
    fpr80: tuple[float, float]
    n_resamples: int


def compare(inside: Numbers, outside: Numbers, seed: int = 0) -> Metrics:
    """Metrics of scores (n,) of in-distribution images against (m,) of others.

    Both classes count equally: all of the smaller set, a seeded random subset of the larger.
    Raises ValueError when a set is empty or a score is NaN.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    truth, scores = balanced(inside, outside, seed)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return Metrics(
        auroc=float(roc_auc_score(truth, scores)),
        auprc=float(average_precision_score(truth, scores)),
        fpr80=float(fpr[np.argmax(tpr >= 0.8)]),
        n=len(truth) // 2,
    )


def balanced(
    inside: Numbers, outside: Numbers, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
    """Truth (0 in-distribution, 1 out) and scores of equally many images of both kinds, (2 n,).

    Raises ValueError when a set is empty or a score is NaN.
    """
    n = min(len(inside), len(outside))
    if n == 0 or np.isnan(inside).any() or np.isnan(outside).any():
        raise ValueError("both sets need scores, and none of them NaN")
    random = np.random.default_rng(seed)
    drawn = [
        scores if len(scores) == n else random.choice(scores, n, replace=False)
        for scores in (inside, outside)
    ]
    return np.repeat([0, 1], n), np.concatenate(drawn)


def bootstrap(inside: Numbers, outside: Numbers, seed: int = 0) -> Intervals:
    """How far chance moves the figures of `compare`, by drawing images of each class again.

    The intervals are percentiles. The scores are sorted once, and each resample only weights them,
    which takes a tenth of the time of scikit-learn's functions. A test compares the two.
    """
    truth, scores = balanced(inside, outside, seed)
    n = len(truth) // 2
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), 2 * n - 1)  # where runs of ties end
    random = np.random.default_rng(seed)
    n_resamples = int(np.clip(_MAX_DRAWS // n, 100, _RESAMPLES))
    figures = np.empty((n_resamples, 3))
    for row in figures:
        weights = np.concatenate(
            [np.bincount(random.integers(n, size=n), minlength=n) for _ in range(2)]
        )
        row[:] = _weighted(weights[order], truth[order], ends)
    low, high = np.percentile(figures, [2.5, 97.5], axis=0)
    auroc, auprc, fpr80 = ((float(a), float(b)) for a, b in zip(low, high, strict=True))
    return Intervals(auroc, auprc, fpr80, n_resamples)


def _weighted(
    weights: NDArray[np.int64], truth: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[float, float, float]:
    """AUROC, average precision and FPR80 of weighted images, sorted by score downwards."""
    tp = np.cumsum(weights * truth)[ends]
    fp = np.cumsum(weights)[ends] - tp
    tpr, fpr = tp / tp[-1], fp / fp[-1]
    auroc = np.trapezoid(np.concatenate([[0.0], tpr]), np.concatenate([[0.0], fpr]))
    precision = tp / np.maximum(tp + fp, 1)
    auprc = (np.diff(tpr, prepend=0.0) * precision).sum()
    return float(auroc), float(auprc), float(fpr[np.argmax(tpr >= 0.8)])


def curves(inside: Numbers, outside: Numbers, seed: int = 0) -> tuple[Float64, Float64]:
    """ROC and precision-recall curves of the images that `compare` takes.

    Returns (points, 2) of false- and true-positive rate, and (points, 2) of recall and precision.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    truth, scores = balanced(inside, outside, seed)
    fpr, tpr, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    return np.column_stack([fpr, tpr]), np.column_stack([recall[::-1], precision[::-1]])
