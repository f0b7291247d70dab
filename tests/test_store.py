"""The score file through h5py alone, and the journal through kills at every byte."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hvaeood_cli import files
from hvaeood_cli.errors import StoreError
from hvaeood_cli.store.columns import blank_rows
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.journal import Batch, Journal, journal_path
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.writer import write_decision, write_scores
from tests.score_files import SIZES, fill_in, make_header, make_scores

L = 3


def header(n: int = 5, **changes) -> RunHeader:
    return make_header(n, **{"n_importance_samples": 4} | changes)


def batches(n: int = 5, size: int = 2) -> list[Batch]:
    random = np.random.default_rng(0)
    made = []
    for first in range(0, n, size):
        rows = blank_rows(min(size, n - first), SIZES)
        for row, i in zip(rows, range(first, n), strict=False):
            row["sha256"] = i
            if i == 3:
                row["status"] = 5
                continue
            row["lower_bound"] = random.normal(size=L)
            row["kl"], row["log_px"] = 1.0, 2.0
        fill_in(rows)
        errors = {3: "it is damaged"} if first <= 3 < first + len(rows) else {}
        made.append(Batch(first, rows, errors))
    return made


NAMES = [b"a.png", b"new\nline", b"\xff\xfe.png", "漢字".encode(), b"x" * 255]


def write(path: Path, names=tuple(NAMES), **changes) -> Path:
    run = header(len(names), **changes)
    write_scores(
        path,
        ScoreFile.of_batches(
            path, run, np.array(names, dtype=bytes), batches(len(names)), {"r": 1}
        ),
    )
    return path


def test_a_file_of_few_long_names_can_be_read_again(tmp_path):
    """Chunks are filled up: a row more than one holds, of long names, must not double the file."""
    n = (1 << 14) + 1
    names = [b"folder/" * 56 + b"%09d" % i for i in range(n - 1)] + [b"y" * 3500]
    make_scores(tmp_path / "s.h5", n, names=names)
    assert read_scores(tmp_path / "s.h5").names[-1] == names[-1]


def test_the_file_is_as_the_contract_says(tmp_path):
    """h5py and nothing else of ours: shapes, types, attributes, order."""
    with h5py.File(write(tmp_path / "s.h5", label=1)) as file:
        attributes = dict(file.attrs)
        assert attributes["format"] == "hvaeood-scores" and attributes["format_version"] == 2
        for name in ("created", "tool_version", "model_name", "model_sha256", "manifest_sha256"):
            assert isinstance(attributes[name], str), name
        assert attributes["n_layers"] == 3 and attributes["n_importance_samples"] == 4
        assert attributes["seed"] == 0 and attributes["proposal"] == "mean"
        assert attributes["n_importance_samples_k"] == 1 and attributes["device"] == "cpu"
        assert attributes["n_dims"] == attributes["image_size"] ** 2 == 64
        types = {
            "/images/sha256": ((5, 32), np.uint8),
            "/images/content": ((5,), np.uint64),
            "/images/status": ((5,), np.int8),
            "/images/label": ((5,), np.int8),
            "/scores/lower_bound": ((5, 3), np.float32),
            "/scores/llr": ((5, 2), np.float32),
            "/scores/kl": ((5, 3), np.float32),
            "/scores/log_px": ((5, 3), np.float32),
            "/scores/llr_share": ((5, 2), np.float32),
            "/scores/bits_per_dim": ((5,), np.float32),
        }
        for name, (shape, kind) in types.items():
            assert (file[name].shape, file[name].dtype) == (shape, kind), name
            assert file[name].fletcher32, name
        assert file["/scores/llr"].attrs["unit"] == "nats"
        assert "L - L^{>k}" in file["/scores/llr"].attrs["meaning"]
        assert list(file["/images/path"]) == NAMES
        assert list(file["/images/error"].asstr()) == ["", "", "", "it is damaged", ""]
        status = file["/images/status"][()]
        assert json.loads(file["/images/status"].attrs["codes"])["damaged"] == status[3] == 5
        for name in ("lower_bound", "llr", "kl", "log_px", "bits_per_dim"):
            assert np.isnan(file[f"/scores/{name}"][3]).all()
            assert np.isfinite(np.delete(file[f"/scores/{name}"][()], 3, axis=0)).all()
        lower = file["/scores/lower_bound"][()]
        np.testing.assert_array_equal(file["/scores/llr"], lower[:, :1] - lower[:, 1:])


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_row_that_nobody_gave_is_not_scored(tmp_path, left_out):
    """Its numbers would be NaN, its status that of a scored one."""
    made = batches()
    del made[left_out]
    with pytest.raises(RuntimeError, match="the engine gave"):
        ScoreFile.of_batches(tmp_path / "s.h5", header(), np.array(NAMES, dtype=bytes), made, {})


@pytest.mark.parametrize("created", ["", "\x1b[2J", "2026-01-01T00:00:00+00:00\x1b[2J", "now\n"])
def test_a_time_is_a_time(created):
    with pytest.raises(ValidationError, match="created"):
        header(created=created)


def test_our_reader_reads_it_back(tmp_path):
    scores = read_scores(write(tmp_path / "s.h5"))
    assert [bytes(name) for name in scores.names] == NAMES
    assert scores.errors[3] == "it is damaged" and scores.scored.sum() == 4
    assert scores.label is None and scores.header == header(5)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(st.binary(min_size=1).map(lambda b: b.replace(b"\0", b"?")), min_size=1))
def test_any_file_name_round_trips(tmp_path, names):
    path = write(tmp_path / "s.h5", names)
    assert [bytes(name) for name in read_scores(path).names] == names
    with h5py.File(path) as file:
        assert list(file["/images/path"]) == names


def test_equal_runs_give_equal_bytes(tmp_path):
    first, second = write(tmp_path / "a.h5"), write(tmp_path / "b.h5")
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "s.h5"
    target.write_bytes(b"precious")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hvaeood_cli.store.writer._write_strings", full)
    with pytest.raises(OSError, match="No space"):
        write(target)
    assert target.read_bytes() == b"precious" and os.listdir(tmp_path) == ["s.h5"]


# -- two writers at once --------------------------------------------------------------------------


def test_scores_made_while_a_decision_is_copied_are_not_lost(tmp_path, monkeypatch):
    """The decision was made of other rows; what is written in its place is the old file's."""
    scores = make_scores(tmp_path / "s.h5", 50)
    copy = shutil.copyfile

    def slow(*paths: Path) -> None:
        copy(*paths)
        make_scores(tmp_path / "s.h5", 60, seed=9)  # waits for nobody

    monkeypatch.setattr(shutil, "copyfile", slow)
    with pytest.raises(StoreError, match="scored anew since it was read"):
        write_decision(scores, None)
    assert len(read_scores(scores.path)) == 60 and os.listdir(tmp_path) == ["s.h5"]


