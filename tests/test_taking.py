"""Flagged images taken to a folder and put back: nothing is overwritten, lost, or led astray."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.errors import StoreError, UsageError
from hvaeood_cli.model.bundle import write_bundle
from hvaeood_cli.taking import places, record, transfer
from hvaeood_cli.taking.take import How, take
from hvaeood_cli.taking.undo import put_back
from tests.conftest import SMALL, make_images, make_ladder
from tests.score_files import make_scores


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(make_images(1, seed=seed)[0, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def scored(path: Path, contents: dict[bytes, bytes]):
    """A score file of images of these names that had these bytes when they were scored."""
    scores = make_scores(path, n=len(contents), names=list(contents))
    hashes = [hashlib.sha256(data).digest() for data in contents.values()]
    scores.columns["sha256"][:] = [list(digest) for digest in hashes]
    return scores


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/a/1.png, photos/b/1.png and photos/2.png, and a score file of them."""
    monkeypatch.chdir(tmp_path)
    contents = {
        b"photos/%s" % name: png(i) for i, name in enumerate([b"2.png", b"a/1.png", b"b/1.png"])
    }
    for i, (name, data) in enumerate(contents.items()):
        path = Path(os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(10**18, 10**18 + i))
    return scored(tmp_path / "photos.h5", contents)


