"""Images of any size by tiles, through the commands: photographs of mixed sizes to a decision."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.cli import tui
from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import StoreError
from hvaeood_cli.images.preprocess import tiling_of
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.looks.looker import Glancing, Looking
from hvaeood_cli.model.bundle import Bundle, write_bundle
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.store.columns import blank_rows, tile_columns
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.training import choosing
from hvaeood_cli.tui.screens.compare import CompareScreen
from hvaeood_cli.tui.screens.look import LookScreen
from tests.conftest import SMALL, make_ladder
from tests.score_files import SIZES as COLUMN_SIZES
from tests.score_files import fill_in, make_header
from tests.test_images import bomb
from tests.tui_app import drive, press, text_of

CONFIG = ModelConfig.model_validate(
    SMALL.model_dump()
    | {"likelihood": "logistics", "fit": "tile", "tile_stride": 4, "tile_scale": 0.5}
)
SIZES = [(40, 30), (24, 61), (33, 33), (16, 16), (9, 20)]  # height, width; the last is padded


def make_photo(height: int, width: int, seed: int, block: bool = False) -> np.ndarray:
    """A smooth grey photograph; with a block of noise in a corner, an odd one."""
    random = np.random.default_rng(seed)
    coarse = random.integers(90, 160, (4, 4), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    photo = smooth.astype(int) + random.integers(-6, 7, smooth.shape)
    if block:
        photo[-14:, -14:] = random.integers(0, 256, photo[-14:, -14:].shape)
    return np.clip(photo, 0, 255).astype(np.uint8)


def make_photos(folder: Path, n: int, seed: int = 0, odd: int = 0) -> Path:
    """Photographs of mixed sizes; the first `odd` of them with a block of noise."""
    folder.mkdir(parents=True)
    for i in range(n):
        photo = make_photo(*SIZES[i % len(SIZES)], seed=1000 * seed + i, block=i < odd)
        Image.fromarray(photo).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An untrained model for tiles of 8x8 pixels of images at half their size."""
    folder = tmp_path_factory.mktemp("models") / "tiled"
    return write_bundle(folder, "tiled", CONFIG, make_ladder(CONFIG), {}, np.zeros(0, np.uint64))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 10)


def datasets(path: Path) -> dict[str, np.ndarray]:
    found = {}

    def take(name: str, one: object) -> None:
        if isinstance(one, h5py.Dataset):
            found[name] = one[()]

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def test_a_score_file_keeps_each_tile_beside_its_image(run, tiled, photos, tmp_path):
    """What docs/score-file.md says, by h5py alone."""
    (photos / "bad.png").write_bytes(b"no image")
    code, _, err = run("score", "photos", "--model", tiled.folder, "-o", "s.h5")
    assert code == 4, err
    with h5py.File("s.h5") as file:
        attributes = dict(file.attrs)
        assert "5x5" in file["scores/peak"].attrs["meaning"]
        assert file["tiles/peak"].attrs["unit"] == "nats"
    assert attributes["fit"] == "tile" and attributes["image_size"] == 8
    assert attributes["tile_stride"] == 4 and attributes["tile_scale"] == 0.5
    found = datasets(Path("s.h5"))
    first, n = found["tiles/first"], found["images/n_tiles"]
    assert len(first) == 12 and first[0] == 0 and np.array_equal(np.diff(first), n)
    assert n[-1] == 0 and found["images/status"][-1] != 0  # bad.png
    tiling = tiling_of(CONFIG)
    for row, (begin, end) in enumerate(itertools.pairwise(first[:11])):
        height, width = SIZES[row % len(SIZES)]
        assert end - begin == tiling.count(height, width)
        place = found["tiles/place"][begin:end]
        assert place[0].tolist() == [0, 0]
        assert (place[-1] <= np.maximum(0, np.array([height, width]) - 15)).all()
        for name in ("lower_bound", "kl", "log_px"):
            mean = found[f"tiles/{name}"][begin:end].mean(0, dtype=np.float64)
            np.testing.assert_allclose(found[f"scores/{name}"][row], mean, rtol=1e-6)
        peak = found["tiles/peak"][begin:end].max(0)
        np.testing.assert_array_equal(found["scores/peak"][row], peak)