def test_nobody_replaces_scores_out_of_turn(tmp_path, monkeypatch):
    scores = make_scores(tmp_path / "s.h5", 50)
    whole = scores.path.read_bytes()
    monkeypatch.setattr(files, "LOCK_SECONDS", 0)
    with files.locked(scores.path):
        for write_anew in (lambda: write_decision(scores, None), lambda: write(scores.path)):
            with pytest.raises(StoreError, match="another process is writing"):
                write_anew()
    assert scores.path.read_bytes() == whole and os.listdir(tmp_path) == ["s.h5"]


# -- hostile and broken files ---------------------------------------------------------------------


def replace(file: h5py.File, name: str, **options) -> None:
    data = file[name][()]
    del file[name]
    file.create_dataset(name, data=data, **options)


def external(file: h5py.File) -> None:
    del file["/scores/llr"]
    file.create_dataset("/scores/llr", (5, 2), "f4", external=[("/etc/passwd", 0, 40)])


def soft(file: h5py.File) -> None:
    file.move("/scores/llr", "/other")
    file["/scores/llr"] = h5py.SoftLink("/other")


def outside(file: h5py.File) -> None:
    del file["/scores"]
    file["/scores"] = h5py.ExternalLink("other.h5", "/scores")


def virtual(file: h5py.File) -> None:
    del file["/scores/llr"]
    layout = h5py.VirtualLayout((5, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "/llr", (5, 2))
    file.create_virtual_dataset("/scores/llr", layout)


def huge(file: h5py.File) -> None:
    for name in ("/images/status", "/scores/bits_per_dim"):
        kind = file[name].dtype
        attributes = dict(file[name].attrs)
        del file[name]
        made = file.create_dataset(name, (10**12,), kind, chunks=(1000,))
        made.attrs.update(attributes)


def newer(file: h5py.File) -> None:
    file.attrs["format_version"] = 3


def no_format(file: h5py.File) -> None:
    del file.attrs["format"]


def missing(file: h5py.File) -> None:
    del file["/scores/kl"]


def misshapen(file: h5py.File) -> None:
    del file["/scores/kl"]
    file["/scores/kl"] = np.zeros((4, 3), np.float32)


def other_filter(file: h5py.File) -> None:
    replace(file, "/scores/kl", chunks=True, compression="lzf")


def bomb(file: h5py.File) -> None:
    """Names that are nothing, packed a thousand times."""
    del file["/images/error"]
    made = file.create_dataset("/images/error", (1 << 20,), "S4096", chunks=(256,), compression=9)
    packed = zlib.compress(bytes(1 << 20), 9)
    for first in range(0, 1 << 20, 256):
        made.id.write_direct_chunk((first,), packed)


def lying_chunk(file: h5py.File) -> None:
    """A chunk of five short texts that unpacks to 64 megabytes.

    Packed it takes less than 65,536 bytes, the most that older releases of HDF5 write for so
    small a chunk.
    """
    del file["/images/error"]
    made = file.create_dataset("/images/error", (5,), "S16", chunks=(5,), compression=9)
    made.id.write_direct_chunk((0,), zlib.compress(bytes((1 << 26) + (1 << 16)), 9))


def short_chunk(file: h5py.File) -> None:
    """HDF5 would read on beside it in memory."""
    del file["/scores/kl"]
    made = file.create_dataset("/scores/kl", (5, 3), "f4", chunks=(5, 3))
    made.id.write_direct_chunk((0, 0), bytes(9))


def short_packed_chunk(file: h5py.File) -> None:
    """A million bytes are wanted and nine are there: HDF5 2.0 crashes."""
    del file["/images/error"]
    made = file.create_dataset("/images/error", (5,), "S200000", chunks=(5,), compression=9)
    made.id.write_direct_chunk((0,), zlib.compress(bytes(9)))


def unwritten(file: h5py.File) -> None:
    """HDF5 reads zeros in its place."""
    del file["/scores/kl"]
    file.create_dataset("/scores/kl", (5, 3), "f4", chunks=(5, 1))


def group_no_group(file: h5py.File) -> None:
    del file["/images"]
    file["/images"] = np.zeros(3)


def other_type(file: h5py.File) -> None:
    replace(file, "/images/status", dtype="i8")


def list_of_hashes(file: h5py.File) -> None:
    file.attrs["manifest_sha256"] = [1, 2]


def not_utf8(file: h5py.File) -> None:
    file.attrs.create("model_name", b"\xff", dtype=h5py.string_dtype())


def unnamed_status(file: h5py.File) -> None:
    file["/images/status"][0] = 99


def two_columns_of_labels(file: h5py.File) -> None:
    file["/images/label"] = np.zeros((5, 2), np.int8)


@pytest.mark.parametrize(
    "damage",
    [
        external, soft, outside, virtual, huge, newer, no_format, missing, misshapen,
        other_filter, bomb, lying_chunk, short_chunk, short_packed_chunk, unwritten,
        group_no_group, other_type, list_of_hashes,
        not_utf8, unnamed_status, two_columns_of_labels,
    ],
)  # fmt: skip
def test_what_is_not_as_its_version_says_is_refused(tmp_path, damage):
    path = write(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(StoreError) as caught:
        read_scores(path)
    assert caught.value.hint and str(path) in caught.value.message


@pytest.mark.parametrize(
    ("number", "length"), [(0, 0), (1, 2**64 - 16), (1, 2**64 - 8), (2, 2**64 - 32), (1, 5000)]
)
def test_a_heap_of_strings_that_hdf5_would_walk_in_for_ever_is_refused(tmp_path, number, length):
    """Its next object would begin where this one does, or before it."""
    path = write(tmp_path / "s.h5")
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    struct.pack_into("<H6xQ", data, place, number, length)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="a heap of its strings is damaged"):
        read_scores(path)


@pytest.mark.parametrize("size", [0, 3, 2**32 - 1])
def test_a_chunk_whose_checksum_has_no_place_is_refused(tmp_path, size):
    """HDF5 2.0 crashes where an index says that a chunk is smaller than its checksum."""
    path = write(tmp_path / "s.h5")
    data, place = bytearray(path.read_bytes()), -1
    while (place := data.find(b"TREE\x01", place + 1)) >= 0:  # an index of chunks
        struct.pack_into("<I", data, place + 24, size)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"not whole|more than the file can hold"):
        read_scores(path)


