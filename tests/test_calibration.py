"""Calibration and decisions, against brute force, exchangeability and scikit-learn."""

from __future__ import annotations

import itertools
import json
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control, ks_2samp
from sklearn.mixture import GaussianMixture

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.combination import Combination, statistics
from hvaeood_cli.calibration.conformal import conformal_p, least_p, n_needed, threshold, two_sided_p
from hvaeood_cli.calibration.density import _RIDGE, Density, _mixture
from hvaeood_cli.calibration.drift import measure_drift
from hvaeood_cli.calibration.foreign import foreign, knows_images
from hvaeood_cli.calibration.packed import FORMAT_VERSION
from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.calibration.rules import adjusted, decide, least_group
from hvaeood_cli.errors import CalibrationError, StoreError
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.writer import write_decision
from tests.score_files import make_scores

scores_lists = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return make_scores(tmp_path_factory.mktemp("usual") / "s.h5", 1000, seed=1)


@pytest.fixture(scope="module")
def calibration(usual) -> Calibration:
    return Calibration.of(usual)


# -- conformal p-values ---------------------------------------------------------------------------


@given(scores_lists, scores_lists)
def test_p_is_as_defined_with_ties_against_the_image(calibration, scores):
    found = conformal_p(np.sort(calibration), np.array([*scores, np.nan]))
    n = len(calibration)
    for p, s in zip(found, scores, strict=False):
        assert p == (1 + sum(c >= s for c in calibration)) / (n + 1)
    assert np.isnan(found[-1])


def test_exchangeable_images_have_valid_p():
    """Whichever of the n + 1 values is the new one, P(p <= a) <= a; with equality at i / (n + 1)"""
    for values in ([3.0, 1, 4, 2, 5], [1.0, 1, 2, 2, 2]):
        p = [
            conformal_p(np.sort(values[:i] + values[i + 1 :]), np.array([values[i]]))[0]
            for i in range(5)
        ]
        for level in np.arange(1, 6) / 5:
            assert np.mean(np.array(p) <= level + 1e-12) <= level + 1e-12
        if len(set(values)) == 5:
            np.testing.assert_allclose(np.sort(p), np.arange(1, 6) / 5)


@given(scores_lists, st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9]), st.integers(-5, 5))
def test_above_the_threshold_is_just_where_p_is_at_most_the_level(calibration, level, s):
    ordered = np.sort(calibration)
    p = conformal_p(ordered, np.array([float(s)]))[0]
    assert (s > threshold(ordered, level)) == (p <= level + 1e-12)


def test_what_a_level_takes():
    for level in (0.01, 0.05, 0.001, 1 / 3):
        n = n_needed(level)
        assert least_p(n) <= level + 1e-12 < least_p(n - 1)


# -- the density ----------------------------------------------------------------------------------

BOUNDS = ("lower_bound", "kl", "log_px", "llr", "llr_share")


def test_the_density_is_what_scikit_learn_says(usual):
    values = statistics(usual.columns, BOUNDS)
    density = Density.fit(values)
    standard = (values - values.mean(0)) / values.std(0)
    n_components = len(density.log_weights)
    theirs = GaussianMixture(n_components, reg_covar=1e-3, random_state=0).fit(standard)
    constant = 0.5 * values.shape[1] * np.log(2 * np.pi)
    ours = -density.minus_log(values) - constant
    np.testing.assert_allclose(ours, theirs.score_samples(standard), rtol=1e-9, atol=1e-9)
    assert n_components == 3


def test_what_cannot_be_computed_is_odd_and_both_tails_are(usual):
    values = statistics(usual.columns, BOUNDS)
    density = Density.fit(values, has_l=True)
    odd = np.tile(values.mean(0), (4, 1))
    odd[0, 0], odd[1, 0] = np.nan, -np.inf
    odd[2, -1] += 50.0
    odd[3, -1] -= 50.0
    combined = density.minus_log(odd)
    assert np.isinf(combined[:2]).all() and (combined[:2] > 0).all()
    assert (combined[2:] > density.minus_log(values).max()).all()


