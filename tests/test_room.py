"""Columns that lie in files of their own: the same as in memory, and nothing is left of them."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest

from hvaeood_cli.store import room
from hvaeood_cli.store.room import IN_MEMORY, Room


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


@pytest.mark.parametrize("where", ["memory", "file"])
def test_names_come_in_blocks_of_any_width(tmp_path, large, where):
    place = IN_MEMORY if where == "memory" else Room(tmp_path)
    blocks = [np.array([b"a", b"bcd"]), np.array([b"ef"])]
    assert place.names(lambda: iter(blocks)).tolist() == [b"a", b"bcd", b"ef"]
    assert place.names(list).tolist() == []


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