@pytest.mark.parametrize("claimed", [1 << 39, 1 << 60])
def test_a_file_that_is_a_hole_is_not_read_through(tmp_path, claimed):
    path = write(tmp_path / "s.h5")
    data = path.read_bytes()
    path.write_bytes(data + struct.pack("<8sQ", b"GCOL\x01", claimed))
    os.truncate(path, 1 << 40)
    if claimed < 1 << 40:
        with pytest.raises(StoreError, match="claims"):
            read_scores(path)
    else:
        assert len(read_scores(path)) == 5
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    with pytest.raises(StoreError, match="not a whole score file"):
        read_scores(path)


def test_heaps_of_strings_that_lie_in_one_another_are_refused(tmp_path):
    """They would be walked through again and again."""
    path = write(tmp_path / "s.h5")
    size = path.stat().st_size
    with path.open("ab") as file:
        for at in range(size, size + 200 * 32, 32):
            left = size + 200 * 32 - at - 16
            file.write(struct.pack("<8sQ", b"GCOL\x01", left) + struct.pack("<QQ", 0, left - 16))
    with pytest.raises(StoreError, match="lie in one another"):
        read_scores(path)


def test_other_files_are_refused(tmp_path):
    whole = write(tmp_path / "s.h5").read_bytes()
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "bad.h5").write_bytes(data)
        with pytest.raises(StoreError):
            read_scores(tmp_path / "bad.h5")
    with pytest.raises(StoreError, match="no such score file"):
        read_scores(tmp_path / "nowhere.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(StoreError, match="not a file"):
        read_scores(tmp_path / "pipe.h5")


@pytest.mark.parametrize("name", [b"", b"x" * 300])
def test_a_file_that_others_packed_again_is_read(tmp_path, name):
    """By h5repack, say: gzip and shuffle are HDF5's own. A link to a file may be named, too."""
    whole = read_scores(write(tmp_path / "s.h5", [*NAMES[:4], name]))
    (tmp_path / "link.h5").symlink_to("s.h5")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        for path in ("/scores/kl", "/scores/llr", "/images/sha256"):
            replace(file, path, chunks=True, compression="gzip", shuffle=True)
        names = np.array([bytes(one) for one in whole.names], object)
        del file["/images/path"]
        file.create_dataset("/images/path", data=names, dtype=h5py.string_dtype("ascii"))
    again = read_scores(tmp_path / "link.h5")
    assert list(again.names) == list(whole.names)
    assert all(again[one].tobytes() == whole[one].tobytes() for one in whole.columns)


# -- the journal ----------------------------------------------------------------------------------


def fill(path: Path, made: list[Batch]) -> Journal:
    journal = Journal.open(path, header())
    for batch in made:
        journal.append(batch)
    journal.close()
    return journal


def test_a_journal_keeps_what_was_appended(tmp_path):
    path = journal_path(tmp_path / "s.h5")
    fill(path, batches())
    with Journal.open(path, header()) as journal:
        assert journal.n_done == 5
        (found,) = journal.batches()  # those that follow one another are one
        assert found.first == 0
        assert found.rows.tobytes() == b"".join(made.rows.tobytes() for made in batches())
        assert found.errors == {i: why for made in batches() for i, why in made.errors.items()}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_journal_cut_anywhere_keeps_its_whole_batches(tmp_path, data):
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    sizes = []
    journal = Journal.open(path, header())
    start = path.stat().st_size
    for batch in batches():
        journal.append(batch)
        sizes.append(path.stat().st_size)
    journal.close()
    cut = data.draw(st.integers(start, sizes[-1]))
    junk = data.draw(st.binary(max_size=20))
    path.write_bytes(path.read_bytes()[:cut] + junk)
    done = sum(size <= cut for size in sizes)
    with Journal.open(path, header()) as again:
        assert again.n_done == min(2 * done, 5)
        for batch in batches()[done:]:
            again.append(batch)
        found = np.concatenate([batch.rows for batch in again.batches()])
    assert found.tobytes() == np.concatenate([batch.rows for batch in batches()]).tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_sha256": "ef" * 32}, "the model"),
        ({"seed": 1}, "the seed: 0 there, 1 here"),
        ({"n_importance_samples": 8}, "the importance samples"),
        ({"proposal": "sample"}, "the proposal: mean there, sample here"),
        ({"n_importance_samples_k": 2}, "the importance samples of L>k: 1 there, 2 here"),
        ({"preprocessing": "other"}, "the preprocessing: none there, other here"),
        ({"precision": "bfloat16"}, "the precision: float32 there, bfloat16 here"),
        ({"device": "cuda"}, "the device: cpu there, cuda here"),
        ({"tool_version": "1"}, "the program's version: 0 there, 1 here"),
        ({"torch_version": "1"}, "torch's version: 0 there, 1 here"),
        ({"numpy_version": "1"}, "NumPy's version: 0 there, 1 here"),
        ({"pillow_version": "1"}, "Pillow's version: 0 there, 1 here"),
    ],
)
def test_another_run_does_not_resume_and_says_why(tmp_path, change, words):
    path = tmp_path / "j"
    fill(path, batches())
    with pytest.raises(StoreError, match=words):
        Journal.open(path, header(**change))
    Journal.open(path, header(**change), force=True).close()


