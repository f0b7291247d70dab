"""The column table: everything follows from it, and a new score costs one entry and a function."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np
import pytest

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.scoring import asked, statistics
from hvaeood_cli.settings import STATISTICS
from hvaeood_cli.store import columns
from hvaeood_cli.store.columns import ASKED, Column, Sizes, row_dtype
from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.tui.cells import table_columns
from hvaeood_cli.tui.run import Axis, Run
from hvaeood_cli.tui.view import View, take
from tests.conftest import make_images
from tests.score_files import make_scores


@pytest.fixture
def brightness(monkeypatch) -> Iterator[Column]:
    """A score that nobody has heard of: the mean of what was observed."""
    entry = Column(
        "brightness",
        "image",
        "float32",
        "scores",
        "the mean of x",
        heading="brightness",
        title="brightness",
        csv="brightness",
        density=slice(None),
        listed=True,
        optional=True,
    )
    monkeypatch.setattr(columns, "TABLE", [*columns.TABLE, entry])
    functions = statistics.STATISTICS | {"brightness": lambda of: of.x.flatten(1).mean(1)}
    monkeypatch.setattr(statistics, "STATISTICS", functions)
    columns.row_dtype.cache_clear()
    yield entry
    columns.row_dtype.cache_clear()


def test_a_new_score_is_an_entry_and_a_function(brightness, run, bundle, tmp_path):
    """It is journalled, written, read, printed, calibrated with, plotted and sorted by."""
    images = make_images(120, seed=5)[:, 0]
    np.save(tmp_path / "x.npy", images)
    _, table, _ = run("score", "x.npy", "-o", "s.h5", "--csv")
    with h5py.File(tmp_path / "s.h5") as file:
        written = file["/scores/brightness"][()]
    assert written.shape == (120,) and 0.2 < written.min() < written.max() < 0.8
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [float(row["brightness"]) for row in rows] == pytest.approx(written, rel=1e-5)
    whole = json.loads(run("score", "x.npy", "-o", "s.h5", "--json")[1])
    assert [row["brightness"] for row in whole["images"]] == pytest.approx(written, rel=1e-5)

    scores = read_scores(tmp_path / "s.h5")
    calibration = Calibration.of(scores)
    assert "brightness" in calibration.aspects["bounds"]
    assert len(calibration.combinations[0].densities[0].centre) == 16
    calibration.save(tmp_path / "c.npz")
    np.testing.assert_array_equal(Calibration.load(tmp_path / "c.npz")["brightness"].shape, 120)

    run("report", "s.h5", "-o", "r.html", "--quiet")
    assert "<h3>brightness</h3>" in (tmp_path / "r.html").read_text()
    shown = Run.of(scores, calibration)
    axis = Axis("brightness", 0)
    assert shown.axes("brightness") == [axis] and shown.label(axis) == "brightness"
    np.testing.assert_array_equal(shown.values(axis), written)
    by_it = take(shown, View.first(shown).sorted_by(axis), Judgements({}))
    assert np.array_equal(written[by_it.rows], np.sort(written)[::-1])
    assert axis in [head.key for head in table_columns(by_it)]


def test_a_calibration_keeps_to_the_statistics_that_it_was_made_with(
    brightness, monkeypatch, tmp_path
):
    """A program with one more column decides by an older calibration as the older one did."""
    monkeypatch.setattr(columns, "TABLE", columns.TABLE[:-1])
    scores = make_scores(tmp_path / "s.h5", 500)
    calibration = Calibration.of(scores)
    before = calibration.combine(scores.columns)
    monkeypatch.setattr(columns, "TABLE", [*columns.TABLE, brightness])
    np.testing.assert_array_equal(calibration.combine(scores.columns), before)


def test_files_from_before_a_score_are_read_without_it(tmp_path, monkeypatch, run, request):
    """They are shown, exported and decided by calibrations that do not need it; else refused."""
    scores = make_scores(tmp_path / "old.h5", 300)
    Calibration.of(make_scores(tmp_path / "held-out.h5", 500, seed=1)).save(tmp_path / "old.npz")
    entry = request.getfixturevalue("brightness")
    again = read_scores(tmp_path / "old.h5")
    assert entry not in again.scores and len(again.scores) == len(scores.scores) == 10
    code, out, err = run("decide", "old.h5", "--calibration", "old.npz", "--csv")
    assert (code, err) == (0, "")
    assert {row["brightness"] for row in csv.DictReader(io.StringIO(out))} == {""}
    new = replace(again, columns=again.columns | {"brightness": again.bits_per_dim})
    Calibration.of(new).save(tmp_path / "new.npz")
    code, _, err = run("decide", "old.h5", "--calibration", "new.npz")
    assert code == 3 and "has no brightness" in err and "--force" in err


def test_every_score_has_a_function_and_a_name_of_its_own():
    names = [column.name for column in columns.TABLE]
    assert len(set(names)) == len(names)
    scored = {column.name for column in columns.columns("scores", asked=())}
    assert scored == set(statistics.STATISTICS)
    assert set(STATISTICS) == set(columns.ASKED) == set(asked.ASKED)


@pytest.mark.parametrize("sizes", [Sizes(2, 1), Sizes(3), Sizes(10, 128, ASKED)])
def test_shapes_titles_and_names_agree(sizes):
    dtype = row_dtype(sizes)
    for column in columns.columns("images", "scores", asked=sizes.asked):
        n = int(np.prod(column.shape(sizes), dtype=int))
        assert dtype[column.name].shape == column.shape(sizes)
        assert len(column.titles(sizes)) == n
        assert len(column.csv_names(sizes)) in (0, n)
    heads = [name for column in columns.TABLE for name in column.csv_names(sizes)]
    assert len(set(heads)) == len(heads)


def test_what_an_older_file_cannot_give_a_calibration_is_said(run, tmp_path):
    """It is calibrated on by fewer aspects, and nobody has to find that out."""
    np.save(tmp_path / "x.npy", make_images(120, seed=5)[:, 0])
    run("score", "x.npy", "-o", "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        for name in ("residual", "spot_cost", "kl_channel"):
            del file[f"scores/{name}"]
        del file.attrs["n_channels"]
    code, _, err = run("calibrate", "old.h5", "-o", "c.npz")
    assert code == 0 and "before residual, spot_cost, kl_channel were kept" in err
    assert list(Calibration.load(tmp_path / "c.npz").aspects) == ["bounds"]
    code, _, err = run("score", "x.npy", "-o", "old.h5")
    assert code == 3 and "the scores that are kept" in err and "--force" in err


def test_scores_of_no_channel_are_refused(run, tmp_path):
    np.save(tmp_path / "x.npy", make_images(60, seed=5)[:, 0])
    run("score", "x.npy", "-o", "s.h5")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file["scores/kl_channel"]
        file["scores/kl_channel"] = np.zeros((60, 0), np.float32)
        file.attrs["n_channels"] = 0
    code, _, err = run("calibrate", "s.h5", "-o", "c.npz")
    assert code == 3 and "of no channel" in err
