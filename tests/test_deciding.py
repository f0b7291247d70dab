"""calibrate, decide, and the decisions of score, through the entry point."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import CalibrationError, SourceError
from hvaeood_cli.images.content import short_key
from hvaeood_cli.model.bundle import model_folders, read_bundle, write_bundle
from tests.conftest import SMALL, make_images, make_ladder


@pytest.fixture
def own(bundle, tmp_path, monkeypatch) -> Path:
    """A model of the user's own, not calibrated yet; the one that commands take."""
    folder = tmp_path / "own"
    ladder = make_ladder(gain=1.0)  # its scores have no far tails
    write_bundle(folder, "own", SMALL, ladder, {}, bundle.training_hashes())
    monkeypatch.setenv("HVAEOOD_MODEL", str(folder))
    return folder


@pytest.fixture
def held_out(tmp_path) -> Path:
    path = tmp_path / "held-out.npy"
    np.save(path, make_images(200, seed=1)[:, 0] // 64)  # nearly black
    return path


@pytest.fixture
def odd(tmp_path) -> Path:
    """Twenty images like those held out, and three nearly white."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i, image in enumerate(make_images(20, seed=2) // 64):
        Image.fromarray(image[0]).save(folder / f"{i:02d}.png")
    for i, image in enumerate(make_images(3, seed=4) // 64):
        Image.fromarray(255 - image[0]).save(folder / f"odd{i}.png")
    return folder


def test_from_images_to_flags(run, own, held_out, odd, tmp_path):
    code, out, err = run("calibrate", held_out)
    assert (code, err) == (0, "")
    assert "200 images, 60 of them for the densities" in out and "1/141" in out
    calibration = Calibration.load(own / "calibration.npz")
    assert calibration.id in out and len(calibration) == 200
    code, out, _ = run("score", "mixed")
    assert code == 0 and "flagged at FPR 1 %: if all 23 belonged, about 0.2 would be" in out
    with h5py.File(tmp_path / "mixed.scores.h5") as file:
        group = file["decision"]
        assert group.attrs["rule"] == "fpr" and group.attrs["level"] == 0.01
        assert group.attrs["calibration_id"] == calibration.id
        flagged = group["flagged"][()]
        assert flagged[20:].all() and flagged[:20].sum() <= 1
    code, table, _ = run("score", "mixed", "--csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["flagged"] for row in rows] == [str(int(one)) for one in flagged]
    whole = json.loads(run("score", "mixed", "--json")[1])
    assert whole["decision"]["n_flagged"] == flagged.sum() and whole["drift"]["n"] == 23
    assert [image["flagged"] for image in whole["images"]] == list(flagged)
    assert whole["images"][-1]["p_combined"] == pytest.approx(1 / 141, rel=1e-5)
    assert whole["ranked_by"] == "calibration" and len(whole["images"][0]["p_value"]) == 2


def test_from_a_score_file_and_again(run, own, held_out):
    run("score", held_out, "-o", "held.h5")
    first = json.loads(run("calibrate", "held.h5", "--json")[1])
    assert first["settings"]["n_importance_samples"] == 16, "an object, not a text of one"
    assert first["n_images"] == 200 and first["least_p"] == pytest.approx(1 / 141)
    before = (own / "calibration.npz").stat().st_mtime_ns
    assert json.loads(run("calibrate", held_out, "--json")[1])["id"] == first["id"]
    assert (own / "calibration.npz").stat().st_mtime_ns == before, "it was there already"
    code, _, err = run("calibrate", f"{held_out}#0:150", "--scores", "other.h5")
    assert code == 3 and "another calibration" in err and "--force" in err
    assert run("calibrate", f"{held_out}#0:150", "--scores", "other.h5", "--force")[0] == 0
    assert len(Calibration.load(own / "calibration.npz")) == 150
    assert run("calibrate", "held.h5", "-o", "mine.npz")[0] == 0
    code, _, err = run("calibrate", "held.h5", "-S", "4", "-o", "other.npz")
    assert code == 2 and "16 there, 4 asked for" in err
    assert run("score", "mixed", "--calibration", "none-such.npz")[0] == 3


def test_a_list_of_training_images_that_is_none_costs_no_scores(run, own, tmp_path):
    """NumPy's own reader of headers fails on it as no other does: TokenError."""
    np.save(own / "training_images.npy", np.zeros(9, np.uint64))
    whole = (own / "training_images.npy").read_bytes()
    (own / "training_images.npy").write_bytes(whole.replace(b"(9,)", b"(9, "))
    np.save(tmp_path / "x.npy", make_images(60)[:, 0])
    code, _, err = run("score", "x.npy", "--model", own)
    assert code == 0 and "nobody knows whether the model was trained on these images" in err
    code, _, err = run("calibrate", "x.npy", "--model", own)
    assert code == 3 and "training_images.npy" in err


def test_training_images_are_refused(run, own, held_out, tmp_path):
    pixels = np.load(held_out)[:, None]
    trained = np.sort(np.array([short_key(image) for image in pixels[:7]], np.uint64))
    np.save(own / "training_images.npy", trained)
    code, _, err = run("calibrate", held_out)
    assert code == 3 and "7 of 200 images were in the training set" in err
    assert "--allow-training-images" in err and not (own / "calibration.npz").exists()
    assert run("calibrate", held_out, "--allow-training-images")[0] == 0


def test_another_models_scores_are_no_calibration(run, own, bundle, held_out, monkeypatch):
    run("score", held_out, "-o", "held.h5")
    code, _, err = run("calibrate", "held.h5", "--model", "fashionmnist")
    assert code == 3 and "model own" in err and "fashionmnist" in err


def test_a_model_that_ships_is_calibrated_in_the_users_folder(run, own, held_out, tmp_path):
    assert run("calibrate", held_out, "--model", "fashionmnist", "-S", "1")[0] == 0
    sha256 = read_bundle(find_shipped()).sha256
    assert (tmp_path / "own-models" / "calibrations" / f"{sha256[:16]}.npz").is_file()
    assert not list(find_shipped().glob("*.tmp"))


def find_shipped() -> Path:
    return model_folders()[0] / "fashionmnist"


def test_without_a_calibration_images_are_ranked_and_decisions_refused(run, own, odd):
    code, out, _ = run("score", "mixed")
    assert code == 0 and "combined" in out and "flagged" not in out and "usual" not in out
    assert "against this batch alone, and nothing is promised" in " ".join(out.split())
    whole = json.loads(run("score", "mixed", "--json")[1])
    assert whole["ranked_by"] == "batch"
    for arguments in (["--fpr", "0.05"], ["--fdr", "0.1"], ["--fail-on-flagged"]):
        code, _, err = run("score", "mixed", *arguments)
        assert code == 3 and "not calibrated" in err and "hvaeood calibrate" in err
    code, _, err = run("decide", "mixed.scores.h5", "--model", own)
    assert code == 3 and "not calibrated" in err


def test_settings_other_than_the_calibrations(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out)
    code, _, err = run("score", "mixed", "-S", "2", "-o", "s2.h5")
    assert code == 0 and "not decided" in err and "16 calibrated, 2 here" in err
    with h5py.File(tmp_path / "s2.h5") as file:
        assert "decision" not in file
    code, _, err = run("score", "mixed", "-S", "2", "--fpr", "0.05", "-o", "s3.h5")
    assert code == 3 and "16 calibrated, 2 here" in err
    assert not (tmp_path / "s3.h5").exists(), "nothing is scored in vain"
    code, _, err = run("decide", "s2.h5", "--model", own)
    assert code == 3 and "16 calibrated, 2 here" in err
    assert run("score", "mixed", "--seed", "5", "-o", "s4.h5")[0] == 0, "a seed is no difference"


def test_levels(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out)
    code, _, err = run("score", "mixed", "--fpr", "0.001")
    assert code == 3 and "1/141" in err and "calibrate on at least 1,428 images" in err
    assert not (tmp_path / "mixed.scores.h5").exists()
    usage = [
        (["--fpr", "0.1", "--fdr", "0.1"], "exclude"),
        (["--by"], "--fdr"),
        (["--fpr", "0"], "between 0 and 1"),
        (["--fdr", "2"], "between 0 and 1"),
    ]
    for arguments, words in usage:
        code, _, err = run("score", "mixed", *arguments)
        assert code == 2 and words in err
    assert run("score", "mixed", "--fpr", "0.05", "-q")[0] == 0
    assert run("score", "mixed", "--fpr", "0.05", "--fail-on-flagged", "-q")[0] == 1
    (odd / "bad.png").write_bytes(b"text")
    assert run("score", "mixed", "-q", "--force")[0] == 4
    assert run("score", "mixed", "-q", "--fail-on-flagged")[0] == 1, (
        "what was asked for comes first"
    )


def test_deciding_anew_scores_nothing(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out)
    run("score", "mixed", "-q")
    path = tmp_path / "mixed.scores.h5"
    shutil.rmtree(odd)
    before = path.read_bytes()
    assert run("decide", path, "--model", own, "-q")[0] == 0
    assert path.read_bytes() == before, "decided so already"
    code, out, _ = run("decide", path, "--model", own, "--fdr", "0.2")
    assert code == 0 and "flagged at FDR 20 %: of these, about" in out
    with h5py.File(path) as file:
        assert dict(file["decision"].attrs)["rule"] == "fdr"
    code, _, err = run("decide", path, "--model", own, "--fdr", "0.05", "--by")
    assert code == 0 and "stand out together" in err
    assert run("decide", path, "--model", own, "--fpr", "0.05", "--fail-on-flagged", "-q")[0] == 1
    code, out, _ = run("decide", path, "--model", own, "--json")
    assert json.loads(out)["decision"]["level"] == 0.05, "the file's own rule stays"
    code, _, err = run("decide", tmp_path / "none.h5")
    assert code == 3 and "no such score file" in err


def test_deciding_needs_no_torch(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out)
    run("score", "mixed", "-q")
    script = (
        "import sys\n"
        "from hvaeood_cli.cli.app import main\n"
        f"sys.argv = ['hvaeood', 'decide', 'mixed.scores.h5', '--model', {str(own)!r}]\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0 and done.stderr.decode().strip() == "False"


def test_too_few_images_are_refused_before_they_are_scored(run, own, held_out, tmp_path):
    code, _, err = run("calibrate", f"{held_out}#0:49")
    assert code == 3 and "49 images are too few" in err
    assert not list(tmp_path.glob("*.scores.h5"))


def test_the_next_command_names_the_calibration(run, own, held_out, odd):
    run("calibrate", held_out, "-o", "mine.npz")
    _, out, _ = run("score", "mixed", "--calibration", "mine.npz", "-o", "s.h5")
    assert "--calibration mine.npz" in " ".join(out.split())
    _, out, _ = run("decide", "s.h5", "--calibration", "mine.npz", "--fpr", "0.05")
    assert "--calibration mine.npz" in " ".join(out.split())


def test_a_file_keeps_its_permissions_and_its_link(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out)
    run("score", "mixed", "-q", "-o", "s.h5")
    (tmp_path / "s.h5").chmod(0o640)
    (tmp_path / "link.h5").symlink_to("s.h5")
    assert run("decide", "link.h5", "--model", own, "--fpr", "0.05", "-q")[0] == 0
    assert (tmp_path / "link.h5").is_symlink()
    assert (tmp_path / "s.h5").stat().st_mode & 0o777 == 0o640
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["decision"].attrs["level"] == 0.05


def test_a_detector_keeps_its_calibration_and_its_promise(own, held_out):
    detector = Detector(str(own), n_importance_samples=1)
    images = np.load(held_out)
    calibration = detector.calibrate(images)
    detector.set_params(false_positive_rate=0.05)
    assert detector.calibration is calibration
    assert ((detector.p_values(images) <= 0.05) == (detector.predict(images) == -1)).all()
    with pytest.raises(SourceError, match="no images"):
        detector.predict(images[:0])
    for rate in (0.001, 2.0):
        with pytest.raises(CalibrationError):
            detector.set_params(false_positive_rate=rate).predict(images)
    detector.set_params(n_importance_samples=2)
    assert detector.calibration is None


def test_a_retrained_model_is_not_calibrated(own, bundle, tmp_path):
    (own / "calibration.npz").write_bytes(b"of the old weights")
    write_bundle(own, "own", SMALL, make_ladder(seed=1), {}, np.zeros(0, np.uint64))
    assert not (own / "calibration.npz").exists()


def test_a_calibration_with_other_settings_hides_none(run, own, held_out, odd):
    """One's own `calibrate -S 1` once took the place of the one that `score` needs."""
    assert run("calibrate", held_out)[0] == 0
    code, out, err = run("calibrate", held_out, "-S", "1", "--scores", "one.h5")
    assert (code, err) == (0, "")
    assert len(list(own.glob("calibration*.npz"))) == 2
    code, out, err = run("score", "mixed")
    assert code == 0 and "flagged at FPR 1 %" in out and "not decided" not in err
    code, out, err = run("score", "mixed", "-S", "1", "-o", "one-mixed.h5")
    assert code == 0 and "flagged at FPR 1 %" in out and "not decided" not in err
    code, out, err = run("score", "mixed", "-S", "2", "-o", "two-mixed.h5")
    assert code == 0 and "not decided" in err
    code, out, _ = run("decide", "one-mixed.h5", "--fpr", "0.05")
    assert code == 0 and "flagged at FPR 5 %" in out
    assert run("models", str(own))[1].count("S = ") == 2


def test_what_ships_stays_in_use_beside_a_calibration_of_ones_own(run, tmp_path, monkeypatch):
    monkeypatch.delenv("HVAEOOD_MODEL")
    shipped = read_bundle(model_folders()[0] / "fashionmnist")
    np.save(tmp_path / "held.npy", make_images(120, size=28)[:, 0])
    code, _, err = run("calibrate", "held.npy", "-S", "1")
    assert (code, err) == (0, "")
    own, beside = shipped.calibrations
    assert own.parent != beside.parent == shipped.folder
    assert Detector(n_importance_samples=1).calibration.id == Calibration.load(own).id
    assert Detector().calibration.id == Calibration.load(beside).id


class Endless:
    """A density under which every image is infinitely odd."""

    def combined(self, values):
        return np.full(len(values), np.inf)


def test_predict_flags_what_the_p_values_flag(bundle):
    """Also where the combined score is infinite: as odd as the oddest, and counted as such."""
    images = make_images(200, seed=1)[:, 0] // 64
    detector = Detector(bundle.folder, false_positive_rate=0.05)
    calibration = detector.calibrate(images)
    endless = np.full(20, np.inf)
    usual = np.sort(np.concatenate([calibration.combined[:-20], endless]))
    detector.calibration_ = replace(calibration, combined=usual, combinations=(Endless(),))
    p = detector.p_values(images[:10])
    assert (p == 21 / 141).all()
    assert (detector.predict(images[:10]) == 1).all()
    assert not np.isnan(detector.decision_function(images[:10])).any()


# -- which calibration decides, and what stands ---------------------------------------------------


@pytest.fixture
def decided_by_mine(run, own, held_out, odd, tmp_path) -> str:
    """The model has a calibration, and mixed.scores.h5 is decided by another: the other's id."""
    assert run("calibrate", held_out, "-q")[0] == 0
    arguments = (f"{held_out}#0:190", "--scores", "mine.h5", "-o", "mine.npz", "-q")
    assert run("calibrate", *arguments)[0] == 0
    assert run("score", "mixed", "-q")[0] == 0
    decided = run("decide", "mixed.scores.h5", "--calibration", "mine.npz", "--fdr", "0.2", "-q")
    assert decided[0] == 0
    return Calibration.load(tmp_path / "mine.npz").id


def facts(path: Path | str) -> tuple[str, float, str]:
    """The rule, the level and the calibration of the decision in a file."""
    with h5py.File(path) as file:
        found = dict(file["decision"].attrs)
    return found["rule"], float(found["level"]), found["calibration_id"]


def age(path: Path, version: int = 2) -> None:
    """Make a calibration one of another version of the format."""
    with np.load(path) as file:
        members = dict(file)
    head = json.loads(str(members["head"])) | {"format_version": version}
    np.savez_compressed(path, **members | {"head": np.array(json.dumps(head))})


def test_a_small_calibration_keeps_no_scores_from_being_made(run, own, held_out, odd, tmp_path):
    assert run("calibrate", f"{held_out}#0:120", "-q")[0] == 0
    code, out, err = run("score", "mixed")
    assert code == 0 and "23 of 23 images scored in" in out and "flagged" not in out
    assert "not decided: FPR 1 %" in err
    assert "as --fpr 0.012, or" in err and "at least 142 images" in err
    code, out, _ = run("score", "mixed", "--fpr", "0.012")
    assert code == 0 and "flagged at FPR 1.2 %" in out and "before; decided anew" in out
    code, _, err = run("score", "mixed", "--fail-on-flagged", "-o", "other.h5")
    assert code == 3 and "FPR 1 %" in err and not (tmp_path / "other.h5").exists()


def test_a_decision_that_fails_leaves_the_scores(run, own, held_out, odd, tmp_path, monkeypatch):
    run("calibrate", held_out, "-q")

    def fail(*_: object) -> None:
        raise CalibrationError("no decision", "think again")

    monkeypatch.setattr("hvaeood_cli.calibration.rules.decide", fail)
    code, out, err = run("score", "mixed")
    assert code == 0 and "23 of 23" in out and "not decided: no decision" in err
    code, _, err = run("score", "mixed", "--fpr", "0.05", "-o", "asked.h5")
    assert code == 3 and "no decision" in err
    for name in ("mixed.scores.h5", "asked.h5"):
        with h5py.File(tmp_path / name) as file:
            assert np.isfinite(file["scores/llr"][()]).all() and "decision" not in file


def test_a_decision_stands_until_it_is_asked_for_anew(run, decided_by_mine, tmp_path):
    code, out, err = run("score", "mixed")
    assert code == 0 and facts("mixed.scores.h5") == ("fdr", 0.2, decided_by_mine)
    assert "nothing has changed since" in out and decided_by_mine in out
    code, _, err = run("score", "mixed", "-q", "--fail-on-flagged")
    assert (code, err) == (1, ""), "the flags that stand are the ones that count"
    assert run("decide", "mixed.scores.h5")[0] == 0
    assert facts("mixed.scores.h5") == ("fdr", 0.2, decided_by_mine)


@pytest.mark.parametrize("command", [["score", "mixed"], ["decide", "mixed.scores.h5"]])
def test_the_file_keeps_the_calibration_that_decided_it(run, own, decided_by_mine, command):
    """Wherever that file and the model are now; another calibration decides where it is named."""
    (Path("mine.npz")).unlink()
    theirs = Calibration.load(own / "calibration.npz").id
    code, out, err = run(*command, "--fpr", "0.05")
    assert code == 0 and facts("mixed.scores.h5") == ("fpr", 0.05, decided_by_mine)
    assert theirs in err and "--calibration FILE" in err and "nothing has changed" not in out
    code, _, err = run(*command, "--calibration", own / "calibration.npz")
    assert code == 0 and facts("mixed.scores.h5") == ("fpr", 0.05, theirs)
    shutil.rmtree(own)
    if command[0] == "decide":
        code, _, err = run(*command, "--fpr", "0.1")
        assert (code, err) == (0, "") and facts("mixed.scores.h5") == ("fpr", 0.1, theirs)


def test_a_calibration_in_a_file_is_checked(run, decided_by_mine):
    with h5py.File("mixed.scores.h5", "r+") as file:
        kept = file["decision/calibration"][()]
        kept[len(kept) // 2 :] = 0
        file["decision/calibration"][:] = kept
    for command in ("decide", "report"):
        code, _, err = run(command, "mixed.scores.h5")
        assert "the calibration in mixed.scores.h5 is not a whole" in " ".join(err.split())
        assert code == (3 if command == "decide" else 0)


@pytest.mark.parametrize("command", [["score", "mixed"], ["decide", "mixed.scores.h5"]])
def test_of_the_models_own_the_one_that_decided_decides_again(run, own, decided_by_mine, command):
    shutil.copy("mine.npz", own / "calibrations.npz")
    code, out, err = run(*command)
    assert (code, err) == (0, "") and "batch: " in out
    assert facts("mixed.scores.h5") == ("fdr", 0.2, decided_by_mine)
    assert run(*command, "--fdr", "0.3")[0] == 0
    assert facts("mixed.scores.h5") == ("fdr", 0.3, decided_by_mine)


def test_a_file_that_is_replaced_keeps_its_rule(run, own, decided_by_mine, tmp_path):
    code, out, err = run("score", "mixed", "--force")
    theirs = Calibration.load(own / "calibration.npz").id
    assert code == 0 and "scored in" in out and "flagged at FDR 20 %" in out
    assert facts("mixed.scores.h5") == ("fdr", 0.2, theirs) and decided_by_mine in err
    (tmp_path / "mixed.scores.h5").write_bytes(b"cut")
    assert run("score", "mixed", "--force", "-q")[0] == 0
    assert facts("mixed.scores.h5") == ("fpr", 0.01, theirs)


def test_a_report_takes_the_calibration_that_decided(run, own, decided_by_mine):
    def drift(*arguments: str) -> str:
        code, out, err = run("report", "mixed.scores.h5", "--format", "json", *arguments)
        assert (code, err) == (0, "")
        found = json.loads(out)["files"][0]["drift"]
        return found["n_calibration"] if found else None

    assert drift() == 190, "it is in the file"
    assert drift("--calibration", "mine.npz") == 190
    theirs = str(own / "calibration.npz")
    code, _, err = run("report", "mixed.scores.h5", "--calibration", theirs)
    assert code == 3 and decided_by_mine in err and Calibration.load(Path(theirs)).id in err
    shutil.copy("mine.npz", own / "calibrations.npz")
    assert drift() == 190


def test_a_calibration_that_cannot_be_read_hides_no_other(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out, "-q")
    shutil.copy(own / "calibration.npz", own / "calibration-old.npz")
    age(own / "calibration-old.npz")
    first = tmp_path / "own-models" / "calibrations"  # looked at before the model's folder
    first.mkdir(parents=True)
    broken = first / f"{read_bundle(own).sha256[:16]}.npz"
    broken.write_bytes(b"cut")
    commands = [["score", "mixed"], ["decide", "mixed.scores.h5"], ["report", "mixed.scores.h5"]]
    for command in commands:
        code, _, err = run(*command)
        flat = " ".join(err.split())
        assert code == 0, err
        once = command[0] == "score"  # the others have the calibration in the file
        assert flat.count(str(broken)) == flat.count("calibration-old.npz has format") == once
        assert run(*command, "-q", *(["--force"] if command[0] == "report" else []))[2] == ""
    assert facts("mixed.scores.h5")[:2] == ("fpr", 0.01)
    code, out, _ = run("models", own)
    flat = "".join(out.split())
    assert code == 0 and "200images" in flat and "formatversion2" in flat and broken.name in flat


def test_where_there_are_only_old_calibrations_a_decision_is_refused(run, own, held_out, odd):
    run("calibrate", held_out, "-q")
    run("score", "mixed", "-q")
    age(own / "calibration.npz")
    code, out, err = run("score", "mixed", "-o", "other.h5")
    assert code == 0 and "23 of 23" in out and "not decided: " in err and "version 2" in err
    code, _, err = run("score", "mixed", "--fpr", "0.05", "-o", "more.h5")
    assert code == 3 and "version 2" in err and "hvaeood calibrate" in err
    assert run("decide", "mixed.scores.h5", "--fpr", "0.05")[0] == 0, "it is in the file"
    with h5py.File("mixed.scores.h5", "r+") as file:
        del file["decision/calibration"]
    code, _, err = run("decide", "mixed.scores.h5", "--fpr", "0.05")
    assert code == 3 and "version 2" in err
    code, _, err = run("report", "mixed.scores.h5")
    assert code == 0 and "version 2" in err
    code, _, err = run("calibrate", held_out)
    assert (code, err) == (0, ""), "the hint is enough"
    assert run("decide", "mixed.scores.h5", "--fpr", "0.05", "-q")[0] == 0


@pytest.mark.parametrize("version", [None, 99])
def test_a_calibration_is_replaced_unasked_only_where_nothing_is_lost(run, own, held_out, version):
    run("calibrate", held_out, "-q")
    place = own / "calibration.npz"
    if version:
        age(place, version)
    else:
        place.write_bytes(place.read_bytes()[:500])
    before = place.read_bytes()
    code, _, err = run("calibrate", held_out)
    assert code == 3 and "--force" in err and place.read_bytes() == before
    assert run("calibrate", held_out, "--force")[0] == 0 and len(Calibration.load(place)) == 200


def test_an_option_counts_that_says_what_is_usual(run, own, held_out):
    run("score", held_out, "-S", "4", "-o", "s4.h5", "-q")
    code, _, err = run("calibrate", "s4.h5", "-S", "16")
    assert code == 2 and "4 there, 16 asked for" in err
    assert run("calibrate", "s4.h5")[0] == 0 and run("calibrate", "s4.h5", "-S", "4")[0] == 0


def test_quiet_is_quiet(run, own, held_out, odd):
    run("calibrate", held_out, "-q")
    assert run("score", "mixed", "-S", "2", "-q") == (0, "", "")
    assert run("score", "mixed", "-o", "s.h5", "-q") == (0, "", "")
    assert run("decide", "s.h5", "--fdr", "0.05", "--by", "-q") == (0, "", "")


def test_a_model_that_is_installed_comes_before_the_one_that_a_file_names(
    run, own, held_out, odd, tmp_path
):
    """A folder with the same config.json would decide by a calibration of its own."""
    run("calibrate", held_out, "-q")
    theirs = tmp_path / "theirs"
    shutil.copytree(own, theirs)
    run("calibrate", f"{held_out}#0:150", "--scores", "t.h5", "-o", theirs / "c.npz", "-q")
    (theirs / "c.npz").replace(theirs / "calibration.npz")
    run("score", "mixed", "-S", "16", "-q", "--model", theirs)
    id_of = {folder: Calibration.load(folder / "calibration.npz").id for folder in (own, theirs)}
    assert facts("mixed.scores.h5")[2] == id_of[theirs] != id_of[own]
    with h5py.File("mixed.scores.h5", "r+") as file:
        del file["decision"]
    (tmp_path / "own-models").mkdir(exist_ok=True)
    shutil.copytree(own, tmp_path / "own-models" / "own")
    assert run("decide", "mixed.scores.h5", "-q")[0] == 0
    assert facts("mixed.scores.h5")[2] == id_of[own]


def test_a_folder_without_the_weights_is_not_the_model(run, own, held_out, odd):
    run("calibrate", held_out, "-q")
    run("score", "mixed", "-q")
    with h5py.File("mixed.scores.h5", "r+") as file:
        del file["decision"]
    (own / "model.safetensors").write_bytes(b"others")
    code, _, err = run("decide", "mixed.scores.h5", "--fpr", "0.05")
    assert code == 3 and "not calibrated" in err


def test_p_values_in_data_flag_what_the_decision_flags(run, own, held_out, odd):
    """With six digits, p = 1/141 is above a threshold of 1/141."""
    run("calibrate", held_out, "-q")
    run("score", "mixed", "--fdr", "0.2", "-q")
    whole = json.loads(run("score", "mixed", "--json")[1])
    threshold = whole["decision"]["threshold"]
    assert any(image["p_combined"] == threshold for image in whole["images"])
    for image in whole["images"]:
        assert (image["p_combined"] <= threshold) == image["flagged"]
    rows = list(csv.DictReader(io.StringIO(run("score", "mixed", "--csv")[1])))
    assert [float(row["p_combined"]) <= threshold for row in rows] == [
        image["flagged"] for image in whole["images"]
    ]
    with h5py.File("mixed.scores.h5") as file:
        combined = file["decision/combined"][()]
    assert [float(row["combined"]) for row in rows] == list(combined)
    assert all(len(row["lower_bound_0"].strip("-").replace(".", "")) <= 6 for row in rows)


def test_train_then_score_is_all_it_takes(run, tmp_path):
    """The README's order, on images of one's own: what is odd comes first, and is flagged."""
    random = np.random.default_rng(0)
    usual = random.integers(0, 40, (500, 8, 8), np.uint8)
    np.save(tmp_path / "usual.npy", usual)
    command = ("--image-size", "8", "--epochs", "4", "--batch-size", "32")
    code, _, err = run("train", "usual.npy", "--out", "mine", *command)
    assert code == 0 and "325 to train on, 25 for the curve, 150 to calibrate on" in err
    assert "not calibrated" not in err
    odd = np.concatenate([random.integers(0, 40, (40, 8, 8)), random.integers(0, 256, (3, 8, 8))])
    np.save(tmp_path / "new.npy", odd.astype(np.uint8))
    code, out, _ = run("score", "new.npy", "--model", "mine", "--json")
    rows = json.loads(out)["images"]
    assert code == 0 and [row["flagged"] for row in rows[40:]] == [True] * 3
    larger = np.kron(odd, np.ones((1, 2, 2))).astype(np.uint8)
    np.save(tmp_path / "larger.npy", larger)
    assert "was trained on 8x8 grey images" in run("score", "larger.npy", "--model", "mine")[2]
    # images that were chosen to calibrate on replace those that were set aside, unasked
    np.save(tmp_path / "held.npy", random.integers(0, 40, (200, 8, 8), np.uint8))
    code, out, err = run("calibrate", "held.npy", "--model", "mine")
    assert (code, err) == (0, "") and "200 images" in out
    assert run("calibrate", "usual.npy", "--model", "mine")[0] == 3  # and are not replaced so


def test_a_model_of_few_images_says_that_it_cannot_flag(run, tmp_path):
    np.save(tmp_path / "few.npy", make_images(100, size=8)[:, 0])
    options = ("--image-size", "8", "--epochs", "1", "--batch-size", "16")
    code, _, err = run("train", "few.npy", "--out", "mine", *options)
    assert code == 0 and "95 to train on, 5 for the curve, 0 to calibrate on" in err
    assert "it is not calibrated" in err and "hvaeood calibrate" in err


def test_train_says_where_maps_stay_in_nats(run, tmp_path, monkeypatch):
    def usual_maps(*_):
        raise CalibrationError("5 images are too few to say what is usual of a map", "give more")

    monkeypatch.setattr("hvaeood_cli.training.run.usual_maps", usual_maps)
    np.save(tmp_path / "usual.npy", make_images(500, size=8)[:, 0])
    options = ("--image-size", "8", "--epochs", "1", "--batch-size", "16")
    code, _, err = run("train", "usual.npy", "--out", "mine", *options)
    assert code == 0 and "warning: maps stay in nats" in err and "hvaeood calibrate" in err
    assert (tmp_path / "mine" / "calibration.npz").is_file(), "it flags all the same"


def test_a_model_of_resized_images_is_not_surprised_by_others(run, tmp_path):
    """A warning that their scores may be high for that alone would be wrong."""
    np.save(tmp_path / "usual.npy", make_images(500, size=16)[:, 0])
    options = ("--image-size", "8", "--epochs", "1", "--batch-size", "16", "--quiet")
    assert run("train", "usual.npy", "--out", "mine", *options)[0] == 0
    code, _, err = run("score", "usual.npy", "--model", "mine")
    assert code == 0 and "500 resized to 8x8" in err and "make their scores high" not in err
    calibration = Calibration.load(tmp_path / "mine" / "calibration.npz")
    assert calibration.about["converted"] == ["resized"], "and nothing foreign about others"


@pytest.mark.parametrize("level", ["0.05", "5%", " 5 %"])
def test_a_level_may_be_given_in_per_cent(run, own, held_out, odd, level):
    run("calibrate", held_out)
    code, out, _ = run("score", "mixed", "--fpr", level)
    assert code == 0 and "flagged at FPR 5 %" in out
    code, _, err = run("score", "mixed", "--fpr", "some%")
    assert code == 2 and "some%" in err


def level_of(path: Path) -> tuple[str, float]:
    with h5py.File(path) as file:
        return file["decision"].attrs["rule"], file["decision"].attrs["level"]


def test_a_level_of_hvaeood_toml_is_for_what_nothing_has_decided(run, own, held_out, odd, tmp_path):
    run("calibrate", held_out)
    file, toml = tmp_path / "mixed.scores.h5", tmp_path / "hvaeood.toml"
    toml.write_text("[score]\nfpr = 0.2\n[decide]\nfpr = 0.2\n")
    assert run("score", "mixed")[0] == 0 and level_of(file) == ("fpr", 0.2)
    assert run("decide", file, "--fpr", "0.05")[0] == 0 and level_of(file) == ("fpr", 0.05)
    for command in (["score", "mixed"], ["decide", file], ["score", "mixed", "--force"]):
        code, out, err = run(*command)
        assert code == 0 and level_of(file) == ("fpr", 0.05) and "flagged at FPR 5 %" in out
        assert "warning: the decision stays at FPR 5 %" in err and "--fpr 0.2 decides anew" in err
    assert run("decide", file, "--fdr", "0.1")[0] == 0, "the command line wins over the file"
    assert level_of(file) == ("fdr", 0.1)
    toml.write_text("[decide]\nfdr = 0.2\nby = true\n")
    assert run("decide", file, "--fpr", "0.3")[0] == 0 and level_of(file) == ("fpr", 0.3)
    assert run("decide", file, "--fdr", "0.3")[0] == 0 and level_of(file) == ("fdr-by", 0.3)
    toml.write_text("[decide]\nfdr = 0.3\nby = true\n")
    assert "stays" not in run("decide", file)[2], "nothing to say where it is the same"