def test_one_sample_decides_as_many_do(run, tiled, photos, tmp_path):
    """By tiles S is 1 unless it is asked for: what decides, peaks from k > 0, has S' samples."""
    run("score", "photos", "--model", tiled.folder, "-o", "usual.h5")
    run("score", "photos", "--model", tiled.folder, "-o", "many.h5", "--samples", "8")
    assert read_scores(Path("usual.h5")).header.n_importance_samples == 1
    usual, many = datasets(Path("usual.h5")), datasets(Path("many.h5"))
    upper = (usual["scores/peak"][:, 1:], many["scores/peak"][:, 1:])
    np.testing.assert_allclose(*upper, rtol=1e-5)
    assert (usual["scores/lower_bound"][:, 0] != many["scores/lower_bound"][:, 0]).all()


def test_neither_passes_nor_workers_nor_neighbours_matter(run, tiled, photos, tmp_path):
    """An image's scores and those of its tiles are the same to the last bit, whatever is near."""
    run("score", "photos", "--model", tiled.folder, "-o", "a.h5")
    run("score", "photos", "--model", tiled.folder, "-o", "b.h5", "--workers", "3")
    run("score", "photos", "--model", tiled.folder, "-o", "c.h5", "--batch-size", "100")
    whole = datasets(Path("a.h5"))
    for other in ("b.h5", "c.h5"):
        again = datasets(Path(other))
        assert whole.keys() == again.keys()
        for name, values in whole.items():
            np.testing.assert_array_equal(values, again[name], err_msg=name)
    run("score", "photos/007.png", "--model", tiled.folder, "-o", "one.h5")
    alone, first = datasets(Path("one.h5")), whole["tiles/first"]
    for name in ("peak", "lower_bound"):
        np.testing.assert_array_equal(alone[f"scores/{name}"][0], whole[f"scores/{name}"][7])
        np.testing.assert_array_equal(
            alone[f"tiles/{name}"], whole[f"tiles/{name}"][first[7] : first[8]]
        )


def test_after_a_kill_and_in_a_folder_that_changed_tiles_stay_with_their_images(
    run, tiled, photos, tmp_path, monkeypatch
):
    """Resumed, moved, changed, gone and back: all as if scored anew."""
    from hvaeood_cli.scoring.engines import tiled as engine

    taken, batch = [], engine._batch

    def broken(first, images, tiling):
        if first >= 4:
            raise KeyboardInterrupt
        taken.append(first)
        return batch(first, images, tiling)

    monkeypatch.setattr(engine, "_batch", broken)
    monkeypatch.setattr("hvaeood_cli.scoring.scorer.ROWS_PER_PASS", 8)  # a pass a tile
    assert run("score", "photos", "--model", tiled.folder, "-o", "s.h5")[0] == 130
    monkeypatch.setattr(engine, "_batch", batch)
    assert taken and Path("s.h5.journal").exists()
    (photos / "000.png").rename(photos / "a-moved.png")  # among what the journal has
    (photos / "001.png").unlink()
    assert run("score", "photos", "--model", tiled.folder, "-o", "s.h5")[0] == 0

    def check() -> None:
        assert run("score", "photos", "--model", tiled.folder, "-o", "new.h5", "--force")[0] == 0
        grown, new = read_scores(Path("s.h5")), read_scores(Path("new.h5"))
        assert not new.gone.any()
        assert grown.present.names.tolist() == new.names.tolist()
        for row in range(len(new)):
            np.testing.assert_array_equal(grown.tiles.of(row), new.tiles.of(row))
            np.testing.assert_array_equal(grown["peak"][row], new["peak"][row])

    check()
    Image.fromarray(make_photo(50, 20, 77)).save(photos / "002.png")
    Image.fromarray(make_photo(20, 50, 78)).save(photos / "b-new.png")
    shutil.move(photos / "003.png", tmp_path / "003.png")
    (photos / "004.png").rename(photos / "z-moved.png")
    code, out, err = run("score", "photos", "--model", tiled.folder, "-o", "s.h5")
    assert code == 0 and "1 new, 1 changed, 1 moved, 1 gone" in out + err
    check()
    shutil.move(tmp_path / "003.png", photos / "003.png")
    assert run("score", "photos", "--model", tiled.folder, "-o", "s.h5")[0] == 0
    check()


def test_a_table_that_does_not_fit_the_images_is_refused(run, tiled, photos):
    run("score", "photos", "--model", tiled.folder, "-o", "s.h5")
    scores = read_scores(Path("s.h5"))
    run("score", "photos/000.png", "--model", tiled.folder, "-o", "s.h5", "--force")
    with pytest.raises(StoreError, match="scored anew"):
        scores.tiles.of(0)
    for name, damage in {
        "tiles/first": lambda one: one.__setitem__(1, 3),
        "tiles/peak": lambda one: None,
        "images/n_tiles": lambda one: one.__setitem__(0, 7),
    }.items():
        run("score", "photos", "--model", tiled.folder, "-o", "s.h5", "--force")
        with h5py.File("s.h5", "r+") as file:
            damage(file[name])
            if name == "tiles/peak":
                del file[name]
        code, _, err = run("report", "s.h5")
        assert code == 3 and "error: " in err and "hint: " in err, name