def tree(folder: Path | str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def images(folder: Path | str) -> dict[str, bytes]:
    """What is in a folder but for its record, and for what a kill may leave."""
    found = tree(folder).items()
    return {name: data for name, data in found if name != record.NAME and not name.endswith(".tmp")}


WAYS = pytest.mark.parametrize("how", How, ids=lambda how: how.value)


# -- what is taken --------------------------------------------------------------------------------


@WAYS
def test_sub_folders_are_kept_and_a_second_run_changes_nothing(photos, how):
    before = tree("photos")
    outcome = take(photos, [0, 1, 2], Path("odd"), how)
    assert len(outcome.taken) == 3 and not outcome.left
    assert images("odd") == before, "the same bytes at the same places"
    assert tree("photos") == ({} if how is How.MOVE else before)
    assert Path("odd/b/1.png").stat().st_mtime_ns == 10**18 + 2
    assert Path("odd/2.png").is_symlink() == (how is How.LINK)
    after = tree(".")
    outcome = take(photos, [0, 1, 2], Path("odd"), how)
    assert (outcome.taken, outcome.n_there, outcome.left) == ([], 3, []) and tree(".") == after


@WAYS
def test_places_do_not_depend_on_what_is_flagged(photos, how):
    take(photos, [1], Path("odd"), how)
    assert set(images("odd")) == {"a/1.png"}


@WAYS
def test_nothing_is_overwritten(photos, how):
    Path("odd").mkdir()
    Path("odd/2-3.png").symlink_to("/nowhere")
    Path("odd/2.png").write_bytes(b"years of work")
    Path("odd/2-2.png").mkdir()
    take(photos, [0], Path("odd"), how)
    assert Path("odd/2.png").read_bytes() == b"years of work"
    assert Path("odd/2-4.png").read_bytes() == png(0)


@WAYS
def test_one_that_appears_in_between_is_not_overwritten(photos, how, monkeypatch):
    lexists = os.path.lexists
    monkeypatch.setattr(
        os.path, "lexists", lambda path: Path(path) != Path("odd/2.png") and lexists(path)
    )
    Path("odd").mkdir()
    Path("odd/2.png").write_bytes(b"years of work")
    outcome = take(photos, [0], Path("odd"), how)
    assert outcome.taken == [(Path("photos/2.png"), Path("odd/2-2.png"))]
    assert Path("odd/2.png").read_bytes() == b"years of work"


@WAYS
def test_what_is_not_what_was_scored_is_left(photos, how):
    Path("photos/2.png").write_bytes(png(7))
    Path("photos/a/1.png").unlink()
    outcome = take(photos, [0, 1, 2], Path("odd"), how)
    assert [target for _, target in outcome.taken] == [Path("odd/b/1.png")]
    assert outcome.left == [
        ("photos/2.png", "changed since it was scored"),
        ("photos/a/1.png", "no such file"),
    ]
    assert Path("photos/2.png").read_bytes() == png(7)


def test_permissions_are_kept(photos):
    Path("photos/2.png").chmod(0o600)
    take(photos, [0], Path("odd"), How.COPY)
    assert Path("odd/2.png").stat().st_mode & 0o777 == 0o600


@WAYS
def test_an_image_of_several_names_is_taken_once(tmp_path, photos, how):
    scores = scored(tmp_path / "twice.h5", {b"photos/2.png": png(0), b"./photos/2.png": png(0)})
    outcome = take(scores, [0, 1], Path("odd"), how)
    assert len(outcome.taken) == 1 and not outcome.left and len(images("odd")) == 1


@WAYS
def test_paths_are_tried_from_here_then_from_the_score_file(photos, tmp_path, monkeypatch, how):
    other = tmp_path / "elsewhere"
    (other / "photos").mkdir(parents=True)
    (other / "photos" / "2.png").write_bytes(b"not what was scored")
    monkeypatch.chdir(other)
    outcome = take(photos, [0], Path("odd"), how)
    assert [source for source, _ in outcome.taken] == [tmp_path / "photos" / "2.png"]
    assert Path("odd/2.png").read_bytes() == png(0)
    assert (other / "photos" / "2.png").read_bytes() == b"not what was scored"
    assert take(photos, [0], Path("odd"), how).n_there == 1


def test_rows_of_arrays_are_copied_as_png_and_moved_or_linked_never(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = make_images(3)[:, 0]
    np.save("x.npy", pixels)
    names = {b"x.npy#%d" % i: image.tobytes() for i, image in enumerate(pixels)}
    scores = scored(tmp_path / "x.h5", names)
    for how in (How.MOVE, How.LINK):
        assert take(scores, [0, 2], Path("odd"), how).n_inside == 2
    assert tree("odd") == {}
    for n_there in (0, 2):
        assert take(scores, [0, 2], Path("odd"), How.COPY).n_there == n_there
        assert set(tree("odd")) == {"x.npy-0.png", "x.npy-2.png"}
    assert (np.asarray(Image.open("odd/x.npy-2.png")) == pixels[2]).all()
    np.save("x.npy", pixels[::-1])
    assert take(scores, [0], Path("other"), How.COPY).left[0][1] == "changed since it was scored"


def test_images_in_an_archive_are_copied_as_they_are_and_moved_or_linked_never(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("a/1.png", png(1))
        archive.writestr("../2.png", png(2))
    scores = scored(tmp_path / "x.h5", {b"x.zip/a/1.png": png(1), b"x.zip/../2.png": png(2)})
    for how in (How.MOVE, How.LINK):
        assert take(scores, [0, 1], Path("odd"), how).n_inside == 2
    for n_there in (0, 2):
        assert take(scores, [0, 1], Path("odd"), How.COPY).n_there == n_there
        assert sorted(tree("odd").values()) == sorted([png(1), png(2)])
    assert not Path("../2.png").exists() and not Path("2.png").exists()
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("a/1.png", png(3))
    reasons = [why for _, why in take(scores, [0, 1], Path("other"), How.COPY).left]
    assert reasons[0] == "changed since it was scored" and reasons[1].startswith("it is not in ")


# -- hostile score files --------------------------------------------------------------------------


@WAYS
def test_hostile_names_lead_nowhere(tmp_path, monkeypatch, how):
    home = tmp_path / "home" / "me"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(0))
    os.mkfifo("pipe.png")
    Path("folder.png").mkdir()
    Path("loop.png").symlink_to("loop.png")
    names = [
        b"../../secret.png",
        os.fsencode(outside),
        b"a\0b.png",
        b"pipe.png",
        b"folder.png",
        b"loop.png",
        b"/dev/zero",
        b"/dev/stdin",
        b"..",
        b"/",
        b".",
        b"x/../..",
        b"nul.npy#0",
        b"a" * 5000,
        b"caf\xe9.png",
        record.NAME.encode(),
    ]
    Path(os.fsdecode(b"caf\xe9.png")).write_bytes(png(0))
    Path(record.NAME).write_bytes(png(0))
    scores = scored(tmp_path / "s.h5", dict.fromkeys(names, png(0)))
    before = set(tmp_path.rglob("*"))
    outcome = take(scores, range(len(names)), Path("odd"), how)
    odd = home / "odd"
    new = set(tmp_path.rglob("*")) - before
    assert new and all(path == odd or odd in path.parents for path in new), "written in DIR alone"
    assert set(images("odd").values()) == {png(0)}
    assert {name for name, _ in outcome.left} >= {"pipe.png", "folder.png", "/dev/zero", "/", ".."}
    kept = Path("odd", record.NAME)
    assert not kept.exists() or kept.read_bytes()[:1] == b"{", "no image poses as the record"


@WAYS
def test_a_link_to_a_folder_in_the_way_leads_nowhere(photos, tmp_path, how):
    (tmp_path / "elsewhere").mkdir()
    Path("odd").mkdir()
    Path("odd/a").symlink_to(tmp_path / "elsewhere")
    Path("odd/b").write_text("a file")
    outcome = take(photos, [0, 1, 2], Path("odd"), how)
    assert [name for name, _ in outcome.left] == ["photos/a/1.png", "photos/b/1.png"]
    assert not list((tmp_path / "elsewhere").iterdir()) and Path("photos/a/1.png").exists()


def test_a_record_that_is_a_link_is_refused(photos):
    Path("odd").mkdir()
    Path("odd", record.NAME).symlink_to("../victim")
    with pytest.raises(StoreError, match="no regular file"):
        take(photos, [0], Path("odd"), How.MOVE)
    assert not Path("victim").exists()


def test_links_are_followed_by_a_copy_and_not_moved(photos):
    Path("photos/2.png").rename("photos/real.png")
    Path("photos/2.png").symlink_to("real.png")
    assert take(photos, [0], Path("odd"), How.MOVE).left[0][1].startswith("a link")
    take(photos, [0], Path("odd"), How.COPY)
    assert Path("odd/2.png").read_bytes() == png(0) and not Path("odd/2.png").is_symlink()


# -- moves, and back ------------------------------------------------------------------------------


@pytest.fixture(params=["one file system", "two", "no hard links"])
def disks(request, monkeypatch):
    """Moves within a file system, and where the system cannot link."""
    if request.param == "one file system":
        return
    link = os.link
    code = errno.EXDEV if request.param == "two" else errno.EPERM

    def refuse(source, target, **options):
        if request.param == "two" and Path(source).suffix == ".tmp":
            return link(source, target, **options)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)


def test_moved_and_put_back(photos, disks):
    before = tree("photos")
    times = {name: Path("photos", name).stat().st_mtime_ns for name in before}
    take(photos, [0, 1, 2], Path("odd"), How.MOVE)
    assert tree("photos") == {} and images("odd") == before
    outcome = put_back(Path("odd"))
    assert len(outcome.taken) == 3 and not outcome.left
    assert tree("photos") == before and not list(Path("odd").rglob("*"))
    assert {name: Path("photos", name).stat().st_mtime_ns for name in before} == times
    with pytest.raises(StoreError, match="nothing is there that was moved"):
        put_back(Path("odd"))


def test_what_cannot_go_back_stays_and_is_named(photos):
    take(photos, [0, 1, 2], Path("odd"), How.MOVE)
    Path("photos/2.png").write_bytes(b"new work")
    Path("odd/a/1.png").write_bytes(b"edited")
    outcome = put_back(Path("odd"))
    assert [target for _, target in outcome.taken] == [Path("photos/b/1.png").absolute()]
    assert {name: why.split(",")[0] for name, why in outcome.left} == {
        "2.png": "something else is now in its place",
        "a/1.png": "changed since it was moved",
    }
    assert images("odd") == {"2.png": png(0), "a/1.png": b"edited"}
    assert Path("photos/2.png").read_bytes() == b"new work"
    Path("photos/2.png").unlink()
    Path("odd/a/1.png").write_bytes(png(1))
    assert not put_back(Path("odd")).left
    assert not list(Path("odd").rglob("*")) and len(tree("photos")) == 3


def test_a_folder_that_is_renamed_or_gone_is_no_obstacle(photos):
    before = tree("photos")
    take(photos, [0, 1, 2], Path("odd"), How.MOVE)
    shutil.rmtree("photos")
    Path("odd").rename("strange")
    assert not put_back(Path("strange")).left and tree("photos") == before


def test_images_that_lie_in_the_folder_already_stay(photos):
    before = tree("photos")
    for how in How:
        outcome = take(photos, [0, 1, 2], Path("photos"), how)
        assert outcome.n_there == 3 and tree("photos") == before


def test_a_copy_that_is_there_is_what_a_move_leaves(photos):
    take(photos, [0], Path("odd"), How.COPY)
    assert take(photos, [0], Path("odd"), How.MOVE).n_there == 1
    assert not Path("photos/2.png").exists() and set(images("odd")) == {"2.png"}
    put_back(Path("odd"))
    assert Path("photos/2.png").read_bytes() == png(0)


def test_equal_images_of_two_folders_both_go_back(photos, tmp_path):
    shutil.copytree("photos", "others")
    others = scored(tmp_path / "o.h5", {b"others/2.png": png(0), b"others/a/1.png": png(1)})
    take(photos, [0], Path("odd"), How.MOVE)
    take(others, [0], Path("odd"), How.MOVE)
    assert set(images("odd")) == {"2.png", "2-2.png"}
    put_back(Path("odd"))
    assert Path("photos/2.png").exists() and Path("others/2.png").exists()


def test_a_torn_record_loses_nothing(photos):
    take(photos, [0], Path("odd"), How.MOVE)
    with Path("odd", record.NAME).open("ab") as file:
        file.write(b'{"version": 1, "from": "/x')
    take(photos, [1], Path("odd"), How.MOVE)
    assert not put_back(Path("odd")).left and len(tree("photos")) == 3


@pytest.mark.parametrize(
    "line",
    [
        {"from": "relative.png", "to": "2.png"},
        {"from": "/tmp/../x.png", "to": "2.png"},
        {"from": "OUT/x.png", "to": "../secret.png"},
        {"from": "OUT/x.png", "to": "OUT/secret.png"},
        {"from": "OUT/x.png", "to": "link/secret.png"},
        {"from": "OUT/x\0.png", "to": "2.png"},
        {"from": 3, "to": None},
        [],
        "x",
    ],
)
def test_a_hostile_record_takes_nothing_out_of_elsewhere(photos, tmp_path, line):
    sha256 = hashlib.sha256(png(0)).hexdigest()
    (tmp_path / "secret.png").write_bytes(png(0))
    Path("odd").mkdir()
    Path("odd/link").symlink_to(tmp_path)
    text = json.dumps(line | {"version": 1, "sha256": sha256} if isinstance(line, dict) else line)
    Path("odd", record.NAME).write_text(text.replace("OUT", str(tmp_path)) + "\n")
    before = set(tmp_path.rglob("*")) - {tmp_path / "odd" / record.NAME}
    put_back(Path("odd"))
    assert set(tmp_path.rglob("*")) - {tmp_path / "odd" / record.NAME} == before


def test_two_at_once_take_turns(photos):
    Path("odd").mkdir()
    with (
        record.MoveRecord.opened(Path("odd"), to_change=True),
        pytest.raises(StoreError, match="another process"),
    ):
        take(photos, [0], Path("odd"), How.MOVE)
    assert Path("photos/2.png").exists()


# -- interruptions --------------------------------------------------------------------------------


class Stop:
    """Stands for a function, and ends the program before or after its call of that number."""

    def __init__(self, function, number: int, after: bool) -> None:
        self.function, self.left, self.after = function, number, after

    def __get__(self, instance, owner=None):
        return partial(self, instance) if instance is not None else self

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == -1 and not self.after:
            raise KeyboardInterrupt
        result = self.function(*arguments, **options)
        if self.left == -1:
            raise KeyboardInterrupt
        return result


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    "step", ["os.link", "os.fsync", "os.write", "os.utime", "Path.unlink", "Path.write_bytes"]
)
def test_stopped_anywhere_it_goes_on_and_loses_nothing(
    photos, disks, monkeypatch, step, number, after
):
    """At any call that changes a disk, of a move and of putting back."""
    where, name = (os if step.startswith("os.") else Path), step.partition(".")[2]
    before, moved = tree("photos"), {}

    def move():
        return take(photos, [0, 1, 2], Path("odd"), How.MOVE)

    def undo():
        return put_back(Path("odd"))

    for act, at_first, at_last in ((move, before, moved), (undo, moved, before)):
        assert images("photos") == at_first
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(where, name, Stop(getattr(where, name), number, after))
            act()
        everywhere = {*images("photos").values(), *images("odd").values()}
        assert everywhere >= set(before.values()), "each image is whole somewhere"
        if act is move or Path("odd", record.NAME).exists():
            assert not act().left
        assert images("photos") == at_last
    assert not images("odd")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@WAYS
