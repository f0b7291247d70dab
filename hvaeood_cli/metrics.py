"""How well scores tell two sets apart: a thin layer over scikit-learn with the paper's FPR80.

The positive class is out-of-distribution; a higher score is more out-of-distribution.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]


class Metrics(NamedTuple):
    """Threshold-free figures of one score (paper, section 5)."""

    auroc: float
    auprc: float  # average precision
    fpr80: float  # false-positive rate at the first threshold whose true-positive rate is >= 0.8
    n: int  # images of each class


def compare(inside: Scores, outside: Scores, seed: int = 0) -> Metrics:
    """Metrics of scores (n,) of in-distribution images against (m,) of others.

    Both classes count equally: all of the smaller set, a seeded random subset of the larger.
    Raises ValueError when a set is empty or a score is NaN.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    n = min(len(inside), len(outside))
    if n == 0 or np.isnan(inside).any() or np.isnan(outside).any():
        raise ValueError("both sets need scores, and none of them NaN")
    random = np.random.default_rng(seed)
    drawn = [
        scores if len(scores) == n else random.choice(scores, n, replace=False)
        for scores in (inside, outside)
    ]
    truth = np.repeat([0, 1], n)
    scores = np.concatenate(drawn)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return Metrics(
        auroc=float(roc_auc_score(truth, scores)),
        auprc=float(average_precision_score(truth, scores)),
        fpr80=float(fpr[np.argmax(tpr >= 0.8)]),
        n=n,
    )