def test_photographs_train_a_model_of_tiles_that_finds_an_odd_corner(run, tmp_path):
    """train, score, decide, report, reconstruct, on photographs of mixed sizes."""
    make_photos(tmp_path / "good", 150)
    make_photos(tmp_path / "new", 40, seed=1, odd=6)
    code, _, err = run(
        "train", "good", "--preset", "compact-photo-gray", "--out", "m", "--tile", "16",
        "--epochs", "3", "--batch-size", "32", "--calibrate", "60", "--set", "learning_rate=0.002",
    )  # fmt: skip
    assert code == 0, err
    assert "are taken by tiles: 6 of 16x16 pixels, 8 apart" in " ".join(err.split())
    assert "--fit take others" in " ".join(err.split())
    config = json.loads(Path("m/config.json").read_text())["model"]
    assert (config["fit"], config["image_size"], config["tile_stride"]) == ("tile", 16, 8)
    trained = json.loads(Path("m/training.json").read_text())
    assert trained["n_images"] == 150 and trained["n_trained_on"] + 60 + 7 == 150
    assert trained["n_tiles"] > trained["n_trained_on"]
    assert len(np.load("m/training_images.npy")) == trained["n_trained_on"]
    calibration = Calibration.load(Path("m/calibration.npz"))
    assert len(calibration) == 60 and calibration.settings["n_importance_samples"] == 1

    code, out, err = run("score", "new", "--model", "m", "-o", "s.h5", "--fpr", "5%", "--csv")
    assert code == 0 and "was trained on" not in err, err
    rows = list(csv.DictReader(io.StringIO(out)))
    flagged = {row["path"] for row in rows if row["flagged"] == "1"}
    assert {f"new/{i:03d}.png" for i in range(6)} <= flagged and len(flagged) <= 12
    assert "spot" in next(row["why"] for row in rows if row["path"] == "new/000.png")
    assert run("decide", "s.h5", "--fpr", "0.06")[0] == 0
    assert read_scores(Path("s.h5")).tiles.of(0)["peak"].shape[1] == 3
    assert run("report", "s.h5", "--model", "m", "-o", "r.html")[0] == 0
    page = Path("r.html").read_text()
    assert "spot" in page and "was trained on" not in page
    assert run("reconstruct", "new/001.png", "--model", "m", "-o", "grid.png")[0] == 0
    assert Image.open("grid.png").size[0] > 16

    code, _, err = run("score", "good", "--model", "m")
    said = f"the model m was trained on {trained['n_trained_on']} of these 150 images"
    assert code == 0 and said in " ".join(err.split())
    assert run("report", "good.scores.h5", "-o", "own.html")[0] == 0
    assert said in Path("own.html").read_text()


def test_grey_photographs_by_tiles_get_the_preset_for_tiles_unless_one_is_named(tmp_path):
    manifest = open_sources([str(make_photos(tmp_path / "photos", 3))])
    chosen = choosing.choose(choosing.Asked(tile=16), manifest)
    assert (chosen.preset, chosen.config.stride) == ("compact-photo-tile", 16)
    named = choosing.Asked(preset="compact-photo-gray", tile=16)
    assert choosing.choose(named, manifest).preset == "compact-photo-gray"
    assert choosing.choose(choosing.Asked(fit="crop"), manifest).preset == "compact-photo-gray"


