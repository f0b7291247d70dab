"""The commands through their real entry point."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.store.journal import journal_path
from hvaeood_cli.text import printable, shorten
from tests.conftest import make_images

COMMAND = [sys.executable, "-m", "hvaeood_cli"]


# -- score ----------------------------------------------------------------------------------------


def test_scoring_a_folder(run, folder, tmp_path):
    code, out, err = run("score", "images")
    assert (code, err) == (0, "")
    assert "12 of 12 images scored in" in out and "on cpu" in out and "images.scores.h5" in out
    assert "hvaeood reconstruct images/" in out
    with h5py.File(tmp_path / "images.scores.h5") as file:
        assert file["/images/path"][0] == b"images/00.png"
        assert np.isfinite(file["/scores/llr"][()]).all()
    assert not journal_path(tmp_path / "images.scores.h5").exists()


def test_again_is_done_already_and_other_settings_are_refused(run, folder, tmp_path):
    run("score", "images", "-o", "s.h5")
    before = (tmp_path / "s.h5").read_bytes()
    code, out, _ = run("score", "images", "-o", "s.h5")
    assert code == 0 and "nothing has changed" in out
    for arguments, word in ((["--seed", "1"], "seed"), (["-S", "2"], "importance samples")):
        code, _, err = run("score", "images", "-o", "s.h5", *arguments)
        assert code == 3 and word in err and "hint:" in err
    assert (tmp_path / "s.h5").read_bytes() == before
    code, out, _ = run("score", "images", "-o", "s.h5", "--seed", "1", "--force")
    assert code == 0 and (tmp_path / "s.h5").read_bytes() != before


def test_machine_readable_outputs_agree(run, folder):
    _, jsonl, _ = run("score", "images", "--jsonl")
    lines = [json.loads(line) for line in jsonl.splitlines()]
    _, whole, _ = run("score", "images", "--json")
    whole = json.loads(whole)
    _, table, _ = run("score", "images", "--csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert whole["version"] == 2 and whole["images"] == lines and whole["n_scored"] == 12
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    assert [float(row["llr_2"]) for row in rows] == [line["llr"][1] for line in lines]
    assert table.splitlines()[1].startswith('"images/00.png","scored",')
    code, _, err = run("score", "images", "--csv", "--json")
    assert code == 2 and "exclude" in err


def test_copies_of_an_image_are_one_find(run, folder):
    for name in ("=copy.png", "deeper/copy.png"):
        (folder / name).write_bytes((folder / "03.png").read_bytes())
    _, out, _ = run("score", "images", "--top", "50")
    assert (
        "images/03.png (3 copies)\n" in out and "copy.png" not in out and out.count("copies") == 1
    )
    images = json.loads(run("score", "images", "--json")[1])["images"]
    copies = {image["path"]: image["copy_of"] for image in images if image["copy_of"]}
    assert copies == dict.fromkeys(["images/=copy.png", "images/deeper/copy.png"], "images/03.png")
    rows = csv.reader(io.StringIO(run("score", "images", "--csv")[1]))
    assert next(rows)[-1] == "copy_of"
    assert {row[0]: row[-1] for row in rows if row[-1]} == copies
    _, page, _ = run("report", "images.scores.h5", "--format", "csv")
    assert page.splitlines()[0].endswith('"note","copy_of"')


def test_one_bad_file_is_one_row(run, folder):
    (folder / "bad.png").write_bytes(b"text")
    (folder / "empty.jpg").write_bytes(b"")
    whole = (folder / "00.png").read_bytes()
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])
    code, out, _ = run("score", "images")
    assert code == 4 and "12 of 15 images scored" in out and "3 could not be read" in out
    code, out, _ = run("score", "images", "--jsonl")
    assert code == 4
    bad = {
        line["path"]: line["status"]
        for line in map(json.loads, out.splitlines())
        if line["status"] != "scored"
    }
    assert bad == {
        "images/bad.png": "not_an_image",
        "images/empty.jpg": "empty",
        "images/short.png": "damaged",
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("clip.mp4", b"\0\0\0\x18ftypmp42" + bytes(500)),
        ("notes.txt", b"photos/a.png\n"),
        ("paper.pdf", b"%PDF-1.4\n"),
        ("README", b""),
    ],
)
def test_a_file_that_is_no_image_is_said_to_be_none(run, folder, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("score", name)
    assert (
        code == 3 and not out and err.startswith(f"error: {name} is no image") and "hint: " in err
    )
    assert sorted(tmp_path.rglob("*")) == before
    code, out, _ = run("score", "images", name)
    assert code == 4 and "12 of 13 images scored" in out, "beside images it is a row"
    (folder / "00.png").rename(tmp_path / "image")
    assert run("score", "image")[0] == 0


def test_a_folder_of_bad_files(run, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"text")
    code, out, _ = run("score", "bad")
    assert code == 4 and "0 of 1 images scored" in out


def test_hostile_names_reach_the_terminal_escaped_and_scripts_whole(run, folder):
    names = [b"\x1b[2Jclear.png", b"new\nline.png", b"[red]markup.png", b"caf\xe9.png", b"=1+1.png"]
    names.append("\u202egnp.exe.png".encode())
    for name, image in zip(names, make_images(len(names), seed=1), strict=True):
        Image.fromarray(image[0]).save(folder / os.fsdecode(name), "PNG")
    _, out, _ = run("score", "images", "--top", "50")
    assert "\x1b" not in out and "\u202e" not in out and "\\x1b[2Jclear.png" in out
    assert "new\\nline.png" in out and "[red]markup.png" in out and "caf\\xe9.png" in out
    _, out, _ = run("score", "images", "--jsonl")
    found = {os.fsencode(json.loads(line)["path"]) for line in out.splitlines()}
    assert {b"images/" + name for name in names} <= found
    _, out, _ = run("score", "images/=1+1.png", "-o", "one.h5", "--csv")
    assert len(out.splitlines()) == 2
    os.chdir(folder)
    _, out, _ = run("score", "=1+1.png", "--csv")
    assert out.splitlines()[1].startswith('"\'=1+1.png",')


def test_lists_on_standard_input(run, folder):
    code, out, _ = run("score", "-", "--jsonl", stdin=b"images/03.png\nimages/05.png\n")
    assert code == 0 and len(out.splitlines()) == 2
    code, out, _ = run(
        "score", "-", "-0", "--jsonl", "-o", "n.h5", stdin=b"images/03.png\0images/none.png\0"
    )
    assert code == 4 and json.loads(out.splitlines()[1])["status"] == "missing"


def test_a_list_with_nul_bytes_and_no_0(run, folder):
    """`find -print0 | hvaeood score -`: one bad line is one row."""
    code, out, _ = run("score", "-", "--jsonl", stdin=b"a\0b\nimages/03.png\n")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 4 and [row["status"] for row in rows] == ["unreadable", "scored"]
    assert rows[0]["path"] == "a\0b"


def test_the_next_command_works(run, folder, tmp_path):
    """It names the row of an array, the model and the settings that the scores came from."""
    import shlex

    np.save(tmp_path / "few.npy", make_images(5)[:, 0])
    for source in ("few.npy", "images"):
        _, out, _ = run("score", source, "--seed", "3", "--model", os.environ["HVAEOOD_MODEL"])
        words = shlex.split(" ".join(out.split("next")[-1].split()))
        at = words.index("hvaeood", 1)
        report, reconstruct = words[:at], words[at:]
        assert report[:2] == ["hvaeood", "report"] and "--model" in report
        assert reconstruct[:2] == ["hvaeood", "reconstruct"] and "--seed" in reconstruct
        reconstruct[-1] = f"{source}.png"
        assert run(*report[1:], "-o", f"{source}.html")[0] == 0
        assert run(*reconstruct[1:])[0] == 0


def test_a_folder_called_as_the_model_does_not_hide_it(run, folder, monkeypatch):
    monkeypatch.delenv("HVAEOOD_MODEL")
    folder.rename(folder.parent / "fashionmnist")
    code, out, _ = run("score", "fashionmnist")
    assert code == 0 and "12 of 12" in out


def test_ranges_fifos_and_wrong_arrays(run, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    np.savez(tmp_path / "zip.npz", images=make_images(2)[:, 0])
    np.save(tmp_path / "plain.npy", make_images(2)[:, 0])
    (tmp_path / "zip.npz").rename(tmp_path / "really-a-zip.npy")
    (tmp_path / "plain.npy").rename(tmp_path / "really-plain.npz")
    for source in ("images#0:3", "pipe.npy", "really-a-zip.npy", "really-plain.npz"):
        code, _, err = run("score", source)
        assert code in (2, 3) and err.startswith("error: ") and "Traceback" not in err, source


def test_duplicate_content_scores_alike(run, folder):
    (folder / "zz.png").write_bytes((folder / "04.png").read_bytes())
    _, out, _ = run("score", "images", "--jsonl")
    rows = {Path(row["path"]).name: row for row in map(json.loads, out.splitlines())}
    assert rows["zz.png"]["llr"] == rows["04.png"]["llr"]


def test_foreign_images_are_scored_with_a_warning(run, tmp_path):
    (tmp_path / "photos").mkdir()
    photo = Image.fromarray(make_images(1, size=40, channels=3)[0].transpose(1, 2, 0))
    photo.save(tmp_path / "photos" / "a.jpg")
    code, _, err = run("score", "photos")
    flat = " ".join(err.split())
    assert code == 0 and "1 resized to 8x8, 1 made grey" in flat
    assert "was trained on 8x8 grey images" in flat


def test_what_cannot_be_scored_is_an_error_with_a_hint(run, folder, tmp_path):
    (tmp_path / "void").mkdir()
    for arguments in (
        ["void"],
        ["nowhere"],
        ["images", "--model", "nowhere"],
        ["images", "--device", "cuda:7"],
        ["images", "-o", "no/such/folder.h5"],
        ["images", "--proposal", "median"],
        ["mnist:test", "--data-root", "void"],
    ):
        code, out, err = run("score", *arguments)
        assert code in (2, 3) and not out, arguments
        assert (err.startswith("error: ") and "hint: " in err) or "median" in err, arguments
        assert "Traceback" not in err


def test_what_cannot_be_parsed_is_an_error_with_a_hint(run):
    for arguments in (
        [],
        ["images", "-S", "0"],
        ["images", "--colour"],
        ["images", "--label", "2"],
    ):
        code, out, err = run("score", *arguments)
        assert code == 2 and not out, arguments
        assert err.startswith("error: ") and "hint: hvaeood score --help" in err, err
    code, _, err = run("scor")
    assert code == 2 and "score" in err


def test_defaults_come_from_flags_then_environment_then_file(run, folder, tmp_path, monkeypatch):
    (tmp_path / "hvaeood.toml").write_text("[score]\nsamples = 3\nseed = 5\ndevice = 'nowhere'\n")
    monkeypatch.setenv("HVAEOOD_DEVICE", "cpu")
    code, out, _ = run("score", "images", "--seed", "6")
    assert code == 0 and "S = 3" in out and "seed 6" in out
    (tmp_path / "hvaeood.toml").write_text("[score]\ncolour = 3\n")
    code, _, err = run("score", "images")
    assert code == 2 and "colour" in err


# -- interruptions --------------------------------------------------------------------------------


def start(
    tmp_path: Path, bundle, *arguments: str, prepare: Callable[[], None] = lambda: None, **options
) -> subprocess.Popen[bytes]:
    """The command in a process of its own, in which `prepare` runs first."""

    def before() -> None:
        # A shell's background job ignores Ctrl+C, and so would all that it starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        prepare()

    environment = os.environ | {"HVAEOOD_MODEL": str(bundle.folder), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=before,  # noqa: PLW1509
        **options,
    )


def wait_for_rows(journal: Path, process: subprocess.Popen[bytes], size: int) -> None:
    """Until the journal has grown past `size`; the process must not end before."""
    while not (journal.exists() and journal.stat().st_size > size):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            pytest.fail("the run ended before it could be killed")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_ends_with_the_same_file(tmp_path, bundle, how, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "many.npy", make_images(1000)[:, 0])
    arguments = ("score", "many.npy", "-S", "32", "--quiet")
    whole = start(tmp_path, bundle, *arguments, "-o", "whole.h5")
    cut = start(tmp_path, bundle, *arguments, "-o", "cut.h5")
    journal = journal_path(tmp_path / "cut.h5")
    wait_for_rows(journal, cut, 10_000)
    cut.send_signal(how)
    _, err = cut.communicate()
    whole.communicate()
    assert whole.returncode == 0
    if how == signal.SIGINT:
        assert cut.returncode == 130 and b"hint: run the same command again" in err
    assert not (tmp_path / "cut.h5").exists()
    kept = journal.read_bytes()
    with start(tmp_path, bundle, *arguments, "-o", "cut.h5", "--seed", "1") as other:
        _, err = other.communicate()
    assert other.returncode == 3 and b"the seed" in err and journal.read_bytes() == kept
    with start(tmp_path, bundle, *arguments, "-o", "cut.h5") as again:
        assert again.wait() == 0
    with h5py.File(tmp_path / "whole.h5") as a, h5py.File(tmp_path / "cut.h5") as b:
        for name in ("path", "sha256", "status", "error"):
            assert np.array_equal(a["images"][name], b["images"][name]), name
        for name in a["scores"]:
            assert np.array_equal(a["scores"][name], b["scores"][name]), name
        differing = {key for key in a.attrs if a.attrs[key] != b.attrs[key]}
        assert differing <= {"created"}
    assert not journal.exists()


def test_an_interrupted_forced_run_goes_on_too(tmp_path, bundle, folder, monkeypatch):
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.scoring.scorer import Scorer

    out = tmp_path / "s.h5"
    first = Detector(bundle.folder, n_importance_samples=512, seed=1)
    first.run(first.manifest(str(folder))).to_file(out)
    detector = Detector(bundle.folder, n_importance_samples=512, workers=0)  # a pass is one image
    scored: list[int] = []
    score = Scorer.score

    def count(self, pixels, noises=None):
        if len(scored) == 5:
            scored.append(0)
            raise KeyboardInterrupt
        scored.append(len(pixels))
        return score(self, pixels, noises)

    monkeypatch.setattr(Scorer, "score", count)
    manifest = detector.manifest(str(folder))
    with pytest.raises(KeyboardInterrupt):
        detector.run(manifest).to_file(out, force=True)
    detector.run(manifest).to_file(out, force=True)
    assert sum(scored) == 12
    with h5py.File(out) as file:
        assert file.attrs["seed"] == 0


def test_a_journal_left_behind_a_whole_file_is_cleared(run, folder, tmp_path):
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.store.journal import Journal

    run("score", "images", "-o", "s.h5")
    detector = Detector(os.environ["HVAEOOD_MODEL"])
    journal = journal_path(tmp_path / "s.h5")
    header = detector.run(detector.manifest("images")).header("cpu")
    Journal.open(journal, header).close()
    code, out, _ = run("score", "images", "-o", "s.h5")
    assert code == 0 and "nothing has changed" in out and not journal.exists()


def test_nothing_acknowledged_is_scored_again(tmp_path, bundle, folder, monkeypatch):
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.scoring.scorer import Scorer

    detector = Detector(bundle.folder, n_importance_samples=512, workers=0)  # a pass is one image
    scored: list[int] = []
    score = Scorer.score

    def count(self, pixels, noises=None):
        if len(scored) == 5:
            raise KeyboardInterrupt
        scored.append(len(pixels))
        return score(self, pixels, noises)

    monkeypatch.setattr(Scorer, "score", count)
    manifest, out = detector.manifest(str(folder)), tmp_path / "s.h5"
    with pytest.raises(KeyboardInterrupt):
        detector.run(manifest).to_file(out)
    monkeypatch.setattr(
        Scorer, "score", lambda s, p, n=None: scored.append(len(p)) or score(s, p, n)
    )
    detector.run(manifest).to_file(out)
    assert sum(scored) == 12


def test_a_full_disk_loses_nothing(tmp_path, bundle):
    np.save(tmp_path / "many.npy", make_images(3000)[:, 0])
    arguments = ("score", "many.npy", "-S", "8", "--quiet", "-o", "s.h5")

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = start(tmp_path, bundle, *arguments, prepare=small_disk)
    _, err = full.communicate()
    assert full.returncode == 3
    assert err.startswith(
        b"error: cannot write s.h5"
    ) and b"what was scored is kept" in err.replace(b"\n", b" ")
    assert 50_000 < journal_path(tmp_path / "s.h5").stat().st_size <= 100_000
    with start(tmp_path, bundle, *arguments) as again:
        assert again.wait() == 0
    with h5py.File(tmp_path / "s.h5") as file:
        assert np.isfinite(file["/scores/llr"][()]).all() and len(file["/images/path"]) == 3000


def test_a_reader_that_goes_away_is_no_error(tmp_path, bundle, folder):
    process = start(tmp_path, bundle, "score", "images", "--jsonl")
    process.stdout.close()
    assert process.wait() == 0 and b"Traceback" not in process.stderr.read()
    process.stderr.close()


# -- the other commands ---------------------------------------------------------------------------


def test_train_makes_a_model_that_scores(run, folder, tmp_path):
    images = tmp_path / "train"
    images.mkdir()
    for i, image in enumerate(make_images(40, size=28)):
        Image.fromarray(image[0]).save(images / f"{i}.png")
    arguments = ["train", "train", "--out", "mine", "--epochs", "2", "--validation", "8"]
    arguments += ["--batch-size", "16", "--set", "weight_decay=0"]
    code, out, err = run(*arguments)
    assert (code, out) == (0, "") and "hvaeood score FOLDER --model mine" in err
    code, _, err = run(*arguments)
    assert code == 0
    code, _, err = run(*arguments, "--seed", "3")
    assert code == 3 and "already holds a model" in err
    code, out, _ = run("models", "mine")
    assert code == 0 and "32 images; 8 more" in out and "--validation 8" in out
    code, out, _ = run("score", "train", "--model", "mine")
    assert code == 0 and "40 of 40" in out


def test_train_says_what_is_wrong(run, folder):
    for arguments in (
        ["images", "--out", "m", "--preset", "huge"],
        ["images", "--out", "m", "--set", "colour=1"],
        ["images", "--out", "m", "--learning-rate", "-1"],
        ["images", "--out", "m", "--precision", "foo"],
        ["images", "--out", "m", "--set", "free_nats=[1]"],
        ["images", "--out", "m", "--set", "posterior_scale=[0.1, 0.5]"],
        ["images", "--out", "m", "--set", "free_nats=[NaN, 1, 1]"],
        ["images", "--out", "m", "--set", "posterior_scale=[1e-17, 1, 1]"],
        ["images", "--out", "m", "--set", "ema=2"],
        ["images", "--out", "m", "--channels", "2"],
        ["images", "--out", "m", "--devices", "9999"],
        ["images", "--out", "m", "--precision", "16-mixed"],
        ["images", "--out", "images/00.png"],
        ["images", "--out", "images/00.png/m"],
        ["images", "--out", "m"],  # twelve images are too few
        ["nowhere", "--out", "n"],
    ):
        code, _, err = run("train", *arguments)
        assert code in (2, 3) and "error: " in err and "Traceback" not in err, arguments
        assert "hint: " in err, arguments
    assert not (folder.parent / "n").exists(), "a wrong source leaves no folder behind"


def test_train_says_when_images_do_not_suit_the_preset(run, tmp_path):
    options = ["--out", "m", "--epochs", "1", "--validation", "4", "--batch-size", "8"]
    for name, size, channels in (("small", 2, 1), ("colour", 28, 3), ("grey", 28, 1)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(make_images(12, size=size, channels=channels)):
            pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    code, _, err = run("train", "small", *options)
    assert code == 3 and "12 of 12 images cannot be used" in err and "2x2 pixels" in err
    code, _, err = run("train", "colour", *options, "--preset", "compact-gray")
    assert code == 2 and "in colour" in err and "--channels 1" in err
    rgb = ["--preset", "compact-biva-rgb", "--image-size", "8"]
    code, _, err = run("train", "grey", *options, *rgb)
    assert code == 2 and "grey" in err and "--channels 3" in err
    code, _, err = run("train", "grey", *options, *rgb, "--channels", "3")
    assert code == 0 and "of 12 images, 12 " in err and "12 repeated into three channels" in err
    code, _, err = run("train", "colour", *options, "--channels", "1", "--force")
    assert code == 0 and "12 made grey" in err


def test_force_keeps_the_old_model_until_there_is_a_new_one(run, folder, tmp_path):
    images = tmp_path / "train"
    images.mkdir()
    for i, image in enumerate(make_images(24, size=28)):
        Image.fromarray(image[0]).save(images / f"{i}.png")
    arguments = ["--out", "m", "--epochs", "1", "--validation", "8", "--batch-size", "16"]
    assert run("train", "train", *arguments)[0] == 0
    (tmp_path / "m" / "thesis.tex").write_text("years of work")
    old = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "bad.png").write_bytes(b"text")
    code, _, err = run("train", "bad.png", *arguments, "--force")
    assert code == 3 and "none of these images can be read" in err
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == old
    assert run("train", "train", *arguments, "--seed", "1", "--force")[0] == 0
    assert (tmp_path / "m" / "model.safetensors").read_bytes() != old
    assert (tmp_path / "m" / "thesis.tex").exists()


def test_an_interrupted_training_keeps_a_checkpoint(tmp_path, bundle):
    np.save(tmp_path / "train.npy", make_images(400, size=28)[:, 0])
    arguments = ("train", "train.npy", "-o", "m", "--epochs", "40", "--validation", "8")
    process = start(tmp_path, bundle, *arguments)
    for line in process.stderr:
        if b"epoch" in line:  # it is under way
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate()
    assert process.returncode == 130 and b"last checkpoint" in err
    assert len(list((tmp_path / "m" / "checkpoints").glob("step-*.safetensors"))) == 1


def test_models_lists_what_ships_and_what_is_mine(run, bundle, monkeypatch):
    monkeypatch.setenv("HVAEOOD_MODELS", str(bundle.folder.parent))
    code, out, _ = run("models")
    assert code == 0 and "fashionmnist" in out and "ships" in out and "small" in out
    code, out, _ = run("models", "--json")
    assert {model["name"] for model in json.loads(out)} >= {"fashionmnist", "small"}
    code, out, _ = run("models", "small", "--json")
    assert json.loads(out)["n_layers"] == 3


def test_reconstruct_draws_a_picture(run, folder, tmp_path):
    code, _, err = run("reconstruct", "images/00.png", "images/01.png", "-o", "grid.png")
    assert code == 0 and "k = 0 to 2" in err
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 5 * 100 and grid.height > 2 * 100
        shades = np.unique(np.asarray(grid.convert("L")))
    assert len(shades) > 20
    code, _, err = run("reconstruct", "images/00.png", "-o", "grid.png")
    assert code == 3 and "--force" in err
    code, _, err = run("reconstruct", "images/00.png", "-o", "grid.jpg")
    assert code == 2
    (folder / "bad.png").write_bytes(b"")
    names = [f"images/{name}.png" for name in ("00", "01", "02", "bad")]
    code, _, err = run("reconstruct", *names, "-o", "g.png")
    assert code == 3 and "no bytes" in err and not (tmp_path / "g.png").exists()
    assert "images/bad.png" in err and "00.png" not in err


@pytest.mark.parametrize("damage", ["missing", "weights", "json", "newer", "mixed"])
def test_a_broken_bundle_is_an_error_with_a_hint(run, folder, bundle, tmp_path, damage):
    import hashlib
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(bundle.folder, broken)
    config = json.loads((broken / "config.json").read_text())
    if damage == "missing":
        (broken / "model.safetensors").unlink()
    elif damage == "weights":
        data = bytearray((broken / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (broken / "model.safetensors").write_bytes(data)
    elif damage == "json":
        (broken / "config.json").write_text("{")
    elif damage == "newer":
        (broken / "config.json").write_text(json.dumps(config | {"format_version": 99}))
    else:
        config["model"]["layers"][0]["channels"] = 5
        (broken / "config.json").write_text(json.dumps(config))
        data = (broken / "model.safetensors").read_bytes()
        assert config["weights_sha256"] == hashlib.sha256(data).hexdigest()
    code, _, err = run("score", "images", "--model", "broken")
    assert code == 3 and err.startswith("error: ") and "hint: " in err and "Traceback" not in err


def test_help_is_fast_because_it_loads_nothing_heavy():
    check = (
        "import sys; sys.argv = ['hvaeood', '--help']\n"
        "from hvaeood_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'h5py', 'sklearn', 'scipy', 'textual', 'matplotlib', 'numpy', 'PIL',\n"
        "         'torchvision', 'pydantic', 'lightning_fabric'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("asked", "code"), [("--version", 0), ("--nonsense", 2)])
def test_at_its_end_handlers_are_run_and_all_that_was_said_is_written(asked, code):
    """Although memory is not taken apart, nothing else is left out."""
    program = (
        "import atexit, sys; atexit.register(print, 'handled', end='')\n"
        f"sys.argv = ['hvaeood', '{asked}']; sys.stdout.write('begun')\n"
        "from hvaeood_cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code and "begun" in done.stdout and "Traceback" not in done.stderr
    assert done.stdout.endswith("handled")


COMMANDS = ["score", "tui", "report", "decide", "calibrate", "train", "models", "reconstruct"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_fits_80_columns_and_begins_with_an_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "hvaeood score FOLDER" in out or "Example: hvaeood" in out


def test_printable_keeps_letters_and_escapes_the_rest():
    assert printable("naïve 漢字 [b]") == "naïve 漢字 [b]"
    assert printable(b"\xff\x07\x9b1m\xe2\x80\xae") == "\\xff\\x07\\x9b1m\\u202e"
    assert shorten("abcdefghij", 5) == "a…hij"