def test_a_disk_that_is_full_is_an_error_and_loses_nothing(photos, monkeypatch, how, code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    before = tree("photos")
    with monkeypatch.context() as patch:
        patch.setattr(transfer, {How.COPY: "copy", How.LINK: "link", How.MOVE: "move"}[how], fail)
        with pytest.raises(StoreError, match="cannot write odd") as caught:
            take(photos, [0, 1, 2], Path("odd"), how)
    assert "goes on" in caught.value.hint and tree("photos") == before
    assert len(take(photos, [0, 1, 2], Path("odd"), how).taken) == 3


def test_folders_that_cannot_be(photos):
    Path("file").write_text("x")
    for folder in (Path("file"), Path("none/such")):
        with pytest.raises(UsageError):
            take(photos, [0], folder, How.COPY)


def test_names_that_are_too_long_for_a_number_are_shortened():
    path = Path("é" * 125 + ".png")
    found = [one.name for one, _ in zip(places.numbered(path), range(3), strict=False)]
    assert found[0] == path.name and found[2].endswith("-3.png")
    assert all(len(os.fsencode(name)) <= 255 for name in found)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def decided(run, bundle, tmp_path, monkeypatch):
    """mixed/: twenty nearly black images that belong, and odd/0.png to odd/2.png, nearly white."""
    folder = tmp_path / "own"
    write_bundle(folder, "own", SMALL, make_ladder(gain=1.0), {}, bundle.training_hashes())
    monkeypatch.setenv("HVAEOOD_MODEL", str(folder))
    np.save("held-out.npy", make_images(200, seed=1)[:, 0] // 64)
    Path("mixed/odd").mkdir(parents=True)
    for i, image in enumerate(make_images(20, seed=2) // 64):
        Image.fromarray(image[0]).save(f"mixed/{i:02d}.png")
    for i, image in enumerate(make_images(3, seed=4) // 64):
        Image.fromarray(255 - image[0]).save(f"mixed/odd/{i}.png")
    assert run("calibrate", "held-out.npy", "--quiet")[0] == 0
    assert run("score", "mixed", "--fpr", "0.008", "--quiet")[0] == 0
    return run


ODD = {"odd/0.png", "odd/1.png", "odd/2.png"}
FILE = "mixed.scores.h5"


def level() -> float:
    with h5py.File(FILE) as file:
        return file["decision"].attrs["level"]


def test_copy_move_and_undo_through_the_command(decided, tmp_path):
    before = tree("mixed")
    code, out, err = decided("decide", FILE, "--copy-to", "out")
    assert code == 0 and "3 flagged" in out and err == "copied 3 images to out\n"
    assert set(tree("out")) == ODD and tree("mixed") == before
    code, _, err = decided("decide", FILE, "--copy-to", "out")
    assert code == 0 and err == "copied 0 images to out; 3 there already\n"
    code, _, err = decided("decide", FILE, "--move-to", "moved")
    assert code == 0 and err.splitlines() == [
        "moved 3 images to moved",
        "hvaeood decide --undo-move moved undoes it",
    ]
    assert not ODD & set(tree("mixed")) and set(images("moved")) == ODD
    assert decided("decide", FILE, "--move-to", "moved")[0] == 0
    code, _, err = decided("decide", FILE, "--copy-to", "third")
    assert code == 4 and "warning: 3 images not taken:\n  mixed/odd/0.png: no such file" in err
    code, out, err = decided("decide", "--undo-move", "moved")
    assert (code, out, err) == (0, "", "put back 3 images from moved\n") and tree("mixed") == before
    code, _, err = decided("decide", "--undo-move", "moved")
    assert code == 3 and "nothing is there that was moved" in err
    code, _, err = decided("decide", FILE, "--link-to", "links", "--json")
    assert code == 0 and Path("links/odd/0.png").is_symlink()


def test_what_is_flagged_after_the_command_is_taken(decided):
    assert decided("decide", FILE, "--fpr", "0.99", "--copy-to", "out", "-q")[::2] == (0, "")
    assert len(tree("out")) > 3 and level() == 0.99


def test_a_dry_run_writes_nothing(decided, tmp_path):
    before, decision = tree(tmp_path), level()
    code, out, err = decided("decide", FILE, "--fpr", "0.5", "--move-to", "out", "--dry-run")
    assert code == 0 and "mixed/odd/0.png -> out/odd/0.png\n" in out and "would move " in err
    code, out, err = decided("decide", FILE, "--fpr", "0.5", "--copy-to", "out", "--dry-run", "-q")
    assert code == 0 and "mixed/odd/0.png -> out/odd/0.png\n" in out and not err
    code, out, err = decided("decide", FILE, "--fpr", "0.5", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["decision"]["level"] == 0.5
    assert tree(tmp_path) == before and level() == decision and not Path("out").exists()
    decided("decide", FILE, "--move-to", "out")
    before = tree(tmp_path)
    code, out, err = decided("decide", "--undo-move", "out", "--dry-run")
    assert code == 0 and out.count(" -> ") == 3 and err == "would put back 3 images from out\n"
    assert tree(tmp_path) == before


def test_images_that_changed_are_named_and_the_rest_is_taken(decided):
    Path("mixed/odd/1.png").write_bytes(png(9))
    code, _, err = decided("decide", FILE, "--move-to", "out", "--fail-on-flagged")
    assert code == 4 and set(images("out")) == ODD - {"odd/1.png"}
    assert "1 image not taken:\n  mixed/odd/1.png: changed since it was scored" in err
    Path("mixed/odd/0.png").write_bytes(b"new work")
    code, _, err = decided("decide", "--undo-move", "out")
    assert code == 4 and "1 image cannot go back:\n  odd/0.png: something else" in err


def test_rows_of_an_array_are_left_with_a_hint(decided):
    np.save("white.npy", 255 - make_images(4, seed=4)[:, 0] // 64)
    decided("score", "white.npy", "--quiet")
    code, _, err = decided("decide", "white.npy.scores.h5", "--move-to", "out")
    assert code == 0 and "images in arrays, data sets or archives left there: --copy-to" in err
    assert decided("decide", "white.npy.scores.h5", "--copy-to", "out")[0] == 0
    assert "white.npy-0.png" in tree("out")


def test_flagged_copies_are_counted_as_what_they_are(decided):
    shutil.copy("mixed/odd/1.png", "mixed/odd/9.png")
    code, out, _ = decided("score", "mixed", "--fpr", "0.008", "--force")
    assert code == 0 and "4 flagged (3 different images) at FPR 0.8 %" in out
    assert "mixed/odd/1.png (2 copies)" in out and "9.png" not in out
    decided("decide", FILE, "--copy-to", "out")
    assert len(tree("out")) == 4, "copies are taken like any other"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--copy-to", "a", "--move-to", "b"], 2, "--copy-to and --move-to exclude one another"),
        (["--copy-to", "held-out.npy"], 2, "held-out.npy is no folder"),
        (["--copy-to", "none/such"], 2, "no such folder: none"),
        (["--undo-move", "mixed"], 2, "hvaeood decide --undo-move mixed"),
    ],
)
def test_what_cannot_be_asked_for(decided, arguments, code, words):
    found, _, err = decided("decide", FILE, *arguments)
    assert found == code and words in " ".join(err.split()) and "hint: " in err


def test_without_a_file(run):
    code, _, err = run("decide")
    assert code == 2 and "no score file was named" in err
    code, _, err = run("decide", "--undo-move", "none")
    assert code == 3 and "hint: " in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(decided):
    Path("out").mkdir(mode=0o500)
    code, _, err = decided("decide", FILE, "--move-to", "out")
    assert code == 3 and "cannot write out: Permission denied" in err and "hint: " in err


def test_an_interruption_is_said(decided, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "copy", Stop(transfer.copy, 1, after=False))
        code, _, err = decided("decide", FILE, "--copy-to", "out")
    assert code == 130 and "interrupted" in err and "run the same command again" in err
    assert decided("decide", FILE, "--copy-to", "out")[2].startswith("copied 2 images")
