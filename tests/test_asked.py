"""Scores beside ours: what they say, and that nothing else changes where they are measured."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hvaeood_cli import Detector
from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.model.bundle import write_bundle
from hvaeood_cli.scoring.bounds import lower_bound
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import STATISTICS, ScoreSettings
from hvaeood_cli.store.columns import ASKED, columns
from tests.conftest import SMALL, make_images, make_ladder

COLOUR = SMALL.model_copy(update={"image_channels": 3, "likelihood": "logistics"})
CONFIGS = {"hvae": SMALL, "colour": COLOUR} | {
    kind: SMALL.model_copy(update={"kind": kind}) for kind in ("biva", "lvae")
}


def scorer(config=SMALL, statistics: str = "all") -> Scorer:
    settings = ScoreSettings(n_importance_samples=1, statistics=statistics)
    return Scorer.on(make_ladder(config), settings, torch.device("cpu"))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_they_are_finite_and_depend_on_the_image_alone(config):
    images = make_images(70, channels=config.image_channels)
    found = scorer(config).score(images)
    assert set(found) == {column.name for column in columns("scores")}
    some = scorer(config).score(images[[3, 50, 69]])
    without = scorer(config, "").score(images)
    for name, values in found.items():
        assert np.isfinite(values).all(), name
        if (name, config.kind) == ("regret", "biva"):  # to the last digits: docs/scores.md
            np.testing.assert_allclose(some[name], values[[3, 50, 69]], rtol=1e-5)
        else:
            assert np.array_equal(some[name], values[[3, 50, 69]]), name
        if name in without:
            assert np.array_equal(without[name], values), name
    assert (found["regret"] >= 0.0).all() and (found["path_scale"] > 0.0).all()


def test_several_threads_measure_at_once(bundle):
    """None of them changes the network under another's hands, as an exchange of weights would."""
    images = make_images(500)[:, 0]

    def scores(workers: int):
        how = {"n_importance_samples": 1, "statistics": "all", "workers": workers}
        return Detector(bundle.folder, **how).score(images)

    one_by_one, at_once = scores(0), scores(4)
    for name, values in one_by_one.columns.items():
        assert np.array_equal(values, at_once[name]), name


def test_the_gradient_is_that_of_each_image_alone():
    """Against autograd on one image after the other, stage by stage."""
    of = scorer()
    images = make_images(3)
    found = of.score(images)["gradient"]
    (one,) = of.passes(images)
    noise = of.ladder.by_layer(one.normal)
    for i in range(3):
        of.ladder.zero_grad()
        lower_bound(of.ladder, one.x[i : i + 1], [eps[:, i : i + 1] for eps in noise])[0].backward()
        squared = {name: w.grad.square().sum() for name, w in of.ladder.named_parameters()}
        for stage in (1, 2, 3):
            is_in = {
                name: (name.split(".")[1] == str(stage))
                or (stage == 1 and name.startswith(("stem", "unstem")))
                for name in squared
            }
            total = sum(value for name, value in squared.items() if is_in[name])
            np.testing.assert_allclose(found[i, stage - 1], np.log(total.item()), rtol=1e-4)


def test_what_is_perturbed_is_compared_with_the_same_noise():
    images = make_images(2)
    images[1] = 0  # its quarters are alike
    found = scorer().score(images)["perturbed"]
    assert found[1, 1] == pytest.approx(0.0, abs=1e-3) and abs(found[0]).min() > 0.0


def test_complexity_is_the_cost_beyond_a_png(tmp_path):
    from PIL import Image

    images = make_images(2)
    found = scorer().score(images)
    for image, cost, elbo in zip(images, found["complexity"], found["lower_bound"], strict=True):
        file = io.BytesIO()
        Image.fromarray(image[0]).save(file, "PNG", compress_level=9)
        bits = 8 * len(file.getvalue())
        assert cost == pytest.approx(-elbo[0] - bits * np.log(2.0), rel=1e-4)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("all", " ".join(STATISTICS)),
        ("regret,path", "path regret"),
        ("path path", "path"),
    ],
)
def test_names_in_any_order_are_one_setting(given, kept):
    assert ScoreSettings(statistics=given).statistics == kept
    assert ASKED == STATISTICS


