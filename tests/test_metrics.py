"""The metrics against their definitions, on cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvaeood_cli.metrics import compare


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
