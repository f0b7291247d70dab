"""Ranking without a calibration: how odd each image is among the others of its batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hvaeood_cli.calibration import batch, slices
from hvaeood_cli.calibration.batch import BatchDensity
from hvaeood_cli.calibration.density import Density
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.tui.run import Run
from tests.score_files import fill_in, make_scores


def mixed(tmp_path, n: int, n_odd: int, shift: float, seed: int = 0) -> ScoreFile:
    """n images, of which the last n_odd have an LLR that is `shift` nats higher."""
    scores = make_scores(tmp_path / "s.h5", n, seed=seed)
    rows = {name: values.copy() for name, values in scores.columns.items()}
    rows["lower_bound"][n - n_odd :, 1:] -= np.float32(shift)
    fill_in(rows)
    return replace(scores, columns=rows)


def taken(scores: ScoreFile, rows: list[int] | np.ndarray) -> ScoreFile:
    """A score file of these rows alone, in this order."""
    columns = {name: values[rows] for name, values in scores.columns.items()}
    return replace(scores, names=scores.names[rows], columns=columns)


@pytest.mark.parametrize("shift", [25.0, -25.0])
@pytest.mark.parametrize("n", [10, 40, 400])
def test_a_minority_that_is_odd_either_way_comes_first(tmp_path, n, shift):
    """Plain images, whose ratios are lower than those of the others, once came last."""
    n_odd = n // 10
    ranking = Ranking.of(mixed(tmp_path, n, n_odd, shift), None)
    assert ranking.by == "batch" and ranking.usual_llr is None and ranking.drift is None
    assert set(ranking.order()[:n_odd]) == set(range(n - n_odd, n))


def test_k_is_the_one_whose_ratio_is_furthest_from_the_median_either_way(tmp_path):
    scores = make_scores(tmp_path / "s.h5", 100, bad=(9,))
    centre = np.nanmedian(scores.llr, axis=0)
    scores.llr[:2] = centre
    scores.llr[0, 1] -= 50.0
    scores.llr[1, 0] += 50.0
    k = Ranking.of(scores, None).k
    assert k[:2].tolist() == [2, 1] and k[9] == 0


@pytest.mark.parametrize("n", [30, 300])
def test_the_order_of_the_images_changes_nothing(tmp_path, n):
    scores = make_scores(tmp_path / "s.h5", n)
    order = np.random.default_rng(1).permutation(n)
    here, there = Ranking.of(scores, None), Ranking.of(taken(scores, order), None)
    np.testing.assert_array_equal(here.combined[order], there.combined)
    np.testing.assert_array_equal(here.k[order], there.k)


def test_copies_of_an_odd_image_do_not_make_it_usual(tmp_path):
    scores = mixed(tmp_path, 100, 1, 40.0)
    many = taken(scores, [*range(99), *[99] * 200])
    assert set(Ranking.of(many, None).order()[:200]) == set(range(99, 299))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_it_is_defined_for_the_smallest_batches(tmp_path, n):
    ranking = Ranking.of(make_scores(tmp_path / "s.h5", n), None)
    assert np.isfinite(ranking.combined).all() and set(ranking.order()) == set(range(n))


def test_what_could_not_be_computed_is_the_oddest_and_what_was_not_scored_has_no_place(tmp_path):
    scores = make_scores(tmp_path / "s.h5", 60, bad=(3,))
    scores["kl"][7, 1] = np.nan
    ranking = Ranking.of(scores, None)
    assert np.isposinf(ranking.combined[7]) and ranking.order()[0] == 7
    assert np.isnan(ranking.combined[3]) and 3 not in ranking.order()
    scores["kl"][:] = np.nan
    nothing = Ranking.of(scores, None)
    assert len(nothing.order()) == 59 and np.isposinf(nothing.combined[scores.scored]).all()


def test_a_batch_of_unreadable_images_has_no_order(tmp_path):
    ranking = Ranking.of(make_scores(tmp_path / "s.h5", 2, bad=(0, 1)), None)
    assert not len(ranking.order()) and ranking.k.tolist() == [0, 0]


def test_the_workbench_ranks_alike(tmp_path):
    scores = mixed(tmp_path, 200, 10, -25.0)
    ranking, run = Ranking.of(scores, None), Run.of(scores, None)
    np.testing.assert_array_equal(run.combined, ranking.combined)
    np.testing.assert_array_equal(run.k, ranking.k)


@pytest.mark.parametrize("copies", [1, 30])
def test_which_images_are_fitted_to_depends_on_their_pixels_alone(tmp_path, monkeypatch, copies):
    monkeypatch.setattr(batch, "_MOST_FITTED", 10)
    scores = taken(make_scores(tmp_path / "s.h5", 40), np.tile(np.arange(40), copies))
    rows = batch._fitted_rows(scores)
    assert scores.content[rows].tolist() == np.unique(scores.content)[:10].tolist()


def test_of_many_images_some_are_fitted_to_and_all_are_ranked(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_MOST_FITTED", 100)
    monkeypatch.setattr(slices, "_ROWS", 64)
    fitted = []
    fit = Density.fit
    monkeypatch.setattr(Density, "fit", lambda v, *a, **k: fitted.append(len(v)) or fit(v, *a, **k))
    scores = mixed(tmp_path, 500, 20, 30.0)
    combined = BatchDensity.of(scores).combine(scores)
    assert set(fitted) == {80} and set(np.argsort(-combined)[:20]) == set(range(480, 500))