def test_neither_tail_of_l_can_hide(usual):
    """A density is wide where usual images are: far out there, L alone must be odd enough."""
    values = statistics(usual.columns, BOUNDS)
    fitted = Density.fit(values, has_l=True)
    density = replace(fitted, precisions=fitted.precisions * 0.01)  # a hundred times as wide
    odd = np.tile(values.mean(0), (3, 1))
    odd[1, 0] += 8.0 * values[:, 0].std()
    odd[2, 0] -= 8.0 * values[:, 0].std()
    wide = density.minus_log(odd)
    middle, plain, rich = density.combined(odd)
    assert np.ptp(wide) < 2.0 and plain == pytest.approx(rich) and plain > middle + 50.0


def test_odd_images_among_those_fitted_do_not_pass_as_usual(usual):
    """Alike as they are, a mixture would give them a component of their own."""
    values = statistics(usual.columns, BOUNDS)
    odd = values[:100] + 12.0 * values.std(0)
    mixed = np.concatenate([values, odd])
    trimmed, plain = Density.fit_trimmed(mixed), Density.fit(mixed)
    usual_most = np.quantile(trimmed.combined(values), 0.99)
    assert (trimmed.combined(odd) > usual_most).all()
    assert (plain.minus_log(odd) < np.quantile(plain.minus_log(values), 0.99)).mean() > 0.9


def test_a_few_strange_images_among_usual_ones_do_not_hide_others_like_them(usual):
    """As grey photographs among those in colour: the Gaussian of all is as wide as they need it."""
    values = statistics(usual.columns, ("kl",))
    odd = values[:40] + [6.0, -6.0, 6.0] * values.std(0)
    mixed = np.concatenate([values[40:], odd[:20]])
    core, plain = Density.fit_core(mixed), Density.fit(mixed, n_components=1)
    assert (core.rarity(odd[20:]) > plain.rarity(odd[20:])).all()
    share = (core.rarity(values) > -np.log(0.1)).mean()  # what is said of usual images stays true
    assert share == pytest.approx(0.1, abs=0.05)


def test_few_images_get_a_simple_density(tmp_path):
    """One component; and of very few, statistics that do not depend on one another."""
    for n, alone in ((120, False), (60, True)):
        density = Calibration.of(make_scores(tmp_path / "s.h5", n)).combinations[0].densities[0]
        assert len(density.log_weights) == 1 and np.isfinite(density.precisions).all()
        assert np.array_equal(density.precisions[0], np.eye(len(density.centre))) == alone


# -- aspects --------------------------------------------------------------------------------------


def test_what_is_rare_in_a_small_aspect_does_not_drown():
    """Beside 30 other statistics one that is 5 spreads off is lost; in an aspect of its own not."""
    random = np.random.default_rng(0)
    usual, odd = random.normal(size=(600, 32)), random.normal(size=(200, 32))
    odd[:, -1] += 5.0
    together = {"bounds": ("kl", "spot_cost")}
    apart = together | {"spots": ("spot_cost",)}
    found = []
    for judged in (together, apart):
        combination = Combination.fit(judged, {"kl": 31, "spot_cost": 1}, usual)
        threshold = np.quantile(combination.combined(random.normal(size=(4000, 32))), 0.99)
        found.append((combination.combined(odd) > threshold).mean())
    assert found[1] > 0.9 > 0.7 > found[0]


def test_the_combined_score_is_of_the_harmonic_mean_of_the_aspects(usual):
    calibration = Calibration.of(usual)
    (combination,) = calibration.combinations
    values = statistics(usual.columns, calibration.statistics)
    assert list(calibration.aspects) == ["bounds", "residuals", "spots", "channels"]
    p = np.exp(-np.stack(combination.rarities(values)))
    np.testing.assert_allclose(combination.combined(values), np.log((1 / p).sum(0)))
    density = combination.densities[1]
    start = np.quantile(density.combined(values[:, combination.places[1]]), 0.9)
    assert density.rarity(values[:, combination.places[1]]).max() > -np.log(0.1)
    assert density.tail[1] == pytest.approx(start, rel=0.2)


