"""The detector in scikit-learn's manners: what its own checks ask, and what images ask instead."""

from __future__ import annotations

import copy
import gc
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import CalibrationError, ModelError, SourceError, UsageError
from hvaeood_cli.report import frame, rows
from hvaeood_cli.user_cache import entries
from tests.conftest import make_images
from tests.score_files import SIZES

# The checks that need no table of floats: ours takes images, and says so by its tags.
CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]
# Refused, each for a reason:
#   check_estimators_unfitted: a detector has a model from the start, `fit` gives it another;
#   check_n_features_in and everything that fits a table (check_fit2d_*, check_dtype_object,
#   check_outliers_train, check_readonly_memmap_input ...): images are (N, H, W[, 3]) bytes.


ALONE = "ranked against this batch alone"


@pytest.fixture
def usual() -> np.ndarray:
    return make_images(120, seed=5)[:, 0]


@pytest.fixture
def calibrated(bundle, usual) -> Detector:
    """With a calibration of 120 images, which supports a rate of 5 %."""
    detector = Detector(bundle.folder, false_positive_rate=0.05)
    detector.calibrate(usual)
    return detector


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_checks(name):
    getattr(estimator_checks, name)("Detector", Detector())


def test_what_is_refused_is_refused_in_words():
    with pytest.raises(Exception, match="not unsigned bytes"):
        Detector().predict(np.zeros((5, 2)))
    assert Detector().__sklearn_tags__().estimator_type == "outlier_detector"


def test_it_stands_in_a_pipeline(calibrated, usual):
    images = make_images(12)[:, 0]
    steps = make_pipeline(FunctionTransformer(lambda x: 255 - x), calibrated)
    for method in ("score_samples", "decision_function", "predict"):
        found = getattr(steps, method)(images)
        np.testing.assert_array_equal(found, getattr(calibrated, method)(255 - images))
    assert clone(steps).set_params(detector__seed=4).get_params()["detector__seed"] == 4


def test_its_repr_is_scikit_learns():
    assert repr(Detector("mine", seed=3)) == "Detector(model='mine', seed=3)"
    assert "Detector" in Detector()._repr_html_()


def test_a_copy_is_its_own(calibrated):
    images = make_images(3)[:, 0]
    normal = calibrated.score_samples(images)  # a network is loaded by now
    again = copy.deepcopy(calibrated)
    assert "_derived" not in vars(again)
    np.testing.assert_array_equal(again.score_samples(images), normal)
    other = calibrated.set_params(seed=1).score_samples(images)
    assert not np.array_equal(other, normal), "what follows from the seed was made anew"


