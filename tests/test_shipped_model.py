"""The model that ships, on real images: the first thing that a stranger sees."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from hvaeood_cli.calibration.ranking import Ranking
from hvaeood_cli.detector import Detector
from hvaeood_cli.images.arrays import load_array
from hvaeood_cli.images.content import short_key
from hvaeood_cli.report.metrics import compare

MIXED = Path(__file__).parent.parent / "examples" / "mixed"
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    with (MIXED / "labels.csv").open() as file:
        return np.array([int(row["label"]) for row in csv.DictReader(file)])


def test_it_finds_the_digits_among_the_clothes(detector, labels):
    scores = detector.score(str(MIXED))
    inside, outside = (scores.llr[labels == label] for label in (0, 1))
    assert compare(inside[:, 0], outside[:, 0]).auroc > 0.95
    without = Ranking.of(scores, None)
    assert without.by == "batch" and labels[without.order()[:10]].mean() >= 0.9


def test_the_likelihood_alone_would_have_it_backwards(detector, labels):
    """The paper's point: digits are more likely than the clothes that it was trained on."""
    elbo = detector.score(str(MIXED)).lower_bound[:, 0]
    assert compare(-elbo[labels == 0], -elbo[labels == 1]).auroc < 0.5


def test_the_bundle_says_how_it_was_made(detector):
    training = detector.bundle.training
    assert training["n_images"] == 55_000 and training["minutes"] <= 60
    assert training["command"][:2] == ["hvaeood", "train"]
    assert training["curve"][-1]["validation_bits_per_dim"][0] < 0.46
    assert sum(f.stat().st_size for f in detector.bundle.folder.iterdir()) < 4 << 20


def test_no_example_was_trained_on(detector):
    trained = set(detector.bundle.training_hashes().tolist())
    assert len(trained) > 50_000
    pixels = detector.pixels(detector.manifest(str(MIXED)))
    assert not trained & {short_key(image) for image in pixels}


@pytest.mark.slow
@pytest.mark.skipif(not (FASHION.is_dir() and SHARED.is_dir()), reason="needs the data sets")
def test_the_readmes_figures(detector):
    """10,000 images each, S = 16, LLR>1: minutes long."""
    fashion = detector.score(str(FASHION / "t10k-images-idx3-ubyte.gz"))
    mnist = detector.score(str(SHARED / "mnist" / "t10k-images-idx3-ubyte.gz"))
    assert -fashion.lower_bound[:, 0].mean() / (784 * np.log(2)) < 0.45
    assert compare(fashion.llr[:, 0], mnist.llr[:, 0]).auroc >= 0.99


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the data set")
def test_it_was_trained_on_the_first_55000_and_no_other(detector):
    trained = set(detector.bundle.training_hashes().tolist())
    train = load_array(FASHION / "train-images-idx3-ubyte.gz")[:, None]
    known = [short_key(image) in trained for image in train]
    assert sum(known[:55_000]) >= 54_000
    assert sum(known[55_000:]) <= 5  # FashionMNIST repeats a few images


def test_it_ships_calibrated_on_images_it_was_not_trained_on(detector):
    calibration = detector.calibration
    assert calibration is not None and len(calibration) == 5000
    assert not np.isin(calibration.content, detector.bundle.training_hashes()).any()
    pixels = detector.pixels(detector.manifest(str(MIXED)))
    examples = np.array([short_key(image) for image in pixels], np.uint64)
    assert not np.isin(calibration.content, examples).any()


def test_it_flags_digits_from_the_first_minute(detector, labels):
    p = detector.p_values(str(MIXED))
    assert (p[labels == 1] <= 0.05).mean() >= 0.8
    assert (p[labels == 0] <= 0.05).mean() <= 0.12, "180 images: 5 % and three standard errors"
    flagged = detector.predict(str(MIXED)) == -1
    np.testing.assert_array_equal(flagged, p <= detector.false_positive_rate)


@pytest.fixture(scope="module")
def photographs() -> Detector:
    return Detector("cifar10")


def test_the_colour_model_was_not_calibrated_on_what_it_was_trained_on(photographs):
    calibration = photographs.calibration
    assert calibration is not None and len(calibration) == 4000
    assert not np.isin(calibration.content, photographs.bundle.training_hashes()).any()
    training = photographs.bundle.training
    assert training["n_trained_on"] == 19_000 and training["minutes"] <= 90
    assert training["curve"][-1]["validation_bits_per_dim"][0] < 4.3
    assert not any(part.startswith("/") for part in training["command"])


def test_the_colour_model_flags_what_is_no_photograph(photographs, labels):
    """Digits and clothes on black, made 32x32 and colour: plain images, less costly than usual."""
    manifest = photographs.manifest(str(MIXED))
    pixels = photographs.pixels(manifest)[:40]
    assert (photographs.p_values(pixels) <= 0.05).mean() > 0.9
    elbo = photographs.score(pixels).lower_bound[:, 0]
    usual = photographs.calibration["lower_bound"][:, 0]
    assert np.median(elbo) > np.median(usual), "and yet they are likelier"


def test_the_colour_model_leaves_photographs_alone(photographs):
    cifar = SHARED / "cifar10" / "test5k.npz"
    if not cifar.is_file():
        pytest.skip("needs the data set")
    p = photographs.p_values(f"{cifar}#4000:4100")
    assert (p <= 0.05).mean() <= 0.12, "100 images: 5 % and three standard errors"