# -- the calibration ------------------------------------------------------------------------------


def test_it_does_not_depend_on_the_order_of_the_images(tmp_path, usual, calibration):
    shuffled = make_scores(tmp_path / "s.h5", 1000, seed=1, shuffle=True)
    again = Calibration.of(shuffled)
    assert (shuffled.names != usual.names).any() and again.id == calibration.id
    assert Calibration.of(make_scores(tmp_path / "t.h5", 1000, seed=2)).id != calibration.id
    changed = make_scores(tmp_path / "u.h5", 1000, seed=1, model_sha256="cd" * 32)
    assert Calibration.of(changed).id != calibration.id


def test_an_image_of_a_cross_fitted_model_is_judged_by_the_densities_of_its_fold(tmp_path):
    scores = make_scores(tmp_path / "folds.h5", n=200)
    scores["fold"][1::2] = 1
    scores["residual"][1::2] += 1000.0  # another network, another scale
    calibration = Calibration.within(scores)
    decision = decide(calibration, scores, Rule("fpr", 0.05))
    np.testing.assert_array_equal(np.sort(decision.combined), calibration.combined)
    np.testing.assert_array_equal(decision.combined, calibration.combine(scores.columns))
    assert decision.p_combined.min() == 2 / 201
    of_one_fold = {name: values for name, values in scores.columns.items() if name != "fold"}
    with pytest.raises(CalibrationError, match="has no fold"):
        decide(calibration, replace(scores, columns=of_one_fold), Rule("fpr", 0.05))


def test_it_is_kept_whole(tmp_path, calibration, usual):
    calibration.save(tmp_path / "c.npz")
    again = Calibration.load(tmp_path / "c.npz")
    assert again.id == calibration.id and again.settings == calibration.settings
    np.testing.assert_array_equal(again.combine(usual.columns), calibration.combine(usual.columns))


