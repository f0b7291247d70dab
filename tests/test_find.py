"""`hvaeood find`, and the cross-fitted models that it makes."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.errors import ModelError
from hvaeood_cli.images.content import content_key, short_key
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.model.bundle import Bundle, read_bundle, write_bundle, write_cross_fitted
from hvaeood_cli.scoring.folds import FoldScorer, fold_of, folds_of, scorer_of
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.training.choosing import Survey, choose_preset
from tests.conftest import SMALL, make_images, make_ladder
from tests.score_files import make_scores
from tests.test_cli import start

FIND = ("find", "photos", "--minutes", "0.02", "--preset", "compact-gray")


@pytest.fixture
def photos(tmp_path):
    """120 grey images, one of them twice, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(make_images(120, seed=3)[:, 0]):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    shutil.copy(folder / "000.png", folder / "copy.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def test_find_scores_each_image_with_a_model_that_has_not_seen_it(run, photos, tmp_path):
    code, out, err = run(*FIND, "--fpr", "5%")
    assert code == 4, err  # for bad.png
    assert "the share of these images" in out and "--model photos.model -o grid.png" in out
    assert "at FPR 5 %: if all 121 belonged" in out and "photos.report.html" in err
    assert "hvaeood tui photos.scores.h5" in out and "hvaeood report" not in out, "it is made"
    with h5py.File(tmp_path / "photos.scores.h5") as file:
        fold, content = file["images/fold"][()], file["images/content"][()]
        status, names = file["images/status"][()], file["images/path"].asstr()[()]
        p = file["decision/p_combined"][()]
    seen = [
        set(np.load(tmp_path / "photos.model" / f"fold-{f}" / "training_images.npy"))
        for f in (0, 1)
    ]
    for row in np.flatnonzero(status == 0):
        assert content[row] in seen[1 - fold[row]] and content[row] not in seen[fold[row]]
    of = dict(zip(names, fold, strict=True))
    assert of["photos/000.png"] == of["photos/copy.png"], "copies are in one fold"
    scored = np.sort(p[status == 0])
    assert len(scored) == 121 and scored[0] >= 2 / 122 and scored[-1] == 1.0
    assert (tmp_path / "photos.report.html").read_text().count("data:image/png") > 10

    before = (tmp_path / "photos.scores.h5").read_bytes()
    code, out, _ = run(*FIND)
    assert code == 4 and "nothing has changed since" in out and "FPR 5 %" in out
    assert (tmp_path / "photos.scores.h5").read_bytes() == before

    assert run("decide", "photos.scores.h5", "--fpr", "0.1", "-q")[0] == 0
    code, out, _ = run(*FIND)
    assert code == 4 and "FPR 10 %" in out, "a decision stands until another is asked for"

    # What it made is a model with a calibration like any other, for images that come later too.
    (tmp_path / "more").mkdir()
    for i, image in enumerate(make_images(5, seed=9)[:, 0]):
        Image.fromarray(image).save(tmp_path / "more" / f"{i}.png")
    code, out, err = run("score", "more", "--model", "photos.model", "--json")
    assert code == 0 and json.loads(out)["decision"]["n_calibration"] == 121, err
    _, out, _ = run("score", "more", "--model", "photos.model")
    assert "how often an image that belongs" in out, "they are not compared with one another"
    assert run("models", "photos.model")[0] == 0
    (photos / "new.png").write_bytes((tmp_path / "more" / "0.png").read_bytes())
    code, _, err = run(*FIND)
    flat = " ".join(err.split())
    assert code == 3 and "hvaeood score SOURCE --model photos.model" in flat
    shutil.rmtree(tmp_path / "photos.model")
    assert run("decide", "photos.scores.h5", "--fpr", "0.1", "-q")[0] == 0


def test_find_goes_on_after_an_interruption(run, photos, tmp_path, bundle):
    command = [*FIND[:2], "--minutes", "5", "--preset", "compact-gray", "--fpr", "5%"]
    process = start(tmp_path, bundle, *command)
    folds = [tmp_path / "photos.model" / f"fold-{fold}" for fold in (0, 1)]
    while not all(fold.is_dir() for fold in folds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            pytest.fail(f"it ended: {process.stderr.read().decode()}")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and b"run the same command again" in err
    assert all(list(folder.glob("checkpoints/*.safetensors")) for folder in folds)
    command[command.index("5")] = "4"
    code, _, err = run(*command)
    assert code == 3 and "minutes: 5" in err, "another run is not gone on with in silence"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: [path.unlink() for path in sorted(folder.glob("0*.png"))], "too few"),
        (lambda folder: (folder.parent / "photos.report.html").write_text("mine"), "is no report"),
        (lambda folder: (folder.parent / "photos.model").write_text("a file"), "photos.model"),
        (lambda folder: folder, "--fpr 0.017"),
    ],
)
def test_find_refuses_before_it_begins(run, photos, tmp_path, change, words):
    level = () if change(photos) == photos else ("--fpr", "5%")
    code, _, err = run(*FIND, *level)
    assert code in (2, 3) and words in err
    assert not (tmp_path / "photos.scores.h5").exists()


