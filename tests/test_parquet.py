"""Parquet files as sources: a row an image, whatever the column holds."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images import parquet
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import open_sources
from tests.conftest import make_images

pyarrow = pytest.importorskip("pyarrow")
tables = pytest.importorskip("pyarrow.parquet")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [png(image[0]) for image in make_images(12)]


def write(path: Path, **columns: list[object]) -> Path:
    tables.write_table(pyarrow.table(columns), path, row_group_size=5)
    return path


def plain(files: list[bytes | None]) -> list[object]:
    return list(files)


def as_hugging_face_does(files: list[bytes | None]) -> list[object]:
    return [None if data is None else {"bytes": data, "path": "a.png"} for data in files]


@pytest.mark.parametrize("layout", [plain, as_hugging_face_does])
def test_rows_have_the_scores_of_files(run, tmp_path, layout):
    write(tmp_path / "x.parquet", label=list(range(12)), image=layout(FILES))
    (tmp_path / "files").mkdir()
    for i, data in enumerate(FILES):
        (tmp_path / "files" / f"{i:02}.png").write_bytes(data)
    assert run("score", "x.parquet", "-o", "rows.h5")[0] == 0
    assert run("score", "files", "-o", "files.h5")[0] == 0
    with h5py.File("rows.h5") as rows, h5py.File("files.h5") as files:
        for name in ("lower_bound", "llr", "kl"):
            np.testing.assert_array_equal(rows[f"scores/{name}"], files[f"scores/{name}"])
        assert np.array_equal(rows["images/sha256"], files["images/sha256"])
        assert [name.decode() for name in rows["images/path"]] == [
            f"x.parquet#{i}" for i in range(12)
        ]


@pytest.mark.parametrize("layout", [plain, as_hugging_face_does])
def test_a_row_without_an_image_is_a_row_that_says_so(tmp_path, layout):
    files = [*FILES[:3], None, b"junk", b"", FILES[5][:60], *FILES[7:]]
    source = open_sources([str(write(tmp_path / "x.parquet", image=layout(files)))])
    codes = {}
    for i in range(12):
        try:
            source.read(i)
        except ImageError as error:
            codes[i] = error.code
    assert codes == {3: "empty", 4: "not_an_image", 5: "empty", 6: "damaged"}


def test_rows_can_be_asked_for_and_read_again(tmp_path):
    path = write(tmp_path / "x.parquet", image=plain(FILES))
    source = open_sources([f"{path}#3:9"])
    assert list(source.names()) == [f"{path}#{i}".encode() for i in range(3, 9)]
    expected = np.asarray(Image.open(io.BytesIO(FILES[7])))
    np.testing.assert_array_equal(source.read(4)[0].pixels, expected)
    np.testing.assert_array_equal(ImageReader().read(f"{path}#7".encode()).pixels, expected)
    elsewhere = ForkingPickler.loads(ForkingPickler.dumps(source))
    np.testing.assert_array_equal(elsewhere.read(4)[0].pixels, expected)
    with pytest.raises(SourceError, match="none of them"):
        open_sources([f"{path}#12:15"])


def test_few_groups_of_rows_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_KEPT", 2000)
    path = write(tmp_path / "x.parquet", image=plain(FILES * 5))
    (source,) = open_sources([str(path)]).sources
    for i in range(60):
        source.read(i)
    assert 1 <= len(source._kept._groups) < 5


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": [1, 2]}, "no column of images .its columns: label"),
        ({"front": [b"x"], "back": [b"y"]}, "several columns of bytes: front, back"),
        ({"text": ["x"]}, "no column of images"),
    ],
)
def test_a_file_without_one_column_of_images_is_refused(tmp_path, columns, words):
    with pytest.raises(SourceError, match=words) as caught:
        open_sources([str(write(tmp_path / "x.parquet", **columns))])
    assert caught.value.hint


def test_a_file_of_hardly_anything_but_empty_rows_is_refused(tmp_path):
    """A few kilobytes may say that they are any number of rows, and each costs memory."""
    nulls = pyarrow.nulls(100_000, pyarrow.binary())
    tables.write_table(pyarrow.table({"image": nulls}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="100,000 images"):
        open_sources([str(tmp_path / "x.parquet")])


def test_the_column_called_image_is_taken_among_several(tmp_path):
    path = write(tmp_path / "x.parquet", mask=[b"x"], image=[FILES[0]])
    assert open_sources([str(path)]).read(0)[0].pixels.shape == (8, 8)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_file_that_is_cut_is_refused(run, tmp_path, cut):
    path = write(tmp_path / "x.parquet", image=plain(FILES))
    path.write_bytes(path.read_bytes()[:cut])
    code, _, err = run("score", "x.parquet")
    assert code == 3 and "error: cannot read x.parquet" in err and "hint:" in err


def test_a_damaged_group_is_rows_that_say_so(tmp_path):
    path = write(tmp_path / "x.parquet", image=plain(FILES))
    source = open_sources([str(path)])
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ImageError):
        source.read(0)
    assert source.read(11)[0].pixels.shape == (8, 8)


def test_a_file_that_changes_while_it_is_read_is_no_other_images(tmp_path):
    path = write(tmp_path / "x.parquet", image=plain(FILES))
    source = open_sources([str(path)])
    write(path, image=plain(FILES[::-1]))
    with pytest.raises(ImageError, match="has changed"):
        source.read(0)


def test_a_group_of_fewer_rows_than_the_file_says_is_rows_that_say_so(tmp_path):
    """As a flipped bit in the footer makes it."""
    source = open_sources([str(write(tmp_path / "x.parquet", image=plain(FILES)))]).sources[0]
    more = replace(source, starts=[0, 8, 13, 15], last=15)
    assert more.read(4)[0].pixels.shape and more.read(8)[0].pixels.shape
    with pytest.raises(ImageError, match="fewer rows") as caught:
        more.read(7)
    assert caught.value.code == "damaged"