def test_damage_is_an_error_with_a_hint(tmp_path, calibration):
    path, whole = tmp_path / "c.npz", tmp_path / "whole.npz"
    calibration.save(whole)
    data = whole.read_bytes()

    def rewrite(change):
        with np.load(whole) as file:
            arrays = dict(file)
        change(arrays)
        np.savez(path, **arrays)

    def head(**changes):
        def change(arrays):
            arrays["head"] = np.array(json.dumps(json.loads(str(arrays["head"])) | changes))

        rewrite(change)

    def corrupt():
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])

    def pickled(arrays):
        arrays["score_llr"] = np.array([{}], object)

    later = f"version {FORMAT_VERSION + 1}"
    damages = {
        "no such calibration": lambda: path.unlink(missing_ok=True),
        "not a whole calibration": lambda: path.write_bytes(data[: len(data) // 2]),
        "(": lambda: path.write_bytes(b"text"),
        "format is": lambda: head(format="other"),
        later: lambda: head(format_version=FORMAT_VERSION + 1),
        f"version {FORMAT_VERSION - 1}": lambda: head(format_version=FORMAT_VERSION - 1),
        "not what it was when it was written": lambda: head(id="0" * 16),
        "is not what it was": lambda: rewrite(lambda a: a["density0_spots_means"].__iadd__(1e-9)),
        "wrong shape": lambda: rewrite(lambda a: a.update(score_kl=a["score_kl"][1:])),
        "score_kl": lambda: rewrite(lambda a: a.pop("score_kl")),
        "'nonsense'": lambda: head(aspects={"bounds": ["nonsense"]}),
        "whole calibration (": corrupt,
        "pickle": lambda: rewrite(pickled),
    }
    for words, damage in damages.items():
        damage()
        with pytest.raises(CalibrationError) as caught:
            Calibration.load(path)
        assert words in caught.value.message and caught.value.hint
        assert ("upgrade" in caught.value.hint) == (words == later)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x", "w") as f:
        for _ in range(1100):
            f.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    with pytest.raises(CalibrationError, match="larger than 128 MiB"):
        Calibration.load(path)


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="49 images are too few") as caught:
        Calibration.of(make_scores(tmp_path / "s.h5", 50, bad=(4,)))
    assert "50" in caught.value.hint


def test_fifty_images_are_enough(tmp_path):
    calibration = Calibration.of(make_scores(tmp_path / "s.h5", 50, seed=1))
    odd = decide(
        calibration, make_scores(tmp_path / "o.h5", 20, seed=2, shift=40.0), Rule("fpr", 0.1)
    )
    assert len(calibration.combined) == 35 and odd.flagged.all()


def test_what_is_not_finite_is_as_usual_as_it_is_frequent(tmp_path):
    """Images that belong and whose scores overflow are no odder than their share."""
    scores = make_scores(tmp_path / "s.h5", 400)
    with h5py.File(scores.path, "r+") as file:
        file["scores/log_px"][::10] = -np.inf
    scores = read_scores(scores.path)
    calibration = Calibration.of(scores)
    assert len(calibration) == 400
    p = decide(calibration, scores, Rule("fpr", 0.05)).p_combined
    assert p[::10].min() > 0.05 and np.isfinite(p).all()


# -- decisions ------------------------------------------------------------------------------------


def test_the_promised_false_positive_rate_holds(tmp_path, calibration):
    """On average over calibrations; one of 700 scores moves it by about sqrt(a (1 - a) / 700)."""
    n = 4000
    new = make_scores(tmp_path / "s.h5", n, seed=3)
    for level in (0.01, 0.05, 0.2):
        n_flagged = decide(calibration, new, Rule("fpr", level)).flagged.sum()
        spread = np.sqrt(level * (1 - level) * (1 / n + 1 / len(calibration.combined)))
        assert abs(n_flagged / n - level) < 3 * spread
    odd = decide(calibration, make_scores(tmp_path / "o.h5", 500, seed=4, shift=40.0), Rule())
    assert odd.flagged.mean() > 0.95


def test_false_discoveries_are_as_promised(tmp_path, calibration):
    usual = make_scores(tmp_path / "s.h5", 4000, seed=5)
    odd = make_scores(tmp_path / "o.h5", 400, seed=6, shift=40.0)
    p, p_odd = (decide(calibration, s, Rule()).p_combined for s in (usual, odd))
    proportions = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        batch = np.append(random.choice(p, 200, False), random.choice(p_odd, 20, False))
        flagged = false_discovery_control(batch.astype(np.float64)) <= 0.05
        proportions.append(flagged[:200].sum() / max(flagged.sum(), 1))
    assert np.mean(proportions) <= 0.05 + 3 * np.std(proportions) / np.sqrt(40) + 0.02


@pytest.mark.parametrize(("kind", "method"), [("fdr", "bh"), ("fdr-by", "by")])
def test_fdr_flags_what_scipy_rejects(tmp_path, calibration, kind, method):
    mixed = make_scores(tmp_path / "s.h5", 60, seed=7, bad=(3,))
    odd = make_scores(tmp_path / "o.h5", 40, seed=8, shift=40.0)
    with h5py.File(mixed.path, "r+") as file, h5py.File(odd.path) as other:
        for name in ("lower_bound", "llr", "kl", "log_px"):
            file[f"scores/{name}"][20:] = other[f"scores/{name}"][()]
    mixed = read_scores(mixed.path)
    decision = decide(calibration, mixed, Rule(kind, 0.1))
    p = conformal_p(calibration.combined, calibration.combine(mixed.columns)[mixed.scored])
    expected = false_discovery_control(p, method=method) <= 0.1
    np.testing.assert_array_equal(decision.flagged[mixed.scored], expected)
    assert 0 < expected.sum() < 60 and not decision.flagged[3]
    assert decision.threshold == pytest.approx(p[expected].max())


@pytest.mark.parametrize(("kind", "method"), [("fdr", "bh"), ("fdr-by", "by")])
@given(st.lists(st.floats(0.0, 1.0), max_size=40).map(np.array))
def test_adjusted_p_values_are_scipys(kind, method, p):
    np.testing.assert_array_equal(adjusted(kind, p), false_discovery_control(p, method=method))


@pytest.mark.parametrize("n", [3, 200])
def test_one_gaussian_is_scikit_learns(n):
    values = np.random.default_rng(n).normal(size=(n, 5)) @ np.diag([1.0, 2.0, 0.0, 1.0, 3.0])
    mixture = GaussianMixture(1, reg_covar=_RIDGE, random_state=0).fit(values)
    weights, means, precisions = _mixture(values, 1)
    np.testing.assert_allclose(means, mixture.means_, atol=1e-12)
    np.testing.assert_allclose(precisions, mixture.precisions_cholesky_, rtol=1e-6, atol=1e-9)
    assert weights == [0.0]


def test_rows_without_scores_are_not_judged(tmp_path, calibration):
    decision = decide(calibration, make_scores(tmp_path / "s.h5", 5, bad=(0, 2)), Rule())
    assert np.isnan(decision.p_combined[[0, 2]]).all() and np.isnan(decision.p_value[0]).all()
    assert not decision.flagged[[0, 2]].any() and list(decision.k[[0, 2]]) == [0, 0]
    assert np.isfinite(decision.p_combined[[1, 3, 4]]).all()


def test_the_k_that_differs_most(tmp_path, calibration):
    scores = make_scores(tmp_path / "s.h5", 3)
    llr = np.array([calibration.llr.mean(0)] * 3)
    llr[0, 0] += 30.0
    llr[1, 1] -= 30.0
    llr[2] += [3.0, 30.0]
    scores.columns["llr"] = llr.astype(np.float32)
    assert list(decide(calibration, scores, Rule()).k) == [1, 2, 2]


def test_scores_made_in_another_way_are_refused_with_both_values(tmp_path, calibration):
    others = {
        "importance samples S: 16 calibrated, 1 here": {"n_importance_samples": 1},
        "the proposal: mean calibrated, sample here": {"proposal": "sample"},
        "the model: abababababab calibrated, cdcdcdcdcdcd here": {"model_sha256": "cd" * 32},
        "the preprocessing: none calibrated, other here": {"preprocessing": "other"},
    }
    for words, changes in others.items():
        scores = make_scores(tmp_path / "s.h5", 3, **changes)
        with pytest.raises(CalibrationError) as caught:
            decide(calibration, scores, Rule())
        assert words in caught.value.message and "hvaeood calibrate" in caught.value.hint
    decide(calibration, make_scores(tmp_path / "s.h5", 3, seed=0), Rule())


def test_a_level_that_n_cannot_support_names_the_n_that_it_takes(tmp_path, calibration):
    scores = make_scores(tmp_path / "s.h5", 10)
    assert len(calibration.combined) == 700
    with pytest.raises(CalibrationError) as caught:
        decide(calibration, scores, Rule("fpr", 0.001))
    assert "1/701" in caught.value.message and "at least 1,428 images" in caught.value.hint
    decide(calibration, scores, Rule("fpr", 1 / 701 + 1e-9))
    with pytest.raises(CalibrationError, match="1/701"):
        decide(calibration, scores, Rule("fdr-by", 0.003))  # ten images: 0.003 / 2.93
    for level in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(CalibrationError, match="between 0 and 1"):
            Rule("fpr", level)
    with pytest.raises(CalibrationError, match="no rule"):
        Rule("other")


@given(st.integers(20, 500), st.integers(1, 300), st.sampled_from([0.05, 0.2]))
def test_the_least_group_that_an_fdr_can_flag(n, n_images, level):
    group = least_group(Rule("fdr", level), n, n_images)
    for size in (group - 1, group):
        if not 1 <= size <= n_images:
            continue
        p = np.ones(n_images)
        p[:size] = least_p(n)
        flags = (false_discovery_control(p) <= level + 1e-12).any()
        assert flags == (size >= group)


# -- drift ----------------------------------------------------------------------------------------


def test_drift_is_quiet_at_its_level(tmp_path, calibration):
    llr = make_scores(tmp_path / "s.h5", 4000, seed=9).llr
    random = np.random.default_rng(0)
    alarms = sum(
        measure_drift(calibration.sorted_llr, random.choice(llr, 100, replace=False)).drifted
        for _ in range(100)
    )
    assert alarms <= binom.ppf(0.9999, 100, 0.05)


@pytest.mark.parametrize(("n", "m"), [(3000, 30), (150, 50), (3000, 5000)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_the_drift_test_is_scipys(n, m, shift):
    random = np.random.default_rng(n + m)
    usual, here = random.normal(size=(n, 1)).round(2), shift + random.normal(size=(m, 1)).round(2)
    found, expected = measure_drift(usual, here).shifts[0], ks_2samp(usual[:, 0], here[:, 0])
    assert found.distance == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=0.15)


def test_drift_sees_a_shift_and_says_how_large(tmp_path, calibration):
    small, large = (
        measure_drift(calibration.sorted_llr, make_scores(tmp_path / "s.h5", 800, shift=s).llr)
        for s in (0.7, 20.0)
    )
    assert small.drifted and small.largest.effect in ("negligible", "small")
    assert large.drifted and large.largest.effect == "large" and large.largest.higher > 0.95
    assert "LLR>" in str(large) and "large" in str(large) and "800" in str(large)
    assert "no drift" in str(measure_drift(calibration.sorted_llr, calibration.llr))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_the_tendency_is_the_share_of_pairs(values):
    usual = np.array([[-1.0], [0.0], [0.0], [2.0]])
    here = np.array(values, float)[:, None]
    pairs = itertools.product(here[:, 0], usual[:, 0])
    wins = [float(a > b) + 0.5 * float(a == b) for a, b in pairs]
    assert measure_drift(usual, here).shifts[0].higher == pytest.approx(np.mean(wins))


def test_holm_corrects_over_k():
    random = np.random.default_rng(0)
    usual = np.sort(random.normal(size=(300, 3)), axis=0)
    here = random.normal(np.array([0.0, 0.25, 0.5]), size=(100, 3))
    corrected = [shift.p for shift in measure_drift(usual, here).shifts]
    alone = [measure_drift(usual[:, [k]], here[:, [k]]).shifts[0].p for k in range(3)]
    order = np.argsort(alone)
    expected = np.maximum.accumulate([alone[order[i]] * (3 - i) for i in range(3)])
    np.testing.assert_allclose([corrected[i] for i in order], np.minimum(expected, 1.0))


# -- in the score file ----------------------------------------------------------------------------


def test_the_decision_is_as_the_contract_says(tmp_path, calibration):
    scores = make_scores(tmp_path / "s.h5", 50, bad=(7,))
    with h5py.File(scores.path) as file:
        before = {name: file[name][()] for name in ("scores/llr", "images/path")}
    for rule in (Rule(), Rule("fdr", 0.2)):
        decision = decide(calibration, scores, rule)
        write_decision(scores, decision)
        with h5py.File(scores.path) as file:
            group = file["decision"]
            kept = bytes(group["calibration"][()])
            shapes = {name: (group[name].shape, group[name].dtype) for name in group}
            assert shapes == {
                "p_value": ((50, 2), np.float64),
                "p_combined": ((50,), np.float64),
                "combined": ((50,), np.float64),
                "k": ((50,), np.int8),
                "flagged": ((50,), np.bool_),
                "calibration": ((len(kept),), np.uint8),
            }
            assert Calibration.of_bytes(kept, "kept").id == calibration.id
            attributes = dict(group.attrs)
            assert (attributes["rule"], attributes["level"]) == (rule.kind, rule.level)
            assert attributes["calibration_id"] == calibration.id
            assert attributes["n_calibration"] == 700 and attributes["least_p"] == 1 / 701
            flagged = group["flagged"][()]
            np.testing.assert_array_equal(
                flagged, group["p_combined"][()] <= attributes["threshold"]
            )
            for name, values in before.items():
                np.testing.assert_array_equal(file[name][()], values)
        again = read_scores(scores.path).decision
        np.testing.assert_array_equal(again.p_value, decision.p_value)
    write_decision(scores, None)
    assert read_scores(scores.path).decision is None
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]


def test_a_strange_decision_is_refused(tmp_path, calibration):
    scores = make_scores(tmp_path / "s.h5", 50)
    write_decision(scores, decide(calibration, scores, Rule()))
    whole = scores.path.read_bytes()

    def change(action):
        scores.path.write_bytes(whole)
        with h5py.File(scores.path, "r+") as file:
            action(file)

    def shorten(file):
        del file["decision/flagged"]
        file["decision/flagged"] = np.zeros(3, bool)

    def link(file):
        del file["decision"]
        file["decision"] = h5py.SoftLink("/scores")

    damages = [
        shorten,
        link,
        lambda file: file["decision"].attrs.pop("rule"),
        lambda file: file["decision"].attrs.create("level", "much"),
        lambda file: file["decision"].pop("k"),
    ]
    for damage in damages:
        change(damage)
        with pytest.raises(StoreError):
            read_scores(scores.path)


def test_one_ratio_that_is_no_number_leaves_the_drift_test_its_voice(tmp_path, calibration):
    """A NaN among them once made every p NaN, and the batch pass as usual."""
    scores = make_scores(tmp_path / "s.h5", 100, shift=15.0)
    clean = Ranking.of(scores, calibration).drift
    assert clean.drifted
    scores.columns["llr"] = scores.llr.copy()
    scores.columns["llr"][7, 1] = np.nan
    drift = Ranking.of(scores, calibration).drift
    assert drift.drifted and drift.n == 99
    assert np.isfinite([shift.p for shift in drift.shifts]).all()
    decision = decide(calibration, scores, Rule())
    assert decision.flagged[7] and np.isinf(decision.combined[7])
    scores.columns["llr"][:] = np.nan
    assert Ranking.of(scores, calibration).drift is None


def test_the_id_is_of_what_was_measured_not_of_the_last_digits_of_the_fit(calibration):
    (combination,) = calibration.combinations
    first, *rest = combination.densities
    other = replace(first, means=first.means * (1 + 1e-15))
    moved_a_little = replace(combination, densities=(other, *rest))
    assert replace(calibration, combinations=(moved_a_little,)).id == calibration.id
    moved = {"llr": calibration.llr + 1}
    assert replace(calibration, columns=calibration.columns | moved).id != calibration.id


def test_a_decision_of_other_rows_is_not_written(tmp_path, calibration):
    """Another process scored into the same file since it was read."""
    scores = make_scores(tmp_path / "s.h5", 50)
    decision = decide(calibration, scores, Rule())
    make_scores(tmp_path / "s.h5", 60, seed=9)
    whole = scores.path.read_bytes()
    with pytest.raises(StoreError, match="scored anew since it was read"):
        write_decision(scores, decision)
    assert scores.path.read_bytes() == whole and len(read_scores(scores.path)) == 60


def test_an_outside_reader_finds_the_same_flags(tmp_path, calibration):
    """p and threshold are of one precision: comparing them gives what is flagged."""
    scores = make_scores(tmp_path / "s.h5", 2000, seed=5)
    there = set(decide(calibration, scores, Rule()).p_combined)
    # a p-value that is there, and that float32 rounds upwards
    levels = (k / 701 for k in range(7, 50) if float(np.float32(k / 701)) > k / 701)
    level = next(level for level in levels if level in there)
    write_decision(scores, decide(calibration, scores, Rule("fpr", level)))
    with h5py.File(scores.path) as file:
        group = file["decision"]
        again = group["p_combined"][()] <= group.attrs["threshold"]
        np.testing.assert_array_equal(again, group["flagged"][()])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 999])
