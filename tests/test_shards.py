"""Runs that are scored shard by shard, and merged: through the commands."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.model.bundle import write_bundle
from hvaeood_cli.scoring.engines.local import LocalEngine
from hvaeood_cli.store.header import OF_SHARD
from hvaeood_cli.store.journal import Journal, journal_path
from hvaeood_cli.store.parts import in_words
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.shard import Shard
from tests.conftest import SMALL, make_images, make_ladder
from tests.test_tiles import datasets, photos, tiled  # noqa: F401  fixtures

PARTS = Path("images.parts")


def attributes(path: Path | str) -> dict[str, object]:
    """Every attribute of a file, of its groups and of its datasets, but for the time."""
    found: dict[str, object] = {}

    def take(name: str, one: h5py.HLObject) -> None:
        found.update({f"{name}@{key}": value for key, value in one.attrs.items()})

    with h5py.File(path) as file:
        take("", file)
        file.visititems(take)
    del found["@created"]
    return found


def assert_equal(path: Path | str, other: Path | str) -> None:
    """Every dataset of two files is the same to the last bit, and every attribute."""
    a, b = datasets(Path(path)), datasets(Path(other))
    assert a.keys() == b.keys()
    for name, values in a.items():
        assert values.dtype == b[name].dtype, name
        same = list(values) == list(b[name]) if values.dtype == object else None
        assert same or values.tobytes() == b[name].tobytes(), name
    assert attributes(path) == attributes(other)


def score_all(run, n: int, *options: str, codes: tuple[int, ...] = (0,)) -> None:
    for i in range(1, n + 1):
        code, _, err = run("score", "images", "--shard", f"{i}/{n}", *options)
        assert code in codes, err


@pytest.mark.parametrize("n", [1, 4, 12, 30])
def test_merged_shards_are_the_file_of_one_run(run, folder, n):
    """Whatever their number, more than images too; with bad images and odd names among them."""
    (folder / "05.png").write_bytes(b"no image")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(make_images(1).tobytes())
    assert run("score", "images", "-o", "one.h5", "--label", "0")[0] == 4
    score_all(run, n, "--label", "0", codes=(0, 4))
    assert len(list(PARTS.iterdir())) == min(n, 13), "no journal and nothing temporary is left"
    assert read_scores(next(PARTS.iterdir())).header.n_shards == n
    code, out, err = run("merge", PARTS, "-o", "merged.h5")
    assert code == 4 and "11 of 13 images scored" in out, err
    assert_equal("merged.h5", "one.h5")
    assert not {f"@{name}" for name in OF_SHARD} & attributes("merged.h5").keys()


def test_shards_that_begin_within_a_pass_have_the_same_scores(run):
    """In the whole run their images stand at other places of other passes.

    With 5 samples a pass has 64 images, and scores once depended on the place in it.
    """
    np.save("many.npy", make_images(700)[:, 0])
    options = ("-S", "5", "--quiet")
    assert run("score", "many.npy", "-o", "one.h5", *options)[0] == 0
    for i in (1, 2, 3):
        assert run("score", "many.npy", "--shard", f"{i}/3", "-o", "p", *options)[0] == 0
    assert run("merge", "p", "-o", "merged.h5")[0] == 0
    assert_equal("merged.h5", "one.h5")


def test_merged_tiles_are_those_of_one_run(run, tiled, photos):  # noqa: F811
    (photos / "004.png").write_bytes(b"no image")
    assert run("score", "photos", "--model", tiled.folder, "-o", "one.h5")[0] == 4
    for i in (3, 1, 2):
        code = run("score", "photos", "--model", tiled.folder, "--shard", f"{i}/3", "-o", "p")[0]
        assert code in (0, 4)
    assert run("merge", "p", "-o", "merged.h5", "--model", tiled.folder)[0] == 4
    assert_equal("merged.h5", "one.h5")
    shutil.copytree("p", "copies")
    assert run("merge", "p", "copies", "-o", "again.h5", "--model", tiled.folder)[0] == 4
    assert_equal("again.h5", "one.h5")
    copy = next(path for path in Path("copies").iterdir() if "-1-of-3-" in path.name)
    with h5py.File(copy, "r+") as file:
        file["tiles/peak"][3, 1] += 1
    code, _, err = run("merge", "p", "copies", "-o", "wrong.h5", "--model", tiled.folder)
    assert code == 3 and "both of shard 1/3, and do not agree" in err


def test_merge_decides_as_score_would(run, folder, bundle, tmp_path):
    np.save("held-out.npy", make_images(60, seed=9)[:, 0])
    assert run("calibrate", "held-out.npy", "-o", "c.npz")[0] == 0
    decided = ("--calibration", "c.npz", "--fdr", "0.3")
    run("score", "images", "-o", "one.h5", *decided)
    score_all(run, 3)
    code, out, err = run("merge", PARTS, "-o", "merged.h5", *decided)
    assert code == 0 and "flagged at FDR 30 %" in out, err
    assert_equal("merged.h5", "one.h5")
    code, out, _ = run("merge", PARTS, "-o", "merged.h5")
    assert code == 0 and "merged before" in out and "anew" not in out
    assert_equal("merged.h5", "one.h5")
    code, out, _ = run("merge", PARTS, "-o", "merged.h5", "--fpr", "0.5", "--fail-on-flagged")
    assert code == 1 and "merged before; decided anew" in " ".join(out.split())
    run("score", "images", "-o", "one.h5", "--fpr", "0.5")
    assert_equal("merged.h5", "one.h5")


def test_a_part_is_a_score_file_in_which_nothing_is_decided(run, folder):
    score_all(run, 4)
    part = sorted(PARTS.iterdir())[1]
    header = read_scores(part).header
    assert (header.shard, header.n_shards, header.whole_n_images, header.n_images) == (2, 4, 12, 3)
    assert read_scores(part).decision is None
    assert f"-2-of-4-{header.listing_sha256[:8]}.h5" in part.name
    code, out, _ = run("report", part, "--format", "csv")
    assert code == 0 and len(out.splitlines()) == 4
    code, _, err = run("score", "images", "-o", part)
    assert code == 3 and "the shard: 2 there, None here" in err, "it is not grown to the whole"
    for wrong in ("--fpr=0.1", "--fdr=0.1", "--calibration=c.npz", "--json", "--fail-on-flagged"):
        code, _, err = run("score", "images", "--shard", "1/4", wrong)
        assert code == 2 and "not for a shard" in err and "hvaeood merge" in err


def test_a_shard_that_is_done_stands_without_its_model_being_loaded(run, folder, monkeypatch):
    assert run("score", "images", "--shard", "2/4")[0] == 0
    (part,) = PARTS.iterdir()
    before = part.read_bytes(), part.stat().st_ino
    monkeypatch.setattr(LocalEngine, "score", None)
    monkeypatch.setattr("hvaeood_cli.scoring.folds.scorer_of", None)
    code, out, err = run("score", "images", "--shard", "2/4")
    assert code == 0 and not out and "the part stands" in err
    assert (part.read_bytes(), part.stat().st_ino) == before and len(list(PARTS.iterdir())) == 1


def test_a_shard_that_was_killed_goes_on_where_it_was(run, folder, monkeypatch):
    monkeypatch.setattr("hvaeood_cli.scoring.scorer.ROWS_PER_PASS", 16)  # one image a pass
    run("score", "images", "-o", "one.h5")
    score, read = LocalEngine.score, []

    def recorded(self, manifest, start=0):
        for batch in score(self, manifest, start):
            if len(read) == 2:
                raise KeyboardInterrupt
            read.append(len(batch.rows))
            yield batch

    monkeypatch.setattr(LocalEngine, "score", recorded)
    command = ("score", "images", "--shard", "1/2", "--batch-size", "1", "--workers", "0")
    code, _, err = run(*command)
    assert code == 130 and "the same command again" in err and read == [1, 1]
    assert [path.suffix for path in PARTS.iterdir()] == [".journal"], "a part is whole, or not"
    assert run("merge", PARTS, "-o", "merged.h5")[0] == 3
    read.insert(0, 0)  # so that it is not killed again
    assert run(*command)[0] == 0 and read == [0, 1, 1, 1, 1, 1, 1], "four of six were left"
    assert run("score", "images", "--shard", "2/2")[0] == 0
    assert run("merge", PARTS, "-o", "merged.h5")[0] == 0
    assert_equal("merged.h5", "one.h5")


def test_two_jobs_at_once_on_one_shard(run, folder):
    """Either may be refused, and one makes the part; the same command again is always right."""
    command = [sys.executable, "-m", "hvaeood_cli", "score", "images", "--shard", "1/1"]
    jobs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(job.communicate()[1], job.returncode) for job in jobs]
    assert sorted(code for _, code in ended)[0] == 0 and {code for _, code in ended} <= {0, 3}
    assert all("another process" in err and "hint: " in err for err, code in ended if code == 3)
    assert run("score", "images", "--shard", "1/1")[0] == 0
    assert len(list(PARTS.iterdir())) == 1
    assert run("merge", PARTS, "-o", "merged.h5")[0] == 0

    run("score", "images", "--shard", "1/1", "-o", "held")
    (part,) = Path("held").iterdir()
    header = read_scores(part).header
    part.unlink()
    with Journal.open(journal_path(part), header):
        code, _, err = run("score", "images", "--shard", "1/1", "-o", "held")
    assert code == 3 and "another process" in err


@pytest.mark.parametrize("wrong", ["0/4", "5/4", "x", "/", "1/", "-1/4", "1/4/4", "1.5/4", "²/4"])
def test_a_shard_that_is_none_is_a_usage_error(run, folder, wrong):
    code, out, err = run("score", "images", f"--shard={wrong}")
    assert code == 2 and not out and "error: " in err and "hint: " in err
    assert "such as 3/64" in " ".join(err.split())
    assert not PARTS.exists()


def test_more_shards_than_images(run, folder):
    code, _, err = run("score", "images", "--shard", "1/30", "-o", "p")
    assert code == 0 and "shard 1/30 of 12 images has none" in err and not Path("p").exists()


@pytest.mark.parametrize(("n_images", "n"), [(1, 1), (12, 5), (5, 12), (10**9, 64), (7, 7)])
def test_shards_are_consecutive_and_differ_by_an_image_at_most(n_images, n):
    places = [Shard(i, n).places(n_images) for i in range(1, n + 1)]
    assert places[0].start == 0 and places[-1].stop == n_images
    assert all(a.stop == b.start for a, b in itertools.pairwise(places))
    assert max(map(len, places)) - min(map(len, places)) <= 1


def test_missing_parts_are_named(run, folder):
    score_all(run, 12)
    for part in PARTS.iterdir():
        if part.name.split("-")[1] in ("03", "07", "08", "09", "12"):
            part.unlink()
    code, out, err = run("merge", PARTS, "-o", "merged.h5")
    assert code == 3 and not out and not Path("merged.h5").exists()
    assert "error: missing: 3, 7–9, 12 of 12 shards" in err
    assert "hint: run: hvaeood score SOURCE --shard 3/12 -o images.parts" in err
    assert in_words([1]) == "1" and in_words([1, 2, 3, 5]) == "1–3, 5"


def test_parts_of_another_run_are_refused_and_named(run, folder, tmp_path):
    """Of another model, seed, listing or number of shards, even where all are there."""
    score_all(run, 2)
    other = tmp_path / "other"
    write_bundle(other, "other", SMALL, make_ladder(seed=1), {}, np.arange(5, dtype=np.uint64))
    for options, words in {
        ("1/2", "--model", other): "the model: small (",
        ("1/2", "--seed", "1"): "the seed: 0 there, 1 here",
        ("1/3",): "the number of shards: 2 there, 3 here",
        ("1/2", "--label", "1"): "the label: None there, 1 here",
    }.items():
        before = {path: path.read_bytes() for path in PARTS.iterdir()}
        assert run("score", "images", "--shard", *options)[0] == 0
        (new,) = set(PARTS.iterdir()) - before.keys()
        assert all(path.read_bytes() == content for path, content in before.items()), "untouched"
        code, out, err = run("merge", PARTS, "-o", "merged.h5")
        assert code == 3 and f"error: {new} is of another run than" in err and words in err
        assert "hint: " in err and not out and not Path("merged.h5").exists()
        new.unlink()
    Image.fromarray(make_images(1)[0, 0]).save(folder / "new.png")
    assert run("score", "images", "--shard", "1/2")[0] == 0
    code, _, err = run("merge", PARTS, "-o", "merged.h5")
    assert code == 3 and "the number of images of all shards: 12 there, 13 here" in err


def test_a_damaged_part_and_what_is_no_part(run, folder):
    score_all(run, 2)
    part = sorted(PARTS.iterdir())[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-100])
    code, _, err = run("merge", PARTS, "-o", "merged.h5")
    assert code == 3 and f"error: {part}" in err and f"hint: remove {part}" in err
    code, _, err = run("score", "images", "--shard", "1/2")
    assert code == 3 and f"error: {part}" in err and part.read_bytes() == whole[:-100]
    assert run("score", "images", "--shard", "1/2", "--force")[0] == 0
    assert run("merge", PARTS, "-o", PARTS / "merged.h5")[0] == 0
    assert run("merge", PARTS, "-o", PARTS / "merged.h5")[0] == 0, "it is no part of itself"
    code, _, err = run("merge", PARTS, "-o", "merged.h5")
    assert code == 3 and "merged.h5 is a score file of its own, and no part" in err
    (PARTS / "merged.h5").unlink()
    with h5py.File(part, "r+") as file:
        file.attrs["n_shards"] = 5
    code, _, err = run("merge", PARTS, "-o", "merged.h5")
    assert code == 3 and "shard 1/5 of 12 images does not have 6" in err
    Path("empty").mkdir()
    for source, words in {"empty": "empty holds no part", "none": "no such file or folder"}.items():
        code, _, err = run("merge", source, "-o", "merged.h5")
        assert code == 3 and words in err and "hint: " in err
    assert not Path("merged.h5").exists()


def test_what_is_there_already_is_not_replaced(run, folder):
    score_all(run, 2)
    assert run("score", "images", "--seed", "3", "-o", "there.h5")[0] == 0
    before = Path("there.h5").read_bytes()
    code, _, err = run("merge", PARTS, "-o", "there.h5")
    assert code == 3 and "the seed: 3 there, 0 here" in err and "--force" in err
    assert Path("there.h5").read_bytes() == before
    assert run("merge", PARTS, "-o", "there.h5", "--force")[0] == 0
    assert run("score", "images", "-o", "one.h5")[0] == 0
    assert_equal("there.h5", "one.h5")
    code, out, _ = run("score", "images", "-o", "there.h5")
    assert code == 0 and "nothing has changed since" in out, "and score goes on with it"
    Path("file").touch()
    code, _, err = run("score", "images", "--shard", "1/2", "-o", "file")
    assert code == 2 and "file is no folder" in err and "name a folder" in err