def test_a_fitted_model_goes_with_its_detector(bundle):
    """`fit` without a folder once left one behind in the system's temporary folder."""
    images = np.repeat(make_images(1, size=28)[0] // 128 * 255, 40, axis=0)
    training = {"epochs": 1, "batch_size": 16, "validation": 8}
    detector = Detector(bundle.folder, training=training).fit(images)
    folder = detector.bundle.folder
    assert folder.is_dir() and detector.model == bundle.folder, "parameters are left alone"
    assert clone(detector).bundle.folder == bundle.folder
    with pytest.raises(ModelError, match="temporary folder"):
        copy.deepcopy(detector)
    second = detector.fit(images).bundle.folder
    assert second.is_dir() and not folder.exists()
    del detector
    gc.collect()
    assert not second.exists()


TRAINING = {"epochs": 1, "batch_size": 16, "validation": 8, "calibration": 60}


def patterns() -> np.ndarray:
    return make_images(160, size=28)[:, 0] // 128 * 255


def test_a_model_that_is_kept_goes_with_its_copies(bundle, tmp_path):
    images = patterns()
    detector = Detector(training=TRAINING, out=tmp_path / "kept").fit(images)
    normal = detector.score_samples(images)
    np.testing.assert_array_equal(copy.deepcopy(detector).score_samples(images), normal)


def test_fit_looks_at_the_images_as_train_does(tmp_path, monkeypatch):
    """Photographs that are larger than the model's images become a model of tiles."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, pixels in enumerate(make_images(12, size=48)):
        Image.fromarray(pixels[0]).save(photos / f"{i}.png")
    training = {"epochs": 1, "batch_size": 8, "validation": 2, "calibration": 0}
    taken = {"tile": 16, "stride": 16, "scale": 1.0}
    detector = Detector(taken=taken, training=training, out=tmp_path / "m").fit(photos)
    config = detector.bundle.config
    assert (config.fit, config.image_size, config.tile_stride, config.tile_scale) == (
        "tile", 16, 16, 1.0,
    )  # fmt: skip
    assert len(entries("pixels")) == 1, "the pixels of files are kept, and mapped"
    assert np.isfinite(detector.score(photos).llr).all()
    whole = Detector(taken={"fit": "pad", "image_size": 16}, training=training)
    assert whole.fit(photos).bundle.config.fit == "pad"
    before = len(entries("pixels"))
    whole.fit(patterns()[:40])
    assert len(entries("pixels")) == before, "an array is no file"


@pytest.mark.parametrize(
    ("taken", "named"),
    [({"tiles": 16}, "tiles"), ({"fit": "crop", "tile": 8}, "tile"), ({"fit": "x"}, "x")],
)
def test_images_cannot_be_taken_so(taken, named):
    with pytest.raises(UsageError, match=named) as caught:
        Detector(taken=taken).fit(patterns())
    assert caught.value.hint


def test_the_detector_has_scikit_learns_manners(calibrated, folder):
    assert clone(calibrated).get_params() == calibrated.get_params()
    normality = calibrated.score_samples(str(folder))
    assert normality.shape == (12,)
    np.testing.assert_allclose(
        calibrated.decision_function(str(folder)), normality - calibrated.offset_
    )
    predicted = calibrated.predict(str(folder))
    assert set(predicted) <= {1, -1}
    assert np.array_equal(predicted == 1, normality >= calibrated.offset_)
    assert calibrated.set_params(seed=4).settings.seed == 4
    with pytest.raises(ValueError, match="Invalid parameter"):
        calibrated.set_params(colour=1)


def test_fit_trains_a_model_and_fit_predict_judges_what_it_was_trained_on(tmp_path):
    images = patterns()
    detector = Detector(training=TRAINING, out=tmp_path / "m", false_positive_rate=0.1)
    steps = make_pipeline(FunctionTransformer(), detector)
    predicted = steps.fit_predict(images)
    assert predicted.shape == (160,) and set(predicted) <= {1, -1}
    np.testing.assert_array_equal(detector.predict(images), predicted)
    assert detector.fit(images) is detector
    assert Detector(tmp_path / "m").bundle.sha256 == detector.bundle.sha256


def test_an_unreadable_image_is_an_outlier_without_a_score(calibrated, folder):
    (folder / "05.png").write_bytes(b"no image")
    assert np.isnan(calibrated.score_samples(str(folder))[5])
    assert calibrated.predict(str(folder))[5] == -1


# -- without a calibration ------------------------------------------------------------------------


def test_without_a_calibration_images_are_ranked_among_themselves_and_it_says_so(bundle, folder):
    (folder / "05.png").write_bytes(b"no image")
    detector = Detector(bundle.folder, n_importance_samples=3, false_positive_rate=0.2)
    found = {}
    for method in ("score_samples", "decision_function", "predict"):
        with pytest.warns(UserWarning, match=ALONE) as said:
            found[method] = getattr(detector, method)(str(folder))
        assert len(said) == 1 and said[0].filename == __file__
        assert "detector.calibrate" in str(said[0].message)
    normal, above, predicted = found.values()
    outliers = np.flatnonzero(predicted == -1)
    assert 5 in outliers and len(outliers) == 3, "the unreadable one, and a fifth of the others"
    assert set(np.argsort(normal)[:2]) | {5} == set(outliers)
    np.testing.assert_array_equal(np.nan_to_num(above, nan=-1.0) >= 0, predicted == 1)


def test_without_a_calibration_nothing_is_promised(bundle, folder):
    detector = Detector(bundle.folder)
    for ask in (lambda: detector.p_values(str(folder)), lambda: detector.offset_):
        with pytest.raises(CalibrationError, match="no calibration") as caught:
            ask()
        assert "calibrate" in caught.value.hint
    with pytest.raises(UsageError):
        _ = Detector(bundle.folder, proposal="median").settings


def test_one_image_alone_is_no_outlier(bundle):
    with pytest.warns(UserWarning, match=ALONE):
        assert Detector(bundle.folder).predict(make_images(1)[:, 0]).tolist() == [1]


# -- what X may be --------------------------------------------------------------------------------


def test_x_may_be_an_array_a_tensor_or_a_list_and_the_scores_are_the_same(calibrated, tmp_path):
    images = make_images(6, seed=3)  # (N, 1, H, W)
    grey = images[:, 0]
    for i, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    expected = calibrated.score_samples(grey)
    for same in (
        images,
        torch.from_numpy(images),
        torch.from_numpy(grey),
        list(grey),
        [torch.from_numpy(image) for image in images],
        [Image.fromarray(image) for image in grey],
        [Image.open(path) for path in paths],
        paths,
        np.array([str(path) for path in paths]),
        tmp_path,
    ):
        np.testing.assert_array_equal(calibrated.score_samples(same), expected)


def test_a_list_may_hold_images_of_any_size_and_kind(calibrated):
    random = np.random.default_rng(0)
    deep = Image.fromarray(random.integers(0, 65536, (20, 30), np.uint16))
    clear = Image.new("RGBA", (9, 9), (255, 0, 0, 0))
    palette = Image.new("RGB", (16, 12), "red").convert("P")
    flat = random.integers(0, 256, (10, 14, 3), np.uint8)
    scores = calibrated.score([deep, clear, palette, flat, torch.from_numpy(flat[:, :, 0].copy())])
    assert scores.scored.all() and scores.name(4) == "X#4"
    done = [
        {name for name, bit in scores.conversion_codes.items() if bit & int(conversions)}
        for conversions in scores.conversions
    ]
    assert "depth" in done[0] and "alpha" in done[1] and {"palette", "greyed"} <= done[2]
    white = calibrated.score(np.full((1, 9, 9), 255, np.uint8))
    np.testing.assert_array_equal(scores.llr[1], white.llr[0])


def test_an_image_in_memory_that_cannot_be_decoded_is_a_row(calibrated, folder):
    whole = (folder / "00.png").read_bytes()
    cut, other = io.BytesIO(whole[: len(whole) - 30]), Image.fromarray(make_images(1)[0, 0])
    scores = calibrated.score([Image.open(cut), other])
    assert scores.scored.tolist() == [False, True] and scores.status_name(0) == "damaged"


@pytest.mark.parametrize(
    ("images", "words", "hint"),
    [
        (np.zeros((64, 48, 3), np.uint8), "that of one image", "image[None]"),
        (np.zeros((64, 48, 4), np.uint8), "that of one image", "image[None]"),
        (np.zeros((64, 48), np.uint8), "that of one image", "image[None]"),
        (Image.new("L", (8, 8)), "one image", "[image]"),
        (torch.rand(2, 8, 8), "float32", "(255 * X).round()"),
        (torch.rand(2, 8, 8).bfloat16(), "float32", "(255 * X).round()"),
        ([np.zeros((8, 8))], "X#0 holds float64", "(255 * X).round()"),
        ([np.zeros((8, 8), np.uint8), "a.png"], "X#1 is no image but a str", "PIL images"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], "X#0 has shape", "PIL images"),
        ([3], "X#0 is no image but a int", "PIL images"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_with_a_hint(images, words, hint):
    with pytest.raises(SourceError) as caught:
        Detector().predict(images)
    assert words in caught.value.message and hint in caught.value.hint


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_a_table_without_its_library_is_refused_with_a_hint(
    calibrated, usual, tmp_path, monkeypatch, module
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"{module} is not installed") as caught:
        if module == "pandas":
            calibrated.to_frame(usual)
        else:
            frame.to_parquet(tmp_path / "x.parquet", [])
    assert "hvaeood[frames]" in caught.value.hint


def test_a_frame_has_every_score_and_why_an_image_is_odd(calibrated, folder):
    pytest.importorskip("pandas")
    (folder / "05.png").write_bytes(b"no image")
    Image.new("L", (8, 8), 255).save(folder / "00.png")
    table = calibrated.to_frame(str(folder))
    predicted = calibrated.predict(str(folder))
    assert len(table) == 12 and list(table.columns) == [*rows._csv_header(SIZES), "copy_of"]
    assert table["flagged"].tolist() == [p == -1 and i != 5 for i, p in enumerate(predicted)]
    np.testing.assert_array_equal(table["p_combined"], calibrated.p_values(str(folder)))
    assert table["status"][5] == "not_an_image" and table["k"].isna()[5]
    assert [bool(why) for why in table["why"]] == table["flagged"].tolist()


def test_a_frame_without_a_calibration_ranks_and_flags_nothing(bundle, folder):
    pytest.importorskip("pandas")
    with pytest.warns(UserWarning, match=ALONE) as said:
        table = Detector(bundle.folder).to_frame(str(folder))
    assert len(said) == 1 and said[0].filename == __file__
    assert table["combined"].notna().all() and table["p_combined"].isna().all()
    assert table["flagged"].isna().all() and not table["why"].any()


@pytest.mark.parametrize("training", [{"epochz": 1}, {"epochs": "many"}])
def test_a_wrong_training_setting_is_a_usage_error(training):
    with pytest.raises(UsageError, match=next(iter(training))) as caught:
        Detector(training=training).fit(np.zeros((4, 28, 28), np.uint8))
    assert "epochs" in caught.value.hint
