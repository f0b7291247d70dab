"""The workbench's arithmetic: thresholds, snapshots, histograms, shared images, lists."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.errors import CalibrationError, StoreError, UsageError
from hvaeood_cli.store.columns import columns as of_table
from hvaeood_cli.store.decision import KINDS, Rule
from hvaeood_cli.store.judgements import Judgement, Judgements, key_of
from hvaeood_cli.tui import taking
from hvaeood_cli.tui import threshold as thresholds
from hvaeood_cli.tui.histogram import Binning
from hvaeood_cli.tui.joint import COLUMNS, join, match
from hvaeood_cli.tui.run import COMBINED, Axis, P, Run
from hvaeood_cli.tui.threshold import ByScore
from hvaeood_cli.tui.view import (
    FLAGGED,
    JUDGED,
    MARK,
    PATH,
    UNREADABLE,
    Filter,
    K,
    View,
    columns,
    take,
)
from hvaeood_cli.tui.widgets.bars import Bars
from tests.tui_files import make_calibration, make_run, make_scores

NOTHING = Judgements({})
CALIBRATION = make_calibration()

MEASURES = [*(column.name for column in of_table("scores", asked=())), P]


@pytest.fixture(scope="module")
def run():
    return make_run(CALIBRATION, n=400, n_odd=30, bad=(7, 399))


@pytest.fixture(scope="module")
def bare():
    return make_run(None, n=400, n_odd=30, bad=(7,))


# -- thresholds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.013, 0.05, 0.2])
def test_the_rules_are_those_of_decide(run, kind, level):
    rule = Rule(kind, level)
    flags = thresholds.flag(run, rule)
    decision = decide(CALIBRATION, run.scores, rule)
    assert np.array_equal(flags.flagged, decision.flagged)
    assert np.array_equal(run.k, decision.k)
    line = thresholds.line_on(run, flags, Axis(P, 0))
    assert line == pytest.approx(decision.threshold)


@pytest.mark.parametrize("rule", [Rule("fpr", 0.03), Rule("fdr", 0.1), Rule("fdr-by", 0.2)])
def test_a_decision_stands_where_its_calibration_is_not_at_hand(run, rule):
    """Nothing else ranks or flags in its place."""
    decision = decide(CALIBRATION, run.scores, rule)
    alone = Run.of(replace(run.scores, decision=decision), None)
    view = View.first(alone)
    shown = take(alone, view, NOTHING)
    assert view.threshold == rule and thresholds.kinds(alone) == thresholds.kinds(run)
    np.testing.assert_array_equal(shown.flags.flagged, decision.flagged)
    for axis in (COMBINED, Axis(P, 0), Axis(P, 1), Axis(P, 2)):
        np.testing.assert_array_equal(alone.values(axis), run.values(axis))
    np.testing.assert_array_equal(alone.k, run.k)
    assert alone.p_of(3, 2) == run.p_of(3, 2) and alone.p_of(7, 0) is None
    stricter = thresholds.moved(alone, rule, 400)
    assert stricter.level == decision.least_p
    assert thresholds.line_on(alone, shown.flags, Axis(P, 0)) == pytest.approx(decision.threshold)


def test_the_line_parts_flagged_from_not_flagged(run):
    for threshold in (Rule("fpr", 0.05), Rule("fdr", 0.1), ByScore(COMBINED, 3.0)):
        flags = thresholds.flag(run, threshold)
        line = thresholds.line_on(run, flags, COMBINED)
        others = run.scores.scored & ~flags.flagged
        assert run.combined[flags.flagged].min() >= line >= run.combined[others].max() - 1e-9
    assert thresholds.line_on(run, flags, Axis("llr", 1)) is None


@pytest.mark.parametrize("kind", [*KINDS, "score"])
def test_stricter_flags_no_more_and_looser_no_fewer(run, kind):
    flags = thresholds.flag(run, Rule("fpr", 0.05))
    threshold = thresholds.of_kind(run, flags, kind, Axis("llr", 1))
    before = thresholds.flag(run, threshold).n_flagged
    for steps in (1, 5, 40):
        assert thresholds.flag(run, thresholds.moved(run, threshold, steps)).n_flagged <= before
        assert thresholds.flag(run, thresholds.moved(run, threshold, -steps)).n_flagged >= before


@given(
    level=st.floats(0.001, 0.5),
    steps=st.sampled_from([-5, -1, 1, 5]),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=60, deadline=None)
def test_every_step_of_a_level_moves_it_or_ends(run, level, steps, kind):
    here = thresholds.supported(run, Rule(kind, level))
    there = thresholds.moved(run, here, steps)
    assert isinstance(there, Rule)
    moved = there.level < here.level if steps > 0 else there.level > here.level
    least = thresholds.supported(run, Rule(kind, 1e-9)).level
    assert moved or here.level <= least * 1.1 or here.level >= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_level_is_one_that_every_command_takes(run, kind):
    least = thresholds.supported(run, Rule(kind, 1e-9))
    assert thresholds.asked(run, least, least.level) == least
    with pytest.raises(CalibrationError, match="least that this calibration"):
        thresholds.asked(run, least, least.level * 0.9)


def test_levels_below_what_the_calibration_has_images_for(run):
    assert thresholds.supported(run, Rule("fpr", 1e-7)).level == pytest.approx(1 / 1401, rel=0.1)
    with pytest.raises(CalibrationError, match="least that this calibration"):
        thresholds.asked(run, Rule("fpr", 0.01), 1e-7)
    assert thresholds.asked(run, Rule("fdr", 0.01), 0.2) == Rule("fdr", 0.2)
    assert thresholds.asked(run, ByScore(COMBINED, 1.0), -4.0) == ByScore(COMBINED, -4.0)


def test_expected_false_positives(run, bare):
    fpr = thresholds.flag(run, Rule("fpr", 0.05))
    assert fpr.expected == pytest.approx(0.05 * 398)
    fdr = thresholds.flag(run, Rule("fdr", 0.1))
    assert fdr.expected == pytest.approx(0.1 * fdr.n_flagged) and fdr.n_flagged >= 29
    value = float(np.quantile(CALIBRATION.llr[:, 0], 0.9))
    score = thresholds.flag(run, ByScore(Axis("llr", 1), value))
    assert score.expected == pytest.approx(0.1 * 398, rel=0.02)
    low = thresholds.rate_of(run, ByScore(Axis("lower_bound", 0), -300.0))
    assert low == pytest.approx(0, abs=0.01)
    alone = thresholds.flag(bare, thresholds.first_threshold(bare))
    assert alone.expected is None and alone.n_flagged >= 29
    assert "without a calibration" in thresholds.promise(bare, alone)


def test_pointing_puts_the_threshold_there(run):
    there = thresholds.pointed_at(run, Rule("fpr", 0.01), COMBINED, 7.0)
    assert isinstance(there, Rule) and there.kind == "fpr"
    line = thresholds.line_on(run, thresholds.flag(run, there), COMBINED)
    assert line == pytest.approx(7.0, abs=0.5)
    fdr = thresholds.pointed_at(run, Rule("fdr", 0.01), COMBINED, 5.0)
    assert isinstance(fdr, Rule) and fdr.kind == "fdr"
    on_p = thresholds.pointed_at(run, Rule("fpr", 0.01), Axis(P, 0), 0.2)
    assert on_p == Rule("fpr", 0.2)
    other = Axis("llr", 1)
    assert thresholds.pointed_at(run, Rule(), other, 40.0) == ByScore(other, 40.0)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_score_that_flags_as_many(run, measure):
    for axis in run.axes(measure):
        threshold = thresholds.by_score(run, axis, 25)
        n = thresholds.flag(run, threshold).n_flagged
        assert n >= 25 and (n == 25 or measure == P)  # p has ties


# -- snapshots ------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [True, False])
def test_sorted_by_any_column(run, bare, descending):
    for each in (run, bare):
        for column in columns(each):
            view = replace(View.first(each), column=column, descending=descending)
            rows = take(each, view, NOTHING).rows
            assert sorted(rows) == list(range(len(each)))
            if column in (MARK, PATH):
                continue
            values = each.k if column == K else each.values(column)
            scored = values[rows[: each.n_scored]].astype(float)
            assert np.all(np.diff(scored) <= 0 if descending else np.diff(scored) >= 0)
            assert not each.scores.scored[rows[each.n_scored :]].any()


def test_paths_are_sorted_by_their_bytes():
    names = [b"b/1", b"a/10", b"a/2", "ä/2".encode(), b"\xff", b"a/2 and a longer one", b"a"]
    scores = replace(make_scores(len(names)), names=np.array(names))
    run = make_run(None)
    run = type(run).of(scores, None)
    order = [names[row] for row in run.order_by_path]
    assert order == sorted(names)


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda b: b"\0" not in b), min_size=1))
@settings(deadline=None)
def test_any_paths_are_sorted(names):
    scores = replace(make_scores(len(names)), names=np.array(names))
    run = make_run(None)
    order = type(run).of(scores, None).order_by_path
    assert [names[row] for row in order] == sorted(names)


def test_filters_hold_together(run):
    row = 3
    judgements = Judgements({key_of(run.scores, row): Judgement("ood", "odd")})
    view = replace(View.first(run), threshold=Rule("fdr", 0.1))

    def rows(**wanted):
        return set(take(run, replace(view, filter=Filter(**wanted)), judgements).rows)

    flagged = rows(shown=FLAGGED)
    assert set(range(30)) - {7} <= flagged
    assert rows(shown=UNREADABLE) == {7, 399}
    assert rows(shown=JUDGED) == {row}
    assert rows(text="/0001") == set(range(10, 20))
    assert rows(text="PNG") == set()
    assert rows(shown=FLAGGED, k=1) | rows(shown=FLAGGED, k=2) == flagged
    counts = take(run, view, judgements).n_shown
    assert counts == {"all": 400, "flagged": len(flagged), "unreadable": 2, "judged": 1}


def test_what_did_not_change_is_not_computed_again(run):
    first = take(run, View.first(run), NOTHING)
    second = take(run, replace(first.view, log=False), NOTHING, first)
    assert second.flags is first.flags and second.marks is first.marks
    third = take(run, replace(first.view, threshold=Rule("fpr", 0.2)), NOTHING, first)
    assert third.flags is not first.flags and third.marks is first.marks


def test_a_file_without_scores():
    run = make_run(CALIBRATION, n=3, bad=(0, 1, 2))
    for kind in (*KINDS, "score"):
        flags = thresholds.flag(run, Rule())
        threshold = thresholds.of_kind(run, flags, kind, COMBINED)
        snapshot = take(run, replace(View.first(run), threshold=threshold), NOTHING)
        assert snapshot.flags.n_flagged == 0 and len(snapshot.rows) == 3
    assert run.shown_range(COMBINED)[0] < run.shown_range(COMBINED)[1]


def test_scores_of_other_settings_are_not_judged_by_this_calibration():
    run = make_run(CALIBRATION, model="b" * 64)
    assert run.calibration is None
    assert "the model" in run.why_not and "hvaeood calibrate" in run.why_not


# -- histograms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_every_scored_image_is_in_one_bin(run, measure):
    flags = thresholds.flag(run, Rule("fpr", 0.05))
    for axis in run.axes(measure):
        for n_bins in (1, 17, 100):
            found = Binning(run, axis, run.shown_range(axis), n_bins).count(flags.flagged)
            assert found.here.sum() == run.n_scored
            assert found.flagged.sum() == flags.n_flagged and (found.flagged <= found.here).all()
            assert found.usual.sum() == pytest.approx(run.n_scored)


@given(
    rows=st.integers(1, 12),
    bars=st.lists(st.tuples(st.integers(0, 96), st.integers(0, 96)), min_size=1, max_size=8),
)
@settings(deadline=None)
def test_bars_stand_on_the_ground_and_stay_inside(rows, bars):
    here = np.array([min(max(bar), rows * 8) for bar in bars])
    flagged = np.array([min(*bar, rows * 8) for bar in bars])
    cells = Bars(rows, here, flagged).cells(here)
    places = [place for group in cells.values() for place in group]
    assert len(places) == len(set(places))
    for column, height in enumerate(here):
        assert {row for c, row in places if c == column} == set(range(-(-height // 8)))


# -- two files ------------------------------------------------------------------------------------


def test_the_same_images_are_found_by_pixels_or_bytes():
    first, second = make_scores(50, seed=1), make_scores(50, seed=2)
    second.content[:5] = first.content[[9, 8, 7, 6, 5]]  # the same pixels in other files
    second.content[5:10] = 0
    second.sha256[5:10] = first.sha256[20:25]  # the same files, scored by an older program
    pairs = match(first, second)
    assert {tuple(pair) for pair in pairs} == {
        *zip([9, 8, 7, 6, 5], range(5), strict=True),
        *zip(range(20, 25), range(5, 10), strict=True),
    }
    assert len(match(first, make_scores(50, seed=3))) == 0


def test_what_two_files_make_of_the_same_images(run, bare):
    flags = thresholds.flag(run, Rule("fpr", 0.05))
    same = join(run, run, (flags, flags))
    assert len(same) == 398 and same.are_p  # without the unreadable
    assert np.nanmax(np.abs(same.difference)) == 0
    assert same.counts()["first alone"] == 0 and same.counts()["both"] == flags.n_flagged
    mixed = join(run, bare, (flags, thresholds.flag(bare, thresholds.first_threshold(bare))))
    assert not mixed.are_p  # nats and spreads cannot be compared, places can
    places = np.sort(mixed.values, axis=0)
    assert (places[:, 0] >= 1).all() and (np.diff(places[:, 0]) > 0).all()
    oddest = int(mixed.order("first", False)[0])
    assert mixed.values[oddest, 0] == 1
    assert mixed.rows[oddest, 0] == np.nanargmax(run.combined)
    for column in COLUMNS:
        for descending in (True, False):
            assert sorted(mixed.order(column, descending)) == list(range(len(mixed)))


# -- lists ----------------------------------------------------------------------------------------


@pytest.fixture
def snapshot(run):
    judgements = Judgements({key_of(run.scores, 50): Judgement("ood", '=1+1, "quoted"\nline')})
    return take(run, replace(View.first(run), threshold=Rule("fdr", 0.1)), judgements)


def test_the_flagged_as_csv(snapshot, tmp_path):
    out = tmp_path / "list.csv"
    n = taking.write_list(out, snapshot, "flagged", "csv")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert n == len(rows) == snapshot.flags.n_flagged
    assert [float(row["p_combined"]) for row in rows] == sorted(
        float(row["p_combined"]) for row in rows
    )
    p = snapshot.run.p[snapshot.flags.flagged]
    assert sorted(float(row["p_combined"]) for row in rows) == sorted(p), "with all their digits"
    assert all(row["flagged"] == "1" and row["path"].startswith("photos/") for row in rows)
    taking.write_list(tmp_path / "judged.csv", snapshot, "judged", "csv")
    with (tmp_path / "judged.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["note"] == '\'=1+1, "quoted"\nline' and row["mark"] == "ood"


def test_odd_names_as_paths(run, tmp_path):
    names = run.scores.names.astype("S40")
    names[0], names[1] = b"photos/a\nb.png", b"photos/\xff\x1b[2J.png"
    odd = type(run).of(replace(run.scores, names=names), CALIBRATION)
    snapshot = take(odd, replace(View.first(odd), threshold=Rule("fdr", 0.1)), NOTHING)
    with pytest.raises(UsageError) as caught:
        taking.write_list(tmp_path / "l.txt", snapshot, "flagged", "lines")
    assert "NUL" in caught.value.hint and not (tmp_path / "l.txt").exists()
    taking.write_list(tmp_path / "l.nul", snapshot, "flagged", "nul")
    found = (tmp_path / "l.nul").read_bytes().split(b"\0")
    assert names[0] in found and names[1] in found and found[-1] == b""


def test_lists_replace_nothing(snapshot, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(StoreError, match="there already"):
        taking.write_list(tmp_path / "there", snapshot, "flagged", "csv")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(UsageError, match="no such folder"):
        taking.write_list(tmp_path / "no" / "l", snapshot, "flagged", "csv")


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_ratio_that_could_not_be_computed_is_the_oddest(calibrated):
    """Of a scored image; it once came after all others, and among those without scores."""
    scores = make_scores(60, bad=(3, 40))
    scores.columns["llr"][7] = np.nan
    run = Run.of(scores, CALIBRATION if calibrated else None)
    snapshot = take(run, View.first(run), Judgements({}))
    assert snapshot.rows[0] == 7 and set(snapshot.rows[-2:]) == {3, 40}
    assert snapshot.flags.flagged[7]
    by_ratio = take(run, View.first(run).sorted_by(Axis("llr", 1)), Judgements({}))
    assert by_ratio.rows[0] == 7 and set(by_ratio.rows[-2:]) == {3, 40}
    for measure in run.measures:
        for axis in run.axes(measure):
            assert not np.isnan(run.values(axis)[scores.scored]).any()
            Binning(run, axis, run.shown_range(axis), 20).count(snapshot.flags.flagged)


def test_ratios_that_are_no_numbers_among_the_usual_ones_are_left_out():
    usual = make_scores(2000, seed=99)
    usual.columns["llr"][5] = np.nan
    run = Run.of(make_scores(50), Calibration.of(usual))
    axis = Axis("llr", 1)
    assert len(run.usual(axis)) == 1999
    Binning(run, axis, run.shown_range(axis), 20).count(np.zeros(50, np.bool_))


def test_a_model_that_fails_on_everything_cannot_be_calibrated():
    usual = make_scores(200)
    usual.columns["llr"][:] = np.nan
    with pytest.raises(CalibrationError, match="0 of 60 images have every score"):
        Calibration.of(usual)