# -- choosing a preset ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "preset"),
    [
        (lambda r: r.integers(0, 2, (9, 9)) * 255, "compact-gray"),
        (lambda r: r.integers(60, 190, (9, 9)), "compact-photo-gray"),
        (lambda r: r.integers(0, 256, (9, 9, 3)), "compact-rgb"),
        (lambda r: np.repeat(r.integers(60, 190, (9, 9, 1)), 3, axis=2), "compact-photo-gray"),
    ],
)
def test_the_preset_follows_from_the_images(tmp_path, pixels, preset):
    random = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(pixels(random).astype(np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    assert choose_preset(Survey(open_sources([str(tmp_path)]))).preset == preset


# -- cross-fitted models --------------------------------------------------------------------------


def make_bundle(folder: Path, seed: int) -> Bundle:
    hashes = np.zeros(0, np.uint64)
    return write_bundle(folder, folder.name, SMALL, make_ladder(seed=seed), {}, hashes)


@pytest.fixture
def folds(tmp_path):
    made = [make_bundle(tmp_path / "two" / f"fold-{fold}", seed=fold) for fold in (0, 1)]
    return write_cross_fitted(tmp_path / "two", "two", made, {})


def test_an_image_is_scored_by_its_folds_model_alone(folds):
    pixels = make_images(40, seed=2)
    scorer = scorer_of(folds, ScoreSettings(n_importance_samples=2), torch.device("cpu"))
    assert isinstance(scorer, FoldScorer)
    whole = scorer.score(pixels)
    assert whole["fold"].tolist() == folds_of(pixels, 2).tolist()
    assert set(whole["fold"]) == {0, 1}
    for fold, one in enumerate(folds.folds):
        rows = np.flatnonzero(whole["fold"] == fold)
        alone = Scorer.on(one.load_ladder(), scorer.scorers[0].settings, torch.device("cpu"))
        for name, values in alone.score(pixels[rows]).items():
            np.testing.assert_array_equal(whole[name][rows], values)
        seen = scorer.reconstruct(pixels).from_k[:, rows]
        np.testing.assert_allclose(
            seen, alone.reconstruct(pixels[rows]).from_k, rtol=1e-5, atol=1e-6
        )
    order = np.random.default_rng(1).permutation(40)
    for name, values in scorer.score(pixels[order]).items():
        np.testing.assert_array_equal(values, whole[name][order])


def test_a_fold_is_of_the_content_alone():
    pixels = make_images(200, seed=5)
    assert [fold_of(content_key(image), 3) for image in pixels] == folds_of(pixels, 3).tolist()
    counts = np.bincount(folds_of(pixels, 3))
    assert len(counts) == 3 and counts.min() > 40  # 66 expected, with a deviation of 6.7
    assert short_key(pixels[0]) == short_key(pixels[0].copy())


def test_an_ordinary_model_is_not_replaced(run, photos, tmp_path):
    make_bundle(tmp_path / "photos.model", seed=0)
    before = (tmp_path / "photos.model" / "config.json").read_bytes()
    for options in ((), ("--force",)):
        code, _, err = run(*FIND, "--fpr", "5%", *options)
        assert code == 3 and "photos.model" in err
    assert (tmp_path / "photos.model" / "config.json").read_bytes() == before


def test_folds_of_another_model_are_refused(folds, tmp_path):
    make_bundle(tmp_path / "two" / "fold-1", seed=7)
    with pytest.raises(ModelError, match="not those that"):
        read_bundle(tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "fold-1")
    with pytest.raises(ModelError, match="is not a model"):
        read_bundle(tmp_path / "two")


def test_a_cross_fitted_bundle_has_no_ladder_of_its_own(folds):
    with pytest.raises(ModelError, match="2 folds"):
        folds.load_ladder()
    assert len(folds.training_hashes()) == 0
    folds.check_weights()


def test_images_compared_with_one_another_have_valid_p(tmp_path):
    """However the folds' models differ: p is the rank among all, and 2 / (n + 1) at least."""
    scores = make_scores(tmp_path / "s.h5", 300, seed=1)
    fold = np.arange(300) % 2
    scores.columns["fold"] = fold.astype(np.int8)
    scores.lower_bound[fold == 1] -= 500.0
    calibration = Calibration.within(scores)
    combined = calibration.combine(scores.columns)
    assert calibration.is_within and len(calibration.combinations) == 2
    np.testing.assert_array_equal(np.sort(combined), calibration.combined)
    medians = [np.median(combined[fold == f]) for f in (0, 1)]
    assert medians == pytest.approx([0.0, 0.0], abs=1e-9)
    assert calibration.id != Calibration.of(scores).id and calibration.is_of(scores)
    assert not calibration.is_of(make_scores(tmp_path / "o.h5", 300, seed=2))
    again = Calibration.of_bytes(calibration.to_bytes(), "kept")
    np.testing.assert_array_equal(again.combine(scores.columns), combined)
    assert again.id == calibration.id and again.is_within
