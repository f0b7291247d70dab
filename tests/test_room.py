"""Columns that lie in files of their own: the same as in memory, and nothing is left of them."""

from __future__ import annotations

import copy as copying
import errno
import mmap
import os
import pickle  # noqa: TID251  as joblib does
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from hvaeood_cli.store import room
from hvaeood_cli.store.room import IN_MEMORY, Room
from tests.score_files import make_scores


@pytest.fixture
def large(monkeypatch) -> None:
    """Every column counts as large."""
    monkeypatch.setattr(room, "_SMALL", 0)


def test_an_array_is_as_it_was_when_its_memory_has_been_let_go(tmp_path, large):
    place = Room(tmp_path)
    array = place.array((3, 2), "float32")
    assert not array.any()
    array[1] = 7, 8
    place.let_go()
    assert array.tolist() == [[0, 0], [7, 8], [0, 0]]
    assert not os.listdir(tmp_path)  # its file has no name, and goes with it


def test_rows_are_taken_in_their_order_a_few_at_a_time(tmp_path, large, monkeypatch):
    monkeypatch.setattr(room, "_TAKEN", 3)
    place = Room(tmp_path)
    array = place.array((9, 2), "int64")
    array[:] = np.arange(18).reshape(9, 2)
    rows = np.array([7, 0, 7, 8, 3, 1, 2])
    assert place.take(array, rows).tolist() == array[rows].tolist()
    assert place.take(array, rows[:0]).shape == (0, 2)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_names_come_in_blocks_of_any_width(tmp_path, large, where):
    place = IN_MEMORY if where == "memory" else Room(tmp_path)
    blocks = [np.array([b"a", b"bcd"]), np.array([b"ef"])]
    assert place.names(lambda: iter(blocks)).tolist() == [b"a", b"bcd", b"ef"]
    assert place.names(list).tolist() == []


def test_a_disk_that_holds_the_columns_but_no_score_file_beside_them_gets_none(
    tmp_path, large, monkeypatch
):
    free = iter([20_000, 17_000, 14_000])
    monkeypatch.setattr(room, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    place = Room(tmp_path)
    assert is_mapped(place.array((3_000,), "uint8")), "20,000 hold it and twice as much"
    assert is_mapped(place.array((3_000,), "uint8"))
    assert not is_mapped(place.array((1_000,), "uint8")), "7,000 and 14,000 are more than 20,000"


def test_scores_whose_columns_are_in_files_are_copied_and_pickled(tmp_path, large):
    scores = make_scores(tmp_path / "s.h5")
    place = Room(tmp_path)
    columns = {name: place.array(old.shape, old.dtype) for name, old in scores.columns.items()}
    for name, values in columns.items():
        values[:] = scores[name]
    for copy in (copying.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        found = copy(replace(scores, columns=columns, room=place))
        assert not is_mapped(found.llr)
        for name in columns:
            np.testing.assert_array_equal(found[name], scores[name])


def is_mapped(array: np.ndarray) -> bool:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return isinstance(array.base, memoryview) and isinstance(array.base.obj, mmap.mmap)


@pytest.mark.parametrize("code", [None, errno.ENOSPC, errno.ENODEV])
def test_a_run_writes_the_same_file(run, folder, monkeypatch, code):
    """Whether its columns are in memory, in files, or the folder cannot hold or map these."""
    assert run("score", folder, "-o", "memory.h5", "-q")[0] in (0, 4)
    monkeypatch.setattr(room, "_SMALL", 0)
    if code:

        def refuse(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert run("score", folder, "-o", "file.h5", "-q")[0] in (0, 4)
    with h5py.File("memory.h5") as one, h5py.File("file.h5") as other:
        for group in ("images", "scores", "decision"):
            for name in one.get(group, ()):
                np.testing.assert_array_equal(one[group][name][()], other[group][name][()])
