"""Folders that grow: what came, changed, moved and went since the score file was made."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.detector import Detector
from hvaeood_cli.images.content import short_key
from hvaeood_cli.model.bundle import write_bundle
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.store.journal import journal_path
from hvaeood_cli.store.judgements import Judgements
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.status import GONE
from hvaeood_cli.tui.run import Run
from hvaeood_cli.tui.view import UNREADABLE, View, take
from tests.conftest import SMALL, make_images, make_ladder
from tests.test_cli import start, wait_for_rows

IMAGES = ("path", "sha256", "content", "status", "conversions", "stamp", "error")


def add(folder: Path, name: str, seed: int) -> Path:
    """A new image in a folder, of the kind that calibrations in this file are made of."""
    Image.fromarray(make_images(1, seed=seed)[0, 0] // 64).save(folder / name)
    return folder / name


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """How many images went through the network, pass by pass."""
    passes: list[int] = []
    score = Scorer.score

    def count(self, pixels, noises=None):
        passes.append(len(pixels))
        return score(self, pixels, noises)

    monkeypatch.setattr(Scorer, "score", count)
    return passes


@pytest.fixture
def interrupted_after(monkeypatch) -> Callable[[int], None]:
    """Press Ctrl+C when so many passes are done, once."""

    def arm(n: int) -> None:
        score, passes = Scorer.score, []

        def count(self, pixels, noises=None):
            passes.append(0)
            if len(passes) == n + 1:
                raise KeyboardInterrupt
            return score(self, pixels, noises)

        monkeypatch.setattr(Scorer, "score", count)

    return arm


def assert_as_if_anew(run, out: str, *arguments: str | Path) -> None:
    """The rows of what is there are, to the last bit, those of scoring it all anew."""
    assert run("score", *arguments, "-o", "anew.h5", "--force", "-q")[0] in (0, 4)
    with h5py.File(out) as grown, h5py.File("anew.h5") as anew:
        n = len(anew["/images/status"])
        for group, names in (("images", IMAGES), ("scores", list(anew["scores"]))):
            for name in names:
                there, here = grown[group][name][:n], anew[group][name][()]
                assert there.tobytes() == here.tobytes() or list(there) == list(here), name
        assert grown.attrs["listing_sha256"] == anew.attrs["listing_sha256"]
        assert (grown["/images/status"][n:] == GONE).all()


# -- what has changed in a folder -----------------------------------------------------------------


def test_all_changes_at_once(run, folder, scored):
    """Three new, one changed, two moved, one gone, one touched; the other seven as they were."""
    run("score", "images", "-o", "all.h5")
    with h5py.File("all.h5") as file:
        before = dict(zip(file["/images/path"], file["/scores/llr"][()], strict=True))
    scored.clear()
    for i in range(3):
        add(folder, f"new{i}.png", 50 + i)
    add(folder, "00.png", 60)
    (folder / "01.png").rename(folder / "zz.png")
    (folder / "deeper" / "10.png").rename(folder / "02b.png")
    (folder / "03.png").unlink()
    os.utime(folder / "04.png", ns=(1, 1))
    code, out, err = run("score", "images", "-o", "all.h5")
    assert (code, err) == (0, "")
    assert "14 of 14 images scored in" in out
    assert "3 new, 1 changed, 2 moved, 1 gone, 8 kept" in words(out)
    assert sum(scored) == 4 and not journal_path(Path("all.h5")).exists()
    assert_as_if_anew(run, "all.h5", "images")
    with h5py.File("all.h5") as file:
        names = list(file["/images/path"])
        assert names[:14] == sorted(names[:14]) and names[14:] == [b"images/03.png"]
        codes = json.loads(file["/images/status"].attrs["codes"])
        assert file["/images/status"][14] == codes["gone"] and file["/images/error"][14] == b""
        after = dict(zip(names, file["/scores/llr"][()], strict=True))
    for old, new in ((b"03", b"03"), (b"04", b"04"), (b"01", b"zz"), (b"deeper/10", b"02b")):
        same = before[b"images/" + old + b".png"] == after[b"images/" + new + b".png"]
        assert same.all(), old
    whole = Path("all.h5").read_bytes()
    scored.clear()
    code, out, _ = run("score", "images", "-o", "all.h5")
    assert code == 0 and "nothing has changed" in out and Path("all.h5").read_bytes() == whole
    assert not scored


def test_files_that_were_only_touched_are_kept(run, folder, scored):
    run("score", "images", "-o", "all.h5")
    scored.clear()
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    code, out, _ = run("score", "images", "-o", "all.h5")
    assert code == 0 and "nothing has changed" in out and not scored
    assert_as_if_anew(run, "all.h5", "images")


def test_a_file_that_is_gone_and_comes_back(run, folder, scored):
    run("score", "images", "-o", "all.h5")
    scored.clear()
    away = folder.parent / "away.png"
    (folder / "05.png").rename(away)
    _, out, _ = run("score", "images", "-o", "all.h5")
    assert "11 of 11 images scored" in out and "1 gone, 11 kept" in words(out)
    add(folder, "new.png", 50)
    _, out, _ = run("score", "images", "-o", "all.h5")
    assert "1 new, 11 kept" in words(out) and "gone" not in out and sum(scored) == 1
    away.rename(folder / "05.png")
    _, out, _ = run("score", "images", "-o", "all.h5")
    assert "13 of 13 images scored" in out and "1 back, 12 kept" in words(out)
    (folder / "05.png").rename(away)
    run("score", "images", "-o", "all.h5", "-q")
    away.rename(folder / "other-name.png")
    _, out, _ = run("score", "images", "-o", "all.h5")
    assert "1 moved, 12 kept" in words(out) and sum(scored) == 1
    assert_as_if_anew(run, "all.h5", "images")
    assert len(read_scores(Path("all.h5"))) == 13


def test_a_folder_that_was_renamed_is_known_by_its_content(run, folder, scored):
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    run("score", "images", "-o", "all.h5")
    scored.clear()
    folder.rename(folder.parent / "renamed")
    _, out, _ = run("score", "renamed", "-o", "all.h5")
    assert "13 moved" in out and not scored and len(read_scores(Path("all.h5"))) == 13
    assert_as_if_anew(run, "all.h5", "renamed")


def test_a_file_from_before_stamps_is_hashed_once(run, folder, scored):
    run("score", "images", "-o", "all.h5")
    scored.clear()
    with h5py.File("all.h5", "r+") as file:
        del file["/images/stamp"]
    _, out, _ = run("score", "images", "-o", "all.h5")
    assert "nothing has changed" in out
    add(folder, "new.png", 50)
    _, out, _ = run("score", "images", "-o", "all.h5")
    assert "1 new, 12 kept" in words(out) and sum(scored) == 1
    assert_as_if_anew(run, "all.h5", "images")


def test_unreadable_files(run, folder):
    """They are neither gone nor known; a gone one is not unreadable."""
    (folder / "bad.png").write_bytes(b"text")
    (folder / "late.png").symlink_to(folder.parent / "later.png")
    code, out, _ = run("score", "images", "-o", "all.h5")
    assert code == 4 and "2 could not be read" in out
    add(folder.parent, "later.png", 50)
    code, out, _ = run("score", "images", "-o", "all.h5")
    assert code == 4 and "1 changed, 13 kept" in words(out) and "1 could not be read" in out
    assert_as_if_anew(run, "all.h5", "images")
    (folder / "bad.png").unlink()
    code, out, err = run("score", "images", "-o", "all.h5")
    assert (code, err) == (0, "") and "1 gone, 13 kept" in words(out)
    assert "could not be read" not in out and "13 of 13" in out
    (folder / "bad.png").write_bytes(b"text")
    assert run("score", "images", "-o", "all.h5", "-q")[0] == 4
    add(folder, "bad.png", 51)
    code, out, _ = run("score", "images", "-o", "all.h5")
    assert code == 0 and "1 changed, 13 kept" in words(out)


def test_gone_rows_are_shown_nowhere(run, folder):
    run("score", "images", "-o", "all.h5")
    (folder / "05.png").unlink()
    (folder / "bad.png").write_bytes(b"text")
    for form in ("--jsonl", "--csv", "--json"):
        code, out, _ = run("score", "images", "-o", "all.h5", form)
        assert code == 4 and "05.png" not in out and "bad.png" in out, form
    assert json.loads(out)["n_images"] == 12 and json.loads(out)["run"]["n_images"] == 12
    for form in ("md", "csv", "json"):
        code, out, _ = run("report", "all.h5", "--format", form)
        assert code == 0 and "05.png" not in out and "bad.png" in out, form
    assert run("report", "all.h5", "--top", "0", "-q")[0] == 0
    page = Path("report.html").read_text()
    assert "looked at 11 images" in words(page) and "1 more could not be read" in words(page)
    whole = read_scores(Path("all.h5"))
    assert len(whole) == 13 and whole.gone.sum() == 1 and whole.header.n_images == 12
    shown = Run.of(whole.present, None)
    snapshot = take(shown, View.first(shown), Judgements({}))
    assert len(snapshot.rows) == 12 and snapshot.n_shown[UNREADABLE] == 1


# -- what may be brought up to date, and what not -------------------------------------------------


def test_another_folder_by_mistake_is_refused(run, folder, tmp_path, scored):
    other = tmp_path / "other"
    other.mkdir()
    for i in range(3):
        add(other, f"{i}.png", 70 + i)
    run("score", "images", "-o", "all.h5")
    whole = Path("all.h5").read_bytes()
    scored.clear()
    code, _, err = run("score", "other", "-o", "all.h5")
    assert code == 3 and "made from other inputs: the images" in words(err) and "--force" in err
    assert Path("all.h5").read_bytes() == whole and not scored
    assert not journal_path(Path("all.h5")).exists()


def test_other_settings_and_labels_are_refused_in_a_folder_that_grew(run, folder):
    run("score", "images", "-o", "all.h5", "--label", "1")
    add(folder, "new.png", 50)
    whole = Path("all.h5").read_bytes()
    for arguments, word in (
        (["--label", "1", "--seed", "1"], "the seed: 0 there, 1 here"),
        (["--label", "0"], "the label: 1 there, 0 here"),
        ([], "the label: 1 there, None here"),
    ):
        code, _, err = run("score", "images", "-o", "all.h5", *arguments)
        assert code == 3 and word in words(err), arguments
    assert Path("all.h5").read_bytes() == whole
    (folder / "00.png").unlink()
    assert run("score", "images", "-o", "all.h5", "--label", "1", "-q")[0] == 0
    with h5py.File("all.h5") as file:
        assert list(file["/images/label"]) == [1] * 13


def test_rows_of_arrays_and_lists(run, folder, tmp_path, scored):
    rows = make_images(30)[:, 0]
    np.save(tmp_path / "x.npy", rows[:20])
    run("score", "x.npy", "-o", "x.h5")
    changed = rows.copy()
    changed[3] = 7
    np.save(tmp_path / "x.npy", changed)
    scored.clear()
    _, out, _ = run("score", "x.npy", "-o", "x.h5")
    assert "10 new, 1 changed, 19 kept" in words(out) and sum(scored) == 11
    assert_as_if_anew(run, "x.h5", "x.npy")
    _, out, _ = run("score", "x.npy#5:25", "-o", "x.h5")
    assert "10 gone, 20 kept" in words(out)
    _, out, _ = run("score", "x.npy#0:30", "-o", "x.h5")
    assert "10 back, 20 kept" in words(out)
    assert_as_if_anew(run, "x.h5", "x.npy")

    def listed(*names: str) -> str:
        stdin = "".join(f"images/{name}.png\n" for name in names).encode()
        return words(run("score", "-", "-o", "list.h5", stdin=stdin)[1])

    listed("03", "05", "03", "a\0b")
    assert "1 new, 1 gone, 2 kept" in listed("05", "03", "04")
    assert "nothing has changed" in listed("04", "05", "03")
    assert list(read_scores(Path("list.h5")).names)[:3] == [
        b"images/04.png", b"images/05.png", b"images/03.png",
    ]  # fmt: skip


def test_a_list_has_a_file_of_its_own(run, folder):
    first, second = b"images/03.png\nimages/05.png\n", b"images/03.png\n"
    for stdin in (first, second):
        code, out, _ = run("score", "-", stdin=stdin)
        assert code == 0 and "nothing has changed" not in out and "list-" in out
    files = sorted(Path().glob("list-*.scores.h5"))
    assert len(files) == 2 and {len(read_scores(file)) for file in files} == {1, 2}
    assert "nothing has changed" in run("score", "-", stdin=first)[1]
    assert sorted(Path().glob("*.h5")) == files


def test_a_file_written_by_another_meanwhile_is_kept(run, folder, monkeypatch):
    run("score", "images", "-o", "all.h5")
    add(folder, "new.png", 50)
    score = Scorer.score

    def meanwhile(self, pixels, noises=None):
        os.utime("all.h5", ns=(1, 1))
        return score(self, pixels, noises)

    monkeypatch.setattr(Scorer, "score", meanwhile)
    whole = Path("all.h5").read_bytes()
    code, _, err = run("score", "images", "-o", "all.h5")
    assert code == 3 and "another process meanwhile" in words(err)
    assert Path("all.h5").read_bytes() == whole
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("what was scored is kept"))
    assert "1 new, 12 kept" in words(run("score", "images", "-o", "all.h5")[1])


# -- interruptions --------------------------------------------------------------------------------


def test_an_interrupted_update_goes_on(run, folder, scored, interrupted_after):
    """With S = 512 a pass is one image."""
    run("score", "images", "-o", "all.h5", "-S", "512")
    for i in range(6):
        add(folder, f"0{i}b.png", 50 + i)
    (folder / "00.png").rename(folder / "zz.png")
    whole = Path("all.h5").read_bytes()
    scored.clear()
    interrupted_after(4)
    code, _, err = run("score", "images", "-o", "all.h5", "-S", "512", "--workers", "0")
    assert code == 130 and "run the same command again" in words(err) and len(scored) == 4
    assert Path("all.h5").read_bytes() == whole
    _, out, _ = run("score", "images", "-o", "all.h5", "-S", "512")
    assert "6 new, 1 moved, 11 kept" in words(out) and len(scored) == 6
    assert_as_if_anew(run, "all.h5", "images", "-S", "512")


@pytest.mark.parametrize("first", [True, False])
def test_a_folder_that_changes_while_a_run_is_interrupted(
    run, folder, scored, interrupted_after, first
):
    """Nothing that was scored is scored again, be it the first run or an update."""
    arguments = ("score", "images", "-o", "all.h5", "-S", "512")
    if not first:
        run(*arguments)
        for i in range(6):
            add(folder, f"0{i}b.png", 50 + i)
    scored.clear()
    for _ in range(2):  # twice, and each time the folder is another when it goes on
        interrupted_after(2)
        assert run(*arguments, "--workers", "0")[0] == 130
        add(folder, f"0a{len(scored)}.png", 80 + len(scored))
    assert len(scored) == 4
    code, out, _ = run(*arguments)
    n = 14 if first else 20
    assert code == 0 and f"{n} of {n} images scored" in out
    assert len(scored) == (14 if first else 8)
    assert_as_if_anew(run, "all.h5", "images", "-S", "512")
    assert not journal_path(Path("all.h5")).exists()


def test_a_killed_update_goes_on_and_ends_with_the_same_file(tmp_path, bundle, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("score", "many.npy", "-S", "32", "--quiet")
    rows = make_images(400)[:, 0]
    np.save("many.npy", rows[:50])
    with start(tmp_path, bundle, *arguments, "-o", "grown.h5") as few:
        assert few.wait() == 0
    np.save("many.npy", rows)
    whole = start(tmp_path, bundle, *arguments, "-o", "whole.h5")
    cut = start(tmp_path, bundle, *arguments, "-o", "grown.h5")
    wait_for_rows(journal_path(Path("grown.h5")), cut, 10_000)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    whole.communicate()
    assert whole.returncode == 0 and len(read_scores(Path("grown.h5"))) == 50
    with start(tmp_path, bundle, *arguments, "-o", "grown.h5") as again:
        assert again.wait() == 0
    with h5py.File("whole.h5") as a, h5py.File("grown.h5") as b:
        for group, names in (("images", IMAGES), ("scores", list(a["scores"]))):
            for name in names:
                assert np.array_equal(a[group][name], b[group][name]), name
        assert {key for key in a.attrs if a.attrs[key] != b.attrs[key]} <= {"created"}


# -- decisions ------------------------------------------------------------------------------------


@pytest.fixture
def own(bundle, tmp_path, monkeypatch) -> Path:
    """A model of the user's own, not calibrated yet; the one that commands take."""
    folder = tmp_path / "own"
    write_bundle(folder, "own", SMALL, make_ladder(gain=1.0), {}, bundle.training_hashes())
    monkeypatch.setenv("HVAEOOD_MODEL", str(folder))
    return folder