def test_the_combined_score_of_an_image_is_its_own(calibration, usual, n):
    """To the last bit, whatever company it is in: a p-value hangs on it."""
    together = calibration.combine(usual.columns)
    for first in (0, 17, 1000 - n):
        rows = slice(first, first + n)
        few = {name: values[rows] for name, values in usual.columns.items()}
        np.testing.assert_array_equal(calibration.combine(few), together[rows])


# -- why an image is odd --------------------------------------------------------------------------


def test_an_image_that_is_plainer_or_stranger_than_usual_is_said_to_be(
    calibration, usual, tmp_path
):
    odd = make_scores(tmp_path / "odd.h5", 3)
    for name in calibration.statistics:  # an image in the middle of the usual ones, thrice
        odd.columns[name][:] = np.median(usual.columns[name], axis=0)
    odd.llr[0, 1] += 100.0
    odd.llr[1, 1] -= 100.0
    odd["kl"][2, 0] = np.quantile(usual["kl"][:, 0], 0.97)
    odd["kl"][2, 1] = np.quantile(usual["kl"][:, 1], 0.03)
    high, low, mixed = reasons(calibration, odd, [0, 1, 2])
    assert high.title == low.title == "LLR>2"
    assert high.sentence.startswith("stranger above layer 2 than any of 1,000 usual images")
    assert low.sentence.startswith("plainer above layer 2 than any of 1,000 usual images")
    assert high.spreads > 0 > low.spreads and high.p == low.p == pytest.approx(2 / 1001)
    assert mixed.sentence.startswith("an unusual combination: ")


