"""Where in an image: maps by the method, calibrated, joined from tiles, drawn, and on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save
from scipy import ndimage

from hvaeood_cli.calibration.usual_maps import UsualMaps, find_usual_maps, place_of
from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import CalibrationError, UsageError
from hvaeood_cli.images.preprocess import box_of, preprocess, tiling_of
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.looks.heat import colours, overlay, placed, scale, sentence
from hvaeood_cli.looks.look import Look, Maps
from hvaeood_cli.looks.looker import Looking
from hvaeood_cli.model.bundle import Bundle, write_bundle
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.bounds import score
from hvaeood_cli.scoring.maps import closed, costs, rule_of, smoothed
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.scoring.usual import usual_maps
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.reader import read_scores
from tests.conftest import SMALL, make_images, make_ladder, make_noise

COLOUR = ModelConfig.model_validate(
    SMALL.model_dump() | {"image_channels": 3, "likelihood": "logistics"}
)
TILED = ModelConfig.model_validate(
    SMALL.model_dump()
    | {"likelihood": "logistics", "fit": "tile", "tile_stride": 4, "tile_scale": 0.5}
)
WANTED = {
    "model_sha256": "a" * 64,
    "proposal": "mean",
    "preprocessing": "none",
    "map": rule_of(SMALL),
}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory) -> Bundle:
    """An untrained model for tiles of 8x8 pixels of images at half their size."""
    folder = tmp_path_factory.mktemp("models") / "tiled"
    return write_bundle(folder, "tiled", TILED, make_ladder(TILED), {}, np.zeros(0, np.uint64))


@pytest.fixture
def usual() -> UsualMaps:
    """Of 60 maps of two k."""
    maps = np.random.default_rng(0).normal(1.0, [[[[0.5]]], [[[2.0]]]], (2, 60, 8, 8))
    return UsualMaps.of(WANTED, [maps[:, :40].astype("f4"), maps[:, 40:].astype("f4")])


# -- the method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, COLOUR], ids=["bernoulli", "logistics"])
@pytest.mark.parametrize("n_samples", [1, 3])
def test_a_map_adds_up_to_what_log_px_says(config, n_samples):
    ladder = make_ladder(config)
    pixels = torch.from_numpy(make_images(4, channels=config.image_channels))
    x = ladder.likelihood.observe(pixels, torch.rand(pixels.shape))
    scores = score(ladder, x, make_noise(ladder, n_samples, len(x)), n_samples)
    of_pixels = scores.log_px_of_pixels.transpose(0, 1)  # (L, B, H, W)
    sums = costs(of_pixels, config).sum((2, 3))  # (L - 1, B)
    chance = scores.log_px[:, :1] if config.likelihood == "bernoulli" else 0.0
    torch.testing.assert_close(sums.T, chance - scores.log_px[:, 1:], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("config", [SMALL, COLOUR], ids=["bernoulli", "logistics"])
def test_log_p_of_a_pixel_stands_where_the_pixel_is(config):
    """The stem rearranges pixels in blocks of 2 x 2; the map must not."""
    likelihood = make_ladder(config).likelihood
    torch.manual_seed(0)
    parameters = torch.randn(1, likelihood.n_parameters * 4, 4, 4)
    x = likelihood.observe(
        torch.zeros(1, config.image_channels, 8, 8, dtype=torch.uint8), torch.tensor(0.5)
    )
    changed = x.clone()
    changed[..., 5, 2] = 1.0
    before, after = (likelihood.log_prob_of_pixels(parameters, one) for one in (x, changed))
    assert (before != after).nonzero().tolist() == [[0, 5, 2]]
    torch.testing.assert_close(before.sum((1, 2)), likelihood.log_prob(parameters, x))


def test_smoothing_keeps_what_is_even_and_spreads_what_is_not():
    even, point = torch.full((1, 1, 9, 7), 3.0), torch.zeros(1, 1, 15, 15)
    point[..., 6, 8] = 1.0
    torch.testing.assert_close(smoothed(even), even)
    spread = smoothed(point)[0, 0]
    assert spread.argmax() == 6 * 15 + 8 and 0 < spread[6, 10] < spread[6, 9] < spread[6, 8] < 0.1
    assert spread[0, 0] == 0, "far away it weighs nothing"


def test_maps_do_not_depend_on_the_images_beside_them(ladder):
    scorer = Scorer.on(ladder, ScoreSettings(n_importance_samples=1), torch.device("cpu"))
    images = make_images(5)
    together, alone = scorer.reconstruct(images).maps, scorer.reconstruct(images[3:4]).maps
    assert together.shape == (2, 5, 8, 8) and np.isfinite(together).all()
    np.testing.assert_allclose(together[:, 3:4], alone, atol=1e-5)


# -- what is usual --------------------------------------------------------------------------------


def test_usual_maps_have_no_mean_and_a_spread_of_one(usual):
    maps = np.random.default_rng(1).normal(1.0, [[[[0.5]]], [[[2.0]]]], (2, 900, 8, 8))
    spreads = usual.spreads(maps.astype("f4"))
    assert abs(spreads.mean()) < 0.1 and 0.9 < spreads.std() < 1.1
    assert usual.n == 60


def test_a_pixel_that_never_changes_has_a_spread_all_the_same():
    maps = np.random.default_rng(0).normal(size=(1, 60, 4, 4)).astype("f4")
    maps[..., 0, 0] = 0.0
    odd = np.ones((1, 1, 4, 4), "f4")
    assert 5 < UsualMaps.of(WANTED, [maps]).spreads(odd)[0, 0, 0, 0] < 20


def test_a_map_that_is_no_number_does_not_count():
    maps = np.random.default_rng(0).normal(size=(1, 60, 4, 4)).astype("f4")
    maps[0, 5, 1, 1] = np.nan
    found = UsualMaps.of(WANTED, [maps])
    assert found.n == 59 and np.isfinite(found.mean).all()
    with pytest.raises(CalibrationError, match="too few"):
        UsualMaps.of(WANTED, [maps[:, :49]])


def test_usual_maps_are_kept_beside_a_calibration(usual, tmp_path):
    calibration = tmp_path / "calibration.npz"
    usual.save(calibration)
    arrays = load_file(tmp_path / "calibration.maps.safetensors")
    assert {name: (one.shape, str(one.dtype)) for name, one in arrays.items()} == {
        "mean": ((2, 8, 8), "float32"),
        "std": ((2, 8, 8), "float32"),
    }
    found = find_usual_maps([tmp_path / "none.npz", calibration], WANTED, n_layers=3, size=8)
    assert found is not None and np.array_equal(found.std, usual.std) and found.n == 60


@pytest.mark.parametrize("other", ["model_sha256", "proposal", "preprocessing", "map"])
def test_usual_maps_of_something_else_do_not_count(usual, tmp_path, other):
    usual.save(tmp_path / "calibration.npz")
    places = [tmp_path / "calibration.npz"]
    assert find_usual_maps(places, WANTED | {other: "else"}, n_layers=3, size=8) is None
    assert find_usual_maps(places, WANTED, n_layers=3, size=16) is None


@pytest.mark.parametrize(
    "damage", ["cut", "text", "bytes", "headless", "shape", "nan", "more", "raised", "flat"]
)
def test_a_damaged_file_is_an_error_with_a_hint(usual, tmp_path, damage):
    calibration = tmp_path / "calibration.npz"
    usual.save(calibration)
    place = place_of(calibration)
    mean, std = usual.mean, usual.std
    content = {
        "cut": place.read_bytes()[:-100],
        "text": b"not a file of arrays",
        "bytes": bytes(1000),
        "headless": save({"mean": mean, "std": std}),
        "shape": save({"mean": mean, "std": std[:1]}, {"head": head(place)}),
        "nan": save({"mean": mean * np.nan, "std": std}, {"head": head(place)}),
        "more": save({"mean": mean, "std": std, "else": std}, {"head": head(place)}),
        "flat": save({"mean": np.array(0, "f4"), "std": np.array(1, "f4")}, {"head": head(place)}),
        "raised": save({"mean": mean, "std": std, "raised": std}, {"head": head(place)}),
    }[damage]
    place.write_bytes(content)
    with pytest.raises(CalibrationError, match="holds no usual maps") as caught:
        UsualMaps.load(place)
    assert "hvaeood calibrate" in caught.value.hint


def head(place: Path) -> str:
    from safetensors import safe_open

    with safe_open(place, framework="np") as file:
        return file.metadata()["head"]


# -- tiles ----------------------------------------------------------------------------------------


def test_the_map_of_a_photograph_is_the_mean_of_its_tiles_maps(tiled):
    photo = make_images(1, size=40)[0, 0, :, :30]
    detector = Detector(tiled.folder, device="cpu")
    found = detector.reconstruct(photo[None]).maps[:, 0]
    tiling = tiling_of(TILED)
    scaled = tiling.scaled(photo).pixels
    tiles = detector.scorer.of_one_sample.reconstruct(tiling.cut(scaled)).maps
    total, n = np.zeros((2, 20, 15)), np.zeros((20, 15))
    for i, (top, left) in enumerate(tiling.places(20, 15)):
        total[:, top : top + 8, left : left + 8] += tiles[:, i]
        n[top : top + 8, left : left + 8] += 1
    np.testing.assert_allclose(found, total / n, atol=1e-4)


def test_what_odd_pixels_enclose_is_as_odd_as_they_are():
    """No pixel loses; what a square of that size fits into stays as it is."""
    ring = np.zeros((1, 40, 40), np.float32)
    ring[0, 10:20, 10:20] = 3.0
    ring[0, 12:18, 12:18] = -1.0
    ring[0, 30, 30] = 2.0
    found = closed(ring, 8)
    assert (found[0, 10:20, 10:20] == 3.0).all()
    assert found[0, 30, 30] == 2.0
    outside = np.ones((40, 40), np.bool_)
    outside[10:20, 10:20] = outside[30, 30] = False
    assert (found[0][outside] == 0.0).all()
    noise = np.random.default_rng(0).normal(size=(2, 30, 25)).astype("f4")
    square = ndimage.grey_closing(noise[0], (9, 9), mode="constant")
    inside = slice(8, -8), slice(8, -8)
    np.testing.assert_array_equal(closed(noise, 8)[0][inside], square[inside])
    assert (closed(noise, 9) >= noise).all() and closed(noise, 1).tobytes() == noise.tobytes()


def test_the_map_of_a_usual_photograph_is_about_0_in_the_mean(tiled, tmp_path):
    """Though closing raises it: otherwise it would not be as far above what is usual as it says."""
    detector = Detector(tiled.folder, device="cpu", n_importance_samples=1)
    photos = list(make_images(70, size=40)[:, 0])
    detector.calibrate(photos)
    raised = detector.usual_maps_.raised
    assert raised.shape == (2,) and (raised > 0.1).all()
    maps = np.stack(detector.maps(photos))
    assert abs(maps.mean(axis=(0, 2, 3))).max() < 0.2
    detector.usual_maps_.save(tmp_path / "c.npz")
    again = UsualMaps.load(tmp_path / "c.maps.safetensors")
    np.testing.assert_array_equal(again.raised, raised)


def test_photographs_of_several_sizes_have_a_map_each(tiled, tmp_path):
    detector = Detector(tiled.folder, device="cpu", n_importance_samples=1)
    for i in range(60):
        photo = make_images(1, size=40, seed=i)[0, 0, : 20 + i % 20]
        Image.fromarray(photo).save(tmp_path / f"{i:02d}.png")
    with pytest.raises(CalibrationError, match="not known"):
        detector.maps(str(tmp_path))
    detector.calibrate(str(tmp_path))
    maps = detector.maps(str(tmp_path))
    assert {one.shape for one in maps} == {(2, n // 2 + n % 4 // 3, 20) for n in range(20, 40)}
    assert abs(np.concatenate([one.ravel() for one in maps]).mean()) < 0.2
    with pytest.raises(UsageError, match="several sizes"):
        detector.reconstruct(str(tmp_path))


@pytest.mark.parametrize("fit", ["crop", "pad", "tile"])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (6, 60)])
def test_a_map_covers_what_the_model_sees(fit, shape):
    """A bright spot is found at the same place in the image and in what the model takes of it."""
    changes = {"fit": fit} if fit != "tile" else {}
    config = (TILED if fit == "tile" else SMALL).model_copy(update={"image_size": 16, **changes})
    image = np.zeros(shape, np.uint8)
    row, column = shape[0] // 2, shape[1] // 2 + 1
    image[row - 2 : row + 3, column - 2 : column + 3] = 255
    from hvaeood_cli.images.decode import Conversion, Decoded

    seen = preprocess(Decoded(image, Conversion(0)), config).pixels[0].astype("f4")
    back = placed(seen, box_of(config, *shape), *shape)
    there = np.argwhere(back > 0.6 * back.max()).mean(0)
    assert abs(there - [row, column]).max() <= 1.5


# -- pictures -------------------------------------------------------------------------------------


def test_what_is_usual_stays_grey_and_what_is_not_glows():
    values = np.zeros((2, 8, 8), "f4")
    values[0, 2, 5] = 9.0
    image = np.full((8, 8), 100, np.uint8)
    shown = overlay(image, Maps(values, (0, 0, 8, 8)), k=1, least=8)
    grey = shown[0, 0].tolist()
    assert grey == [60, 60, 60] and shown[2, 5].tolist() != grey
    red, _, blue = (int(value) for value in shown[2, 5])
    assert red > 200 > blue, "pale yellow"
    assert (overlay(image, Maps(values, (0, 0, 8, 8)), k=2, least=8) == 60).all()
    assert overlay(image, Maps(values, (0, 0, 8, 8)), 1).shape == (256, 256, 3)
    assert overlay(
        np.zeros((900, 2000, 3), np.uint8), Maps(values, (550, 0, 1450, 900)), 1
    ).shape == (461, 1024, 3)


def test_each_colour_is_brighter_than_the_one_before():
    ramp = colours(np.linspace(0, 1, 50))
    assert (np.diff(ramp @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_a_sentence_says_how_much_in_which_unit():
    values = np.zeros((2, 8, 8), "f4")
    values[1, 3, 3] = 6.25
    spreads, nats = Maps(values, (0, 0, 8, 8)), Maps(values, (0, 0, 8, 8), "nobody knows")
    assert "worse than is usual there, by up to 6.2 spreads" in sentence(spreads, 2)
    assert sentence(spreads, 1).startswith("nowhere do the layers above 1")
    assert "6.2 nats a pixel" in sentence(nats, 2) and "not known" in sentence(nats, 2)
    assert scale(spreads, 2) == (2.0, 8.0) and scale(nats, 2)[1] == 6.25


# -- commands -------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for i, image in enumerate(make_images(60)):
        Image.fromarray(image[0]).save(folder / f"{i:02d}.png")
    Image.fromarray(make_images(1)[0, 0]).save(folder / "deeper" / "00.png")
    return folder


def test_reconstruct_writes_maps_in_nats_then_in_spreads(run, images, bundle, tmp_path):
    names = ["images/00.png", "images/deeper/00.png", "--model", "own"]
    shutil.copytree(bundle.folder, "own")
    code, _, err = run("reconstruct", *names, "--maps", "maps")
    assert code == 0 and "in nats" in err and "maps of 2 images, k = 1 to 2: maps" in err
    written = sorted(str(path.relative_to("maps")) for path in Path("maps").rglob("*.*"))
    endings = ["map-1.png", "map-2.png", "nats.npy"]
    assert written == [f"{name}.{end}" for name in ("00.png", "deeper/00.png") for end in endings]
    nats = np.load("maps/00.png.nats.npy", allow_pickle=False)
    expected = Detector("own").reconstruct("images/00.png").maps[:, 0]
    np.testing.assert_allclose(nats, expected, atol=1e-5)
    assert Image.open("maps/00.png.map-1.png").size == (256, 256)

    code, _, err = run("reconstruct", *names, "--maps", "maps")
    assert code != 0 and "is there already" in err and "--force" in err

    assert run("calibrate", "images", "--output", "c.npz")[0] == 0
    assert Path("c.maps.safetensors").is_file()
    assert run("calibrate", "images", "--model", "own")[0] == 0
    code, _, err = run("reconstruct", *names, "--maps", "maps", "--force")
    assert code == 0 and "nats" not in err
    assert not Path("maps/00.png.nats.npy").exists()
    spreads = np.load("maps/00.png.spreads.npy", allow_pickle=False)
    np.testing.assert_allclose(spreads, Detector("own").maps("images/00.png")[0], atol=1e-4)


def test_maps_have_safe_places_whatever_images_are_called(run, images, tmp_path):
    hostile = images / "\x1b]0;x\x07 $(touch x) .png"
    hostile.write_bytes((images / "00.png").read_bytes())
    np.save("rows.npy", make_images(3)[:, 0])
    code, _, err = run("reconstruct", hostile, "rows.npy#1:2", "images/01.png", "--maps", "maps")
    assert code == 0 and "\x1b" not in err
    assert len(list(Path("maps").rglob("*.nats.npy"))) == 3
    (tmp_path / "outside").mkdir()
    Path("led").mkdir()
    Path("led/deeper").symlink_to(tmp_path / "outside")
    names = ["images/00.png", "images/deeper/00.png"]
    code, _, err = run("reconstruct", *names, "--maps", "led")
    assert code != 0 and "cannot write" in err and not any((tmp_path / "outside").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["images/00.png"], "--maps DIR"),
        (["images/00.png", "--maps", "no/such/folder"], "no such folder"),
        (["images/00.png", "images/bad.png", "--maps", "maps"], "bad.png"),
    ],
)
def test_what_cannot_be_is_said(run, images, words, said):
    (images / "bad.png").write_bytes(b"no image")
    code, _, err = run("reconstruct", *words)
    assert code != 0 and said in err


def test_scores_whose_images_are_gone_calibrate_without_maps(run, images, tmp_path):
    assert run("score", "images", "-o", "s.h5")[0] == 0
    for path in images.rglob("*.png"):
        path.unlink()
    code, _, err = run("calibrate", "s.h5", "-o", "c.npz")
    assert code == 0 and "maps stay in nats" in err
    assert Path("c.npz").is_file() and not Path("c.maps.safetensors").exists()


def test_looks_and_the_api_show_one_map(images, bundle, tmp_path):
    detector = Detector(bundle.folder, device="cpu")
    detector.run(open_sources([str(images)])).to_file(tmp_path / "s.h5")
    scores = read_scores(tmp_path / "s.h5")
    usual = usual_maps(detector.scorer, detector.calibration_settings, open_sources([str(images)]))
    usual.save(tmp_path / "named.npz")
    [look] = Looking(scores, ImageReader(), str(bundle.folder), "cpu")([0])
    [calibrated] = Looking(
        scores, ImageReader(), str(bundle.folder), "cpu", tmp_path / "named.npz"
    )([0])
    assert isinstance(look, Look) and isinstance(calibrated, Look)
    views = detector.reconstruct([scores.name(0)])
    assert "not known" in look.maps.why_nats and not calibrated.maps.why_nats
    np.testing.assert_allclose(look.maps.values, views.maps[:, 0], atol=1e-5)
    np.testing.assert_allclose(calibrated.maps.values, usual.spreads(views.maps)[:, 0], atol=1e-3)
    place_of(tmp_path / "named.npz").write_bytes(b"damaged")
    [broken] = Looking(scores, ImageReader(), str(bundle.folder), "cpu", tmp_path / "named.npz")(
        [0]
    )
    assert "holds no usual maps" in broken.maps.why_nats
