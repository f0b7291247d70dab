"""The detector in scikit-learn's manners: what its own checks ask, and what images ask instead."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import ModelError, UsageError
from tests.conftest import make_images

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


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_checks(name):
    getattr(estimator_checks, name)("Detector", Detector())


def test_what_is_refused_is_refused_in_words():
    with pytest.raises(Exception, match="not unsigned bytes"):
        Detector().predict(np.zeros((5, 2)))
    assert Detector().__sklearn_tags__().estimator_type == "outlier_detector"


def test_it_stands_in_a_pipeline(bundle):
    images = make_images(12)[:, 0]
    steps = make_pipeline(FunctionTransformer(lambda x: 255 - x), Detector(bundle.folder))
    np.testing.assert_array_equal(
        steps.score_samples(images), Detector(bundle.folder).score_samples(255 - images)
    )


def test_a_copy_is_its_own(bundle):
    detector = Detector(bundle.folder)
    images = make_images(3)[:, 0]
    normal = detector.score_samples(images)  # a network is loaded by now
    again = copy.deepcopy(detector)
    assert "_derived" not in vars(again)
    np.testing.assert_array_equal(again.score_samples(images), normal)
    other = detector.set_params(seed=1).score_samples(images)
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


def test_a_model_that_is_kept_goes_with_its_copies(bundle, tmp_path):
    images = np.repeat(make_images(1, size=28)[0] // 128 * 255, 40, axis=0)
    training = {"epochs": 1, "batch_size": 16, "validation": 8}
    detector = Detector(training=training, out=tmp_path / "kept").fit(images)
    normal = detector.score_samples(images)
    np.testing.assert_array_equal(copy.deepcopy(detector).score_samples(images), normal)


def test_the_detector_has_scikit_learns_manners(bundle, folder):
    detector = Detector(bundle.folder, seed=3)
    assert clone(detector).get_params() == detector.get_params()
    normality = detector.score_samples(str(folder))
    assert normality.shape == (12,)
    np.testing.assert_allclose(
        detector.decision_function(str(folder)), normality - detector.offset_
    )
    predicted = detector.predict(str(folder))
    assert set(predicted) <= {1, -1}
    assert np.array_equal(predicted == 1, normality >= detector.offset_)
    assert detector.set_params(seed=4).settings.seed == 4
    with pytest.raises(ValueError, match="Invalid parameter"):
        detector.set_params(colour=1)


def test_fit_trains_a_model(tmp_path):
    images = np.repeat(make_images(1, size=28)[0] // 128 * 255, 40, axis=0)
    training = {"epochs": 1, "batch_size": 16, "validation": 8}
    detector = Detector(training=training, out=tmp_path / "m")
    assert detector.fit(images) is detector
    assert detector.score_samples(images).shape == (40,)
    assert Detector(tmp_path / "m").bundle.sha256 == detector.bundle.sha256


def test_an_unreadable_image_is_an_outlier_without_a_score(bundle, folder):
    (folder / "05.png").write_bytes(b"no image")
    detector = Detector(bundle.folder)
    row = 5
    assert np.isnan(detector.score_samples(str(folder))[row])
    assert detector.predict(str(folder))[row] == -1


def test_settings_without_a_reference_cannot_decide(bundle, folder):
    with pytest.raises(ModelError, match="no reference"):
        Detector(bundle.folder, n_importance_samples=3).predict(str(folder))
    with pytest.raises(UsageError):
        _ = Detector(bundle.folder, proposal="median").settings


@pytest.mark.parametrize("training", [{"epochz": 1}, {"epochs": "many"}])
def test_a_wrong_training_setting_is_a_usage_error(training):
    with pytest.raises(UsageError, match=next(iter(training))) as caught:
        Detector(training=training).fit(np.zeros((4, 28, 28), np.uint8))
    assert "epochs" in caught.value.hint