def test_tiles_of_one_image_are_never_both_trained_on_and_set_aside(run, tmp_path):
    """Shares are of images; a calibration image was not trained on, not even a part of it."""
    make_photos(tmp_path / "good", 120)
    code, _, err = run(
        "train",
        "good",
        "--out",
        "m",
        "--preset",
        "compact-photo-gray",
        "--tile",
        "16",
        "--epochs",
        "1",
        "--calibrate",
        "60",
    )
    assert code == 0, err
    calibrated = Calibration.load(Path("m/calibration.npz")).content
    assert not np.isin(calibrated, np.load("m/training_images.npy")).any()
    assert len(np.unique(calibrated)) == 60
    code, _, err = run("calibrate", "good", "--model", "m")
    assert code == 3 and "of 120 images were in the training set" in " ".join(err.split())
    code, _, err = run(
        "calibrate", "good", "--model", "m", "--skip-training-images", "-S", "1", "-o", "c.npz"
    )
    assert code == 0, err
    assert not np.isin(
        Calibration.load(Path("c.npz")).content, np.load("m/training_images.npy")
    ).any()


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        (("--tile", "30"), "tiles of 30x30 do not fit", "for example 32"),
        (("--tile", "16", "--stride", "20"), "20 apart, do not cover", "1 to 16"),
        (("--scale", "3"), "no scale of 3", "0.5"),
        (("--fit", "crop", "--stride", "8"), "--stride is of tiles", "--fit tile"),
        (("--fit", "fill"), "no fit is called", "crop, pad or tile"),
        (("--image-size", "32", "--tile", "32"), "whole images", "--tile N"),
    ],
)
def test_what_does_not_suit_is_refused_with_what_would(run, photos, options, said, hint):
    for command in (("train", "photos", "--out", "m"), ("find", "photos")):
        if command[0] == "find" and "--image-size" in options:
            continue
        code, _, err = run(*command, "--preset", "compact-photo-gray", *options)
        if command[0] == "find" and code == 3:
            continue  # too few images come first
        assert code == 2 and said in " ".join(err.split()) and hint in " ".join(err.split()), err