def test_score_calibrate_and_decide_with_them(run, tmp_path, bundle):
    np.save(tmp_path / "x.npy", make_images(120, seed=5)[:, 0])
    code, _, err = run("score", "x.npy", "--statistics", "beauty")
    assert code == 2 and "no statistic is called 'beauty'" in err and "regret" in err
    asked = ("--statistics", "path,complexity")
    code, out, err = run("score", "x.npy", "-o", "s.h5", "--csv", *asked)
    assert code == 0, err
    (first, *_) = csv.DictReader(io.StringIO(out))
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["statistics"] == "complexity path"
        assert set(file["scores"]) >= {"complexity", "path_mean"} and "regret" not in file["scores"]
        assert float(first["complexity"]) == pytest.approx(file["scores/complexity"][0], rel=1e-5)
    code, _, err = run("score", "x.npy", "-o", "s.h5")
    assert code == 3 and "asked for: complexity path there, none here" in err
    code, _, err = run("calibrate", "s.h5", "-o", "with.npz")
    made = Calibration.load(tmp_path / "with.npz")
    assert made.asked == ("complexity", "path") and "path" in made.aspects
    code, _, err = run("score", "x.npy", "-o", "t.h5", "--calibration", "with.npz", "--fpr", "0.1")
    assert code == 3 and "complexity calibrated, not measured here" in err
    code, _, err = run("calibrate", "s.h5", "-o", "more.npz", "--statistics", "path,regret")
    assert code == 2 and "has no regret" in err
    by_it = ("--calibration", "with.npz", "--fpr", "0.1")
    code, out, err = run("score", "x.npy", "-o", "s.h5", "--json", *by_it, *asked)
    assert code == 0, err
    assert json.loads(out)["images"][0]["combined"] is not None


def test_a_calibration_with_them_stands_beside_that_without(tmp_path, bundle):
    import shutil

    from hvaeood_cli.calibration.calibration import find_calibration

    own = tmp_path / "own"
    shutil.copytree(bundle.folder, own)
    images = make_images(120, seed=5)[:, 0]
    paths: list[Path] = []
    for statistics in ("", "path"):
        detector = Detector(own, n_importance_samples=1, statistics=statistics)
        paths.append(tmp_path / f"{statistics or 'plain'}.npz")
        detector.calibrate(images).save(paths[-1])
    wanted = detector.wanted_settings
    assert find_calibration(paths, wanted).asked == ("path",)
    assert find_calibration(paths, wanted | {"statistics": ""}).asked == ()
    assert find_calibration(paths, wanted | {"statistics": "gradient path"}).asked == ("path",)


def test_of_tiles_they_are_measured_and_do_not_count(run, tmp_path):
    """Which is said: such images are decided by their peak."""
    config = SMALL.model_copy(update={"fit": "tile", "tile_stride": 4, "tile_scale": 1.0})
    none = np.arange(0, dtype=np.uint64)
    write_bundle(tmp_path / "m", "m", config, make_ladder(config), {}, none)
    np.save(tmp_path / "x.npy", make_images(60, size=12)[:, 0])
    asked = ("--model", "m", "-S", "1", "--statistics", "path")
    code, _, err = run("calibrate", "x.npy", *asked)
    assert code == 0 and "does without path" in err, err
    code, out, err = run("score", "x.npy", "-o", "s.h5", "--fpr", "0.1", "--csv", *asked)
    assert code == 0 and "decided without path: images that are taken by tiles" in err, err
    assert all(float(row["path_mean_1"]) > 0 for row in csv.DictReader(io.StringIO(out)))


def test_a_file_that_has_other_statistics_than_it_says_is_refused(run, tmp_path):
    np.save(tmp_path / "x.npy", make_images(60, seed=5)[:, 0])
    run("score", "x.npy", "-o", "s.h5", "--statistics", "complexity")
    for value in ("", "path", "complexity path", "beauty", "path complexity"):
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            file.attrs["statistics"] = value
        code, _, err = run("decide", "s.h5", "--fpr", "0.1")
        assert code == 3 and "hint:" in err, value
