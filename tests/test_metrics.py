"""The metrics against their definitions, on cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvaeood_cli.report.metrics import _weighted, bootstrap, compare


def test_a_perfect_and_a_useless_score():
    inside, outside = np.arange(5.0), np.arange(5.0) + 10
    assert compare(inside, outside) == (1.0, 1.0, 0.0, 5)
    assert compare(outside, inside)[0] == 0.0 and compare(outside, inside).fpr80 == 1.0
    assert compare(np.ones(4), np.ones(4))[:3] == (0.5, 0.5, 1.0)


def test_ties_and_the_first_threshold_at_80_percent():
    """TPR reaches 0.8 at threshold 3, which one of the five inside reaches too."""
    inside, outside = np.array([3.0, 2, 2, 1, 0]), np.array([5.0, 4, 3, 3, 0])
    metrics = compare(inside, outside)
    wins = sum((o > i) + 0.5 * (o == i) for o in outside for i in inside)
    assert metrics.auroc == pytest.approx(wins / 25)
    assert metrics.fpr80 == pytest.approx(1 / 5)
    # thresholds 5, 4, 3, 2, 1, 0: recall steps 1/5, 1/5, 2/5, 0, 0, 1/5 at these precisions
    assert metrics.auprc == pytest.approx(0.2 * 1 + 0.2 * 1 + 0.4 * 4 / 5 + 0.2 * 5 / 10)


def test_classes_are_balanced_by_a_seeded_draw():
    random = np.random.default_rng(0)
    inside, outside = random.normal(size=300), random.normal(1.0, size=100)
    assert compare(inside, outside).n == 100
    assert compare(inside, outside) == compare(inside, outside)
    assert compare(inside, outside) != compare(inside, outside, seed=1)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.integers(-5, 5))
def test_a_monotone_map_changes_nothing(values, shift):
    inside, outside = np.array(values, float), np.array(values, float) + shift
    first = compare(inside, outside)
    second = compare(np.exp(inside / 3), np.exp(outside / 3))
    np.testing.assert_allclose(first[:3], second[:3])


def test_nan_and_nothing_are_errors():
    for inside, outside in ((np.array([np.nan]), np.ones(1)), (np.ones(0), np.ones(1))):
        with pytest.raises(ValueError, match="NaN"):
            compare(inside, outside)


def test_the_bootstrap_weighs_images_as_scikit_learn_does():
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], 30)
    scores = random.integers(0, 8, 60) + truth  # ties
    weights = random.integers(0, 4, 60)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), 59)
    auroc, auprc, fpr80 = _weighted(weights[order], truth[order], ends)
    assert auroc == pytest.approx(roc_auc_score(truth, scores, sample_weight=weights))
    assert auprc == pytest.approx(average_precision_score(truth, scores, sample_weight=weights))
    fpr, tpr, _ = roc_curve(truth, scores, sample_weight=weights, drop_intermediate=False)
    assert fpr80 == pytest.approx(fpr[np.argmax(tpr >= 0.8)])


def test_bootstrap_intervals_hold_the_figure_and_shrink_with_n():
    random = np.random.default_rng(1)
    widths = []
    for n in (50, 800):
        inside, outside = random.normal(size=n), random.normal(1.0, size=n)
        found, intervals = compare(inside, outside), bootstrap(inside, outside)
        for name in ("auroc", "auprc", "fpr80"):
            low, high = getattr(intervals, name)
            assert low <= getattr(found, name) <= high
        widths.append(intervals.auroc[1] - intervals.auroc[0])
    # the normal approximation: 1.96 standard errors on each side (Hanley & McNeil, 1982)
    assert widths[1] < widths[0] / 3 and widths[1] == pytest.approx(2 * 1.96 * 0.0121, rel=0.2)
    assert bootstrap(inside, outside) == bootstrap(inside, outside)
