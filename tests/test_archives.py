"""Zip and tar files as sources: the same scores as the folder, and no trust in what is in them."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.archives import open_archive
from hvaeood_cli.images.members import FAULTS, Members
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.user_cache import entries
from tests.conftest import make_images


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(make_images(12)):
        Image.fromarray(image[0]).save(folder / f"{i:02}.png")
    return folder


def png(shade: int = 200) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return file.getvalue()


def pack(folder: Path, archive: Path) -> Path:
    files = sorted(folder.iterdir())
    if archive.suffix == ".tar":
        with tarfile.open(archive, "w") as tar:
            for path in files:
                tar.add(path, path.name)
    else:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.name)
    return archive


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_an_archive_has_the_scores_of_its_folder(run, photos, tmp_path, ending):
    archive = pack(photos, tmp_path / f"photos.{ending}")
    assert run("score", photos, "-o", "folder.h5")[0] == 0
    assert run("score", archive.name, "-o", "archive.h5")[0] == 0
    with h5py.File(tmp_path / "folder.h5") as of_folder, h5py.File("archive.h5") as of_archive:
        for name in ("lower_bound", "llr", "kl"):
            np.testing.assert_array_equal(of_folder[f"scores/{name}"], of_archive[f"scores/{name}"])
        names = [name.decode() for name in of_archive["images/path"]]
    assert names == [f"{archive.name}/{path.name}" for path in sorted(photos.iterdir())]
    code, out, _ = run("score", archive.name, "-o", "archive.h5", "--json")
    assert code == 0 and len(json.loads(out)["images"]) == 12, "a finished run stays as it is"


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_workbench_or_report_finds_an_image_in_an_archive_by_its_name(photos, tmp_path, ending):
    archive = pack(photos, tmp_path / f"photos.{ending}")
    last = sorted(photos.iterdir())[-1]
    beside = ImageReader(beside=tmp_path / "x.h5")
    for reader, name in ((ImageReader(), os.fsencode(archive)), (beside, archive.name.encode())):
        found = reader.read(name + b"/" + last.name.encode())
        np.testing.assert_array_equal(found.pixels, np.asarray(Image.open(last)))
    with pytest.raises(ImageError, match="is not in"):
        ImageReader().read(os.fsencode(archive) + b"/other.png")


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_another_process_reads_the_archive_too(photos, tmp_path, ending):
    manifest = open_sources([str(pack(photos, tmp_path / f"photos.{ending}"))])
    sha256 = manifest.read(3)[1]
    sent = ForkingPickler.loads(ForkingPickler.dumps(manifest))  # as `find` sends it
    assert sent.read(3)[1] == sha256


def test_names_in_an_archive_are_names_and_links_are_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    link, hard = tarfile.TarInfo("link.png"), tarfile.TarInfo("hard.png")
    link.type, link.linkname = tarfile.SYMTYPE, "../secret.png"
    hard.type, hard.linkname = tarfile.LNKTYPE, "secret.png"
    outside = tarfile.TarInfo("../../outside.png")
    path = tar_of(tmp_path / "x.tar", (outside, png()), (link, b""), (hard, b""))
    manifest = open_sources([str(path)])
    assert manifest.name(0) == os.fsencode(path) + b"/../../outside.png"
    assert manifest.read(0)[0].pixels.shape == (8, 8)
    for i in (1, 2):
        with pytest.raises(ImageError, match="link") as caught:
            manifest.read(i)
        assert caught.value.code == "unreadable"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "../secret.png")
    with pytest.raises(ImageError, match="link"):
        open_sources([str(tmp_path / "x.zip")]).read(0)


def test_of_two_files_of_one_name_the_later_counts(tmp_path):
    path = tar_of(
        tmp_path / "x.tar",
        (tarfile.TarInfo("a.png"), png(10)),
        (tarfile.TarInfo("b.png"), png(20)),
        (tarfile.TarInfo("a.png"), png(30)),
    )
    manifest = open_sources([str(path)])
    with pytest.raises(ImageError, match="a later file"):
        manifest.read(0)
    assert manifest.read(2)[0].pixels[0, 0] == 30
    assert ImageReader().read(os.fsencode(path) + b"/a.png").pixels[0, 0] == 30


def test_a_bomb_in_an_archive_is_a_row_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("hvaeood_cli.images.archives.MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(3 << 20))
        archive.writestr("liar.png", bytes(3 << 20))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    at = data.rindex(b"PK\1\2")  # the second entry of the directory says that it is small
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(data)
    manifest = open_sources([str(tmp_path / "x.zip")])
    codes = []
    for i in range(2):
        with pytest.raises(ImageError) as caught:
            manifest.read(i)
        codes.append(caught.value.code)
    assert codes == ["too_large", "damaged"]


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_name_that_no_score_file_can_hold_is_refused_before_anything_is_scored(
    run, tmp_path, ending
):
    """All names are kept at the length of the longest: one of 60 kB among thousands is a bomb."""
    path = tmp_path / f"x.{ending}"
    names = ["usual.png", "d/" * 29_000 + "end.png"]
    if ending == "tar":
        tar_of(path, *((tarfile.TarInfo(name), png()) for name in names))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, png())
    code, _, err = run("score", path, "-q")
    flat = " ".join(err.split())
    assert code == 3 and f"has {len(str(path)) + 1 + 58_007:,} bytes" in flat, err
    assert "end.png" in flat and "rename that image" in flat
    assert not list(tmp_path.glob("*.h5*"))


def test_how_long_a_name_may_be_depends_on_how_many_there_are():
    few, many = ([b"%05d.png" % i for i in range(n)] for n in (1_000, 70_000))
    assert len(open_sources(["-"], [*few, b"x" * 4096])) == 1_001
    assert len(open_sources(["-"], [*many, b"x" * 1024])) == 70_001
    for paths in ([*few, b"x" * 4097], [*many, b"x" * 1025]):
        with pytest.raises(SourceError, match="none may have more"):
            open_sources(["-"], paths)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:1024] + b"\xff" * 512 + data[1536:],
        lambda data: b"",
        lambda data: b"no archive" * 200,
    ],
)
@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_an_archive_that_is_not_whole_is_refused(run, photos, tmp_path, harm, ending):
    archive = pack(photos, tmp_path / f"photos.{ending}")
    data = archive.read_bytes()
    if ending == "zip":
        data = data[:-60]  # without the end of its directory
    archive.write_bytes(harm(data))
    code, out, err = run("score", archive.name, "-o", "x.h5")
    assert code == 3 and not out and err.startswith(f"error: cannot read {archive.name}: ")
    assert "hint: " in err and not Path("x.h5").exists()


def test_what_holds_no_images_or_cannot_be_read_in_place_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(SourceError, match=r"no images in .*x\.zip \(1 other files\)"):
        open_archive(str(tmp_path / "x.zip"))
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(SourceError, match="compressed as a whole"):
        open_archive(str(tmp_path / "x.tar.gz"))
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(SourceError, match="no regular file"):
        open_archive(str(tmp_path / "pipe.tar"))


def test_an_archive_that_changes_while_it_is_read_gives_no_other_images(photos, tmp_path):
    archive = pack(photos, tmp_path / "photos.tar")
    manifest = open_sources([str(archive)])
    archive.write_bytes(bytes(512) + archive.read_bytes())
    with pytest.raises(ImageError, match="has changed"):
        manifest.read(0)


def test_an_archive_that_grew_is_brought_up_to_date(run, photos, tmp_path):
    archive = pack(photos, tmp_path / "photos.tar")
    run("score", archive.name, "-o", "x.h5")
    before = read_scores(tmp_path / "x.h5")
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("new.png")
        info.size = len(png())
        tar.addfile(info, io.BytesIO(png()))
    code, _, _ = run("score", archive.name, "-o", "x.h5")
    after = read_scores(tmp_path / "x.h5")
    assert code == 0 and len(after) == 13
    np.testing.assert_array_equal(after.llr[:12], before.llr)


# --- listings that are kept


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Makes an archive of so many images that its listing is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(ending: str, n: int = 1000) -> Path:
        path, data = tmp_path / f"large.{ending}", png()
        if ending == "tar":
            return tar_of(path, *((tarfile.TarInfo(f"{i}.png"), data) for i in range(n)))
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(n):
                archive.writestr(f"{i}.png", data)
        return path

    return make


@pytest.fixture
def listings(monkeypatch) -> list[str]:
    """The archives that were listed, not taken from what is kept."""
    from hvaeood_cli.images import archives

    listed = list[str]()
    for name in ("_list_tar", "_list_zip"):
        lists = getattr(archives, name)

        def noted(file, count, lists=lists):
            listed.append(os.path.basename(os.fsdecode(file.name)))
            return lists(file, count)

        monkeypatch.setattr(archives, name, noted)
    return listed


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_large_archive_is_listed_once(large, listings, ending, monkeypatch):
    path = large(ending)
    first = open_sources([str(path)])
    monkeypatch.chdir(path.parent)
    again = open_sources([path.name])  # under another name of it
    assert listings == [path.name]
    assert [name.rpartition(b"/")[2] for name in again.names()] == [
        name.rpartition(b"/")[2] for name in first.names()
    ]
    assert again.read(999)[1] == first.read(999)[1]
    assert [again.stamp(i) for i in (0, 999)] == [first.stamp(i) for i in (0, 999)]
    assert (entries("listings")[0].path.parent.stat().st_mode & 0o777) == 0o700


def test_an_archive_that_changed_is_listed_again(large, listings):
    open_sources([str(large("tar"))])
    path = large("tar", 1001)
    assert len(open_sources([str(path)])) == 1001
    assert listings == ["large.tar"] * 2
    assert len(entries("listings")) == 1, "the listing of what is no longer there is replaced"


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-9], lambda data: b"", lambda data: data + b"x"]
)
def test_a_listing_that_is_damaged_is_made_anew(large, listings, harm):
    path = large("tar")
    open_sources([str(path)])
    (entry,) = entries("listings")
    entry.path.write_bytes(harm(entry.path.read_bytes()))
    assert len(open_sources([str(path)])) == 1000
    assert listings == ["large.tar"] * 2


def test_one_of_the_same_size_and_time_is_another(large, listings):
    path = large("tar")
    open_sources([str(path)])
    before, data = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_sources([str(path)])
    assert listings == ["large.tar"] * 2


def test_where_no_listing_can_be_kept_it_is_made_each_time(large, listings, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    path = large("tar")
    for _ in range(2):
        assert len(open_sources([str(path)])) == 1000
    assert listings == ["large.tar"] * 2


members = st.lists(
    st.tuples(
        st.sampled_from([b"", b"a.png", b"b/\xff.png", b"c.png"]),
        st.integers(0, 2**70),
        st.integers(0, 2**63 - 1),
        st.integers(0, len(FAULTS) - 2),
    )
)


@given(members)
def test_a_table_of_members_is_what_was_added(added):
    found = Members()
    for one in added:
        found.add(*one)
    found.mark_replaced()
    last = {name: i for i, (name, *_) in enumerate(added)}
    for i, (name, size, place, fault) in enumerate(added):
        expected = FAULTS[fault] if last[name] == i else FAULTS[-1]
        assert found[i] == (name, min(size, 2**63 - 1), place, expected)
    assert all(found.find(name) == i for name, i in last.items())
    assert found.find(b"other.png") is None
    data = found.to_bytes()
    assert list(Members.from_bytes(data)) == list(found)


@given(members, st.data())
def test_what_is_no_table_of_members_is_refused_or_is_one(added, data):
    found = Members()
    for one in added:
        found.add(*one)
    spoilt = bytearray(found.to_bytes())
    place = data.draw(st.integers(0, len(spoilt) - 1))
    spoilt[place] ^= data.draw(st.integers(1, 255))
    cut = spoilt[: data.draw(st.integers(0, len(spoilt)))]
    for one in (spoilt, cut):
        try:
            read = Members.from_bytes(bytes(one))
        except ValueError:
            continue
        assert len(list(read)) == len(read)