def test_small_images_stay_whole_and_a_fit_can_be_asked_for(run, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for i in range(70):
        Image.fromarray(make_photo(40, 30, i)).save(folder / f"{i}.png")
    asked = ("--epochs", "1", "--batch-size", "8", "--calibrate", "0")
    assert run("train", "small", "--out", "m", *asked)[0] == 0
    assert "fit" not in json.loads(Path("m/config.json").read_text())["model"]
    code, _, err = run("train", "small", "--out", "p", "--fit", "pad", *asked)
    assert code == 0 and "continued by their mirror image" in " ".join(err.split())
    assert json.loads(Path("p/config.json").read_text())["model"]["fit"] == "pad"
    code, _, err = run("score", "small", "--model", "p", "-o", "s.h5")
    assert code == 0, err
    with h5py.File("s.h5") as file:
        assert file.attrs["fit"] == "pad" and "tiles" not in file
        assert "mirror" in file.attrs["preprocessing"]
        assert set(file["images/n_tiles"][()]) == {1}


def test_identical_photographs_are_all_there(run, tiled, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(make_photo(30, 40, 0)).save(folder / f"{i}.png")
    code, _, err = run("score", "same", "--model", tiled.folder, "-o", "s.h5")
    assert code == 0, err
    scores = read_scores(Path("s.h5"))
    assert scores.n_scored == 8 and len(np.unique(scores["peak"][:, 0])) == 1
    for row in range(8):
        np.testing.assert_array_equal(scores.tiles.of(row), scores.tiles.of(0))


def test_a_report_compares_models_with_and_without_tiles(run, tiled, bundle, photos):
    run("score", "photos", "--model", tiled.folder, "-o", "tiled.h5", "--label", "0")
    run("score", "photos", "--model", bundle.folder, "-o", "whole.h5", "--label", "1")
    code, _, err = run("report", "tiled.h5", "whole.h5", "-o", "r.html")
    assert code == 3 and "cannot be compared" in err and "hint: " in err


def test_the_python_api_takes_photographs_of_any_size(tiled):
    detector = Detector(tiled.folder)
    scores = detector.score([make_photo(*size, seed=i) for i, size in enumerate(SIZES)])
    assert scores.n_scored == len(SIZES) and np.isfinite(scores["peak"]).all()
    assert scores["n_tiles"].tolist() == [tiling_of(CONFIG).count(*size) for size in SIZES]
    assert {column.name for column in tile_columns()} == {"lower_bound", "kl", "log_px", "peak"}


def test_find_looks_for_odd_photographs_by_tiles(run, tmp_path):
    """All tiles of an image are in its fold, and none of them was trained on by its model."""
    make_photos(tmp_path / "photos", 64, odd=2)
    code, _, err = run(
        "find", "photos", "--preset", "compact-gray", "--tile", "16", "--minutes", "0.02",
        "--fpr", "5%",
    )  # fmt: skip
    assert code == 0, err
    assert "are taken by tiles: 6 of 16x16 pixels" in " ".join(err.split())
    scores = read_scores(Path("photos.scores.h5"))
    for fold in (0, 1):
        seen = np.load(Path("photos.model") / f"fold-{fold}" / "training_images.npy")
        here = scores["fold"] == fold
        assert here.any() and not np.isin(scores.content[here], seen).any()
        assert np.isin(scores.content[~here], seen).all()
    assert scores.decision.n_flagged > 0 and Path("photos.report.html").exists()


def test_looks_show_the_whole_image_joined_from_its_tiles(run, tiled, photos):
    run("score", "photos", "--model", tiled.folder, "-o", "s.h5")
    scores = read_scores(Path("s.h5"))
    rows = range(len(SIZES))
    for looker in (
        Looking(scores, ImageReader(), str(tiled.folder)),
        Glancing(scores, ImageReader()),
    ):
        for row, look in zip(rows, looker(rows), strict=True):
            assert not isinstance(look, Exception)
            expected = tiling_of(CONFIG).scaled(look.image).pixels
            assert look.image.shape == SIZES[row] and not look.changed
            np.testing.assert_allclose(look.observed, expected / 255.0, atol=1e-6)
            assert look.from_k.shape[1:] == expected.shape


def test_the_workbench_shows_tiled_files_alone_and_beside_others(run, tiled, bundle, photos):
    run("score", "photos", "--model", tiled.folder, "-o", "tiled.h5")
    run("score", "photos", "--model", bundle.folder, "-o", "whole.h5")
    files = [
        tui._open(Path(name), [str(tiled.folder), str(bundle.folder)], None, None, "cpu")
        for name in ("tiled.h5", "whole.h5")
    ]

    async def steps(pilot, app):
        await press(pilot, "m", "m", "m", "]", "enter")
        assert isinstance(app.screen, LookScreen) and "photos/" in text_of(app)
        await press(pilot, "]", "j", "escape", "c")
        assert isinstance(app.screen, CompareScreen)
        assert "10 images in both files" in text_of(app)

    drive(files, steps, images=True)


def test_a_photograph_of_200_megapixels_is_a_row_that_says_so(run, tiled, photos):
    (photos / "huge.png").write_bytes(bomb(20_000, 10_000))
    code, out, err = run("score", "photos", "--model", tiled.folder, "-o", "s.h5", "--json")
    assert code == 4, err
    (huge,) = [row for row in json.loads(out)["images"] if row["path"] == "photos/huge.png"]
    assert huge["status"] == "too_large" and "at most 64 million" in huge["error"]
    assert sum(row["status"] == "scored" for row in json.loads(out)["images"]) == 10


def made_up(n: int, random: np.random.Generator) -> ScoreFile:
    """Scores of n images that belong, of 1 to 400 tiles each: more tiles, a higher peak."""
    rows = blank_rows(n, COLUMN_SIZES)
    rows["n_tiles"] = random.choice([1, 6, 54, 400], n)
    for row in rows:
        tiles = random.gamma(4.0, 1.0, (row["n_tiles"], 3)) + random.normal(size=3)
        row["peak"] = tiles.max(0)
        row["lower_bound"] = -100.0 - tiles.mean(0)
    rows["kl"] = random.normal(5.0, 1.0, (n, 3))
    rows["log_px"] = rows["lower_bound"] + 15.0
    fill_in(rows)
    rows["content"] = random.integers(1, 2**63, n)
    header = make_header(n, fit="tile", tile_stride=4, tile_scale=1.0)
    names = [b"%d" % i for i in range(n)]
    return ScoreFile.of_batches(
        Path("s.h5"), header, np.array(names, dtype=bytes), [Batch(0, rows, {})], {}
    )


def test_every_image_to_calibrate_on_gives_p_values():
    """p is the rank of the peak of the highest k among all of them: nothing is set apart."""
    random = np.random.default_rng(3)
    held_out, others = made_up(99, random), made_up(40, random)
    p = decide(Calibration.of(held_out), others, Rule("fpr", 0.01)).p_combined
    usual, peaks = held_out["peak"][:, -1], others["peak"][:, -1]
    np.testing.assert_allclose(p, [(1 + (usual >= peak).sum()) / 100 for peak in peaks], rtol=1e-6)


def test_the_promise_is_of_images_whatever_the_number_of_their_tiles():
    """At 10 %, images that belong are flagged in 10 % of all cases at most, sizes mixed."""
    random = np.random.default_rng(0)
    flagged = []
    for _ in range(120):
        calibration = Calibration.of(made_up(120, random))
        flagged.append(decide(calibration, made_up(60, random), Rule("fpr", 0.1)).flagged.mean())
    spread = np.std(flagged) / np.sqrt(len(flagged))
    assert 0.07 < np.mean(flagged) <= 0.1 + 2.0 * spread