def test_where_the_device_alone_differs_the_hint_names_it(tmp_path):
    fill(tmp_path / "j", batches())
    for changes, named in (({"device": "cuda"}, True), ({"device": "cuda", "seed": 1}, False)):
        with pytest.raises(StoreError) as caught:
            Journal.open(tmp_path / "j", header(**changes))
        assert ("--device cpu" in caught.value.hint) == named


def test_rows_that_are_there_or_of_no_image_are_not_taken(tmp_path):
    first, second, third = batches()
    with Journal.open(tmp_path / "j", header()) as journal:
        for right, wrong in ((third, third), (first, first), (second, third._replace(first=5))):
            journal.append(right)
            with pytest.raises(RuntimeError, match="are there, or not of this run"):
                journal.append(wrong)
        assert [batch.first for batch in journal.batches()] == [4, 0] and journal.n_done == 5


@pytest.mark.parametrize("change", [{"n_images": 6}, {"listing_sha256": "00" * 32}])
def test_rows_of_other_images_are_kept_apart(tmp_path, change):
    """The images have changed since the run was interrupted: rows are known by their content."""
    path = tmp_path / "j"
    fill(path, batches())
    with Journal.open(path, header(**change)) as journal:
        assert journal.n_done == 0 and not journal.is_empty and not list(journal.batches())
        journal.append(batches()[1])
    whole = path.read_bytes()
    for cut in (len(whole), len(whole) - 1):  # a kill tears rows, or the header of the new part
        path.write_bytes(whole[:cut])
        with Journal.open(path, header(**change)) as journal:
            rows = np.concatenate([batch.rows for batch in journal.earlier()])
            assert rows.tobytes() == np.concatenate([b.rows for b in batches()]).tobytes()
            assert journal.n_done == (2 if cut == len(whole) else 0)
    with Journal.open(path, header(**change), force=True) as journal:
        assert not journal.is_empty  # its own run
    with Journal.open(path, header(), force=True) as journal:
        assert journal.is_empty


def test_two_writers_do_not_share_a_journal(tmp_path):
    with (
        Journal.open(tmp_path / "j", header()),
        pytest.raises(StoreError, match="another process"),
    ):
        Journal.open(tmp_path / "j", header())


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / "j").write_bytes(b"my thesis")
    with pytest.raises(StoreError):
        Journal.open(tmp_path / "j", header())
    assert (tmp_path / "j").read_bytes() == b"my thesis"