def test_what_is_far_off_is_named_though_few_images_show_how_rare_it_is(tmp_path):
    usual = make_scores(tmp_path / "few.h5", 60, seed=1)
    few = Calibration.of(usual)
    odd = make_scores(tmp_path / "odd.h5", 1)
    for name in few.statistics:
        odd.columns[name][:] = np.median(usual.columns[name], axis=0)
    odd["kl"][0, 1] += 40.0
    (reason,) = reasons(few, odd, [0])
    assert reason.title == "KL 2" and reason.sentence.startswith("more surprising in layer 2 than")


def test_a_row_without_scores_has_no_reason(calibration, tmp_path):
    assert reasons(calibration, make_scores(tmp_path / "s.h5", 3, bad=(1,)), [1]) == [None]


def test_what_was_done_to_the_models_images_too_is_not_foreign(tmp_path):
    strange = make_scores(tmp_path / "strange.h5", 50, seed=1, shift=50.0)
    strange.columns["conversions"][:] = 1
    ways = []
    for done in (0, 1):
        usual = make_scores(tmp_path / "usual.h5", 1000)
        usual.columns["conversions"][:600] = done
        calibration = Calibration.of(usual)
        calibration.save(tmp_path / "c.npz")
        calibration = Calibration.load(tmp_path / "c.npz")
        decided = replace(strange, decision=decide(calibration, strange, Rule()))
        ways.append(foreign(decided, calibration).ways)
    assert ways == [("they were resized to 8x8 (50), unlike those that the model knows",), ()]


def test_whether_a_model_knows_images_is_said_of_enough_of_them_alone(calibration, tmp_path):
    for n, level, expected in ((19, 0.01, None), (20, 0.01, False), (20, 0.2, None)):
        odd = make_scores(tmp_path / "odd.h5", n, shift=50.0)
        assert knows_images(odd) is None
        decided = replace(odd, decision=decide(calibration, odd, Rule("fpr", level)))
        assert knows_images(decided) is expected


def test_p_of_both_ends_is_twice_the_smaller_one():
    usual = np.arange(99.0)
    p = two_sided_p(usual, np.array([-1.0, 49.0, 99.0, np.nan]))
    assert p[:3].tolist() == [2 / 100, 1.0, 2 / 100] and np.isnan(p[3])