@pytest.fixture
def held_out(tmp_path) -> Path:
    """Two hundred nearly black images."""
    folder = tmp_path / "held-out"
    folder.mkdir()
    for i, image in enumerate(make_images(200, seed=1)[:, 0] // 64):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def incoming(tmp_path) -> Path:
    """Twenty images like those held out, and three nearly white."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    for i in range(20):
        add(folder, f"{i:02d}.png", 100 + i)
    for i, image in enumerate(make_images(3, seed=4)[:, 0] // 64):
        Image.fromarray(255 - image).save(folder / f"odd{i}.png")
    return folder


def decided(path: str) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    with h5py.File(path) as file:
        group = file["decision"]
        return dict(group.attrs), {name: group[name][()] for name in group}


def test_decisions_are_made_anew_of_what_is_there(run, own, held_out, incoming):
    run("calibrate", "held-out")
    run("score", "incoming", "-o", "all.h5", "--fdr", "0.2")
    n_flagged = decided("all.h5")[1]["flagged"].sum()
    assert n_flagged >= 3
    (incoming / "odd0.png").unlink()
    add(incoming, "new.png", 130)
    code, out, err = run("score", "incoming", "-o", "all.h5")
    assert (code, err) == (0, "") and "1 new, 1 gone, 22 kept" in words(out)
    run("score", "incoming", "-o", "anew.h5", "--fdr", "0.2", "-q")
    (grown, rows), (anew, of_all) = decided("all.h5"), decided("anew.h5")
    assert grown == anew and grown["rule"] == "fdr" and grown["level"] == 0.2
    for name, values in of_all.items():
        mine = rows[name] if name == "calibration" else rows[name][:23]
        np.testing.assert_array_equal(mine, values, name)
    assert np.isnan(rows["p_combined"][23]) and not rows["flagged"][23] and rows["k"][23] == 0
    for command in (["decide", "all.h5"], ["score", "incoming", "-o", "all.h5"]):
        assert run(*command, "--fpr", "0.05", "-q")[0] == 0
        run("decide", "anew.h5", "--fpr", "0.05", "-q")
        np.testing.assert_array_equal(
            decided("all.h5")[1]["flagged"], [*decided("anew.h5")[1]["flagged"], False]
        )
        run("decide", "all.h5", "--fdr", "0.2", "-q")
    assert run("score", "incoming", "-o", "all.h5", "--fail-on-flagged", "-q")[0] == 1


def test_a_touched_folder_keeps_its_decision(run, own, held_out, incoming):
    run("calibrate", "held-out", "-o", "mine.npz")
    run("score", "incoming", "-o", "all.h5", "--calibration", "mine.npz")
    before = decided("all.h5")
    os.utime(incoming / "00.png", ns=(1, 1))
    code, out, _ = run("score", "incoming", "-o", "all.h5")
    assert code == 0 and "nothing has changed" in out and decided("all.h5")[0] == before[0]


def forget_calibration(file: str) -> None:
    """Make it a file that does not keep the calibration that decided it."""
    with h5py.File(file, "r+") as opened:
        del opened["decision/calibration"]


def test_where_nothing_can_decide_anew_it_is_said(run, own, held_out, incoming):
    run("calibrate", "held-out", "-o", "mine.npz")
    run("score", "incoming", "-o", "all.h5", "--calibration", "mine.npz")
    Path("mine.npz").rename("elsewhere.npz")
    add(incoming, "zero.png", 129)
    code, out, err = run("score", "incoming", "-o", "all.h5")
    assert (code, err) == (0, "") and "flagged at" in out, "the file keeps its calibration"
    Path("elsewhere.npz").rename("mine.npz")
    forget_calibration("all.h5")
    add(incoming, "new.png", 130)
    code, _, err = run("score", "incoming", "-o", "all.h5", "--fail-on-flagged")
    assert code == 3 and "not calibrated" in err
    with h5py.File("all.h5") as file:
        assert len(file["/images/status"]) == 25 and "decision" not in file
    run("score", "incoming", "-o", "all.h5", "--calibration", "mine.npz", "-q")
    forget_calibration("all.h5")
    add(incoming, "newer.png", 131)
    code, _, err = run("score", "incoming", "-o", "all.h5")
    assert code == 0 and "no longer decided" in words(err) and "--calibration FILE" in words(err)
    add(incoming, "newest.png", 132)
    code, out, _ = run("score", "incoming", "-o", "all.h5", "--calibration", "mine.npz")
    assert code == 0 and "1 new, 26 kept" in words(out) and "flagged at FPR 1 %" in words(out)


# -- calibrating ----------------------------------------------------------------------------------


def test_calibrate_leaves_nothing_in_the_way(run, own, held_out):
    assert run("calibrate", "held-out", "-S", "4")[0] == 0
    assert not list(Path().glob("*.h5*"))
    assert run("score", "held-out", "-q")[0] == 0
    (own / "calibration.npz").unlink()
    assert run("calibrate", "held-out", "--scores", "kept.h5", "-q")[0] == 0
    assert len(read_scores(Path("kept.h5"))) == 200
    facts = json.loads(run("calibrate", "held-out", "--json")[1])
    assert facts["scores"] is None and facts["n_images"] == 200


def test_an_interrupted_calibrate_goes_on(run, own, held_out, scored, interrupted_after):
    interrupted_after(3)
    assert run("calibrate", "held-out", "-S", "64", "--workers", "0")[0] == 130
    n = sum(scored)
    assert 0 < n < 200
    assert run("score", "held-out", "-q", "-S", "1")[0] == 0
    scored.clear()
    assert run("calibrate", "held-out", "-S", "64")[0] == 0
    assert sum(scored) == 200 - n
    assert [path.name for path in Path().glob("*.h5*")] == ["held-out.scores.h5"]


def test_scores_that_were_not_used_are_used_the_next_time(run, own, held_out, scored):
    """Another calibration is in the way; with --force it is not."""
    run("calibrate", "held-out", "-S", "2")
    (held_out / "000.png").unlink()
    code, _, err = run("calibrate", "held-out", "-S", "2")
    assert code == 3 and "another calibration" in err
    scored.clear()
    assert run("calibrate", "held-out", "-S", "2", "--force")[0] == 0
    assert not scored and not list(Path().glob("*.h5*"))


def test_training_images_are_found_before_anything_is_scored(run, own, held_out, scored):
    paths = sorted(held_out.iterdir())[:7]
    keys = [short_key(np.asarray(Image.open(path))[None]) for path in paths]
    np.save(own / "training_images.npy", np.sort(np.array(keys, np.uint64)))
    code, _, err = run("calibrate", "held-out", "-S", "2")
    assert code == 3 and "7 of 200 images were in the training set" in words(err)
    assert "--skip-training-images" in words(err) and not scored and not list(Path().glob("*.h5*"))
    both = ("--skip-training-images", "--allow-training-images")
    assert run("calibrate", "held-out", *both)[0] == 2
    code, out, err = run("calibrate", "held-out", "-S", "2", "--skip-training-images")
    assert code == 0 and "7 images that the model was trained on" in words(err)
    assert "193 images" in out and sum(scored) == 193
    run("score", "held-out", "-S", "2", "-o", "s.h5", "-q")
    facts = json.loads(run("calibrate", "s.h5", "-S", "2", both[0], "--json")[1])
    assert facts["n_images"] == 193
    assert run("calibrate", "s.h5", "-S", "2", both[1], "--force", "-q")[0] == 0


def test_gone_images_calibrate_nothing(own, held_out, tmp_path):
    detector = Detector(str(own), n_importance_samples=1)
    out = tmp_path / "s.h5"
    detector.run(detector.manifest(str(held_out))).to_file(out)
    for path in sorted(held_out.iterdir())[:20]:
        path.unlink()
    scores, changed = detector.run(detector.manifest(str(held_out))).to_file(out)
    assert changed and len(scores) == 200
    assert len(detector.calibration_from(scores)) == 180
