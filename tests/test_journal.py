"""Starting a journal: by one, by two at once, by one that is killed, where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvaeood_cli.errors import StoreError
from hvaeood_cli.store import journal as module
from hvaeood_cli.store.journal import Journal
from tests.test_store import batches, fill, header


def test_of_two_that_start_at_once_one_writes(tmp_path, monkeypatch):
    """Both have seen that there is no journal, before either made one."""
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with Journal.open(tmp_path / "j", header()) as first:
        with pytest.raises(StoreError, match="another process is writing"):
            Journal.open(tmp_path / "j", header())
        first.append(batches()[0])
        assert first.locked
    with Journal.open(tmp_path / "j", header()) as again:
        assert again.n_done == 2


def before_locking(monkeypatch, act) -> None:
    """Let another starter act once, between the opening of a journal and its locking."""
    lock = module.try_lock

    def late(descriptor: int) -> bool:
        monkeypatch.setattr(module, "try_lock", lock)
        act()
        return lock(descriptor)

    monkeypatch.setattr(module, "try_lock", late)


def test_the_second_to_lock_an_empty_journal_finds_what_the_first_wrote(tmp_path, monkeypatch):
    path = tmp_path / "j"
    before_locking(monkeypatch, lambda: fill(path, batches()[:2]))
    with Journal.open(path, header()) as second:
        assert second.n_done == 4
    path.unlink()
    held = []
    before_locking(monkeypatch, lambda: held.append(Journal.open(path, header())))
    with pytest.raises(StoreError, match="another process is writing"):
        Journal.open(path, header())
    held[0].append(batches()[0])
    held[0].close()
    with Journal.open(path, header()) as last:
        assert last.n_done == 2


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_was_finished_meanwhile_is_not_begun_again(tmp_path, monkeypatch, replaced):
    path = tmp_path / "j"

    def finish() -> None:
        fill(path, batches())
        path.unlink()
        if replaced:
            fill(path, [])

    before_locking(monkeypatch, finish)
    with pytest.raises(StoreError, match="just finished") as caught:
        Journal.open(path, header())
    assert caught.value.hint == "run the same command again" and path.exists() == replaced


def test_processes_that_start_at_once(tmp_path):
    """All wait in front of the same door; one gets in, the others are told of it."""
    code = (
        "import sys; from pathlib import Path; from tests.test_store import *\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: journal = Journal.open(Path('j'), header())\n"
        "except StoreError as error: print(error.message, flush=True)\n"
        "else: journal.append(batches()[0]); print('in', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    assert [one.stdout.readline() for one in started] == ["ready\n"] * 3
    for one in started:
        one.stdin.write("go\n")
    said = sorted(one.stdout.readline() for one in started)
    assert said == ["another process is writing j\n"] * 2 + ["in\n"]
    for one in started:
        one.communicate("end\n")
    with Journal.open(tmp_path / "j", header()) as journal:
        assert journal.n_done == 2


def test_a_kill_while_the_header_is_written_is_gone_on_from(tmp_path):
    """At every byte, and with another run's header too: no row was ever in it."""
    path = tmp_path / "j"
    fill(path, [])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal.open(path, header(seed=7)) as journal:
            assert journal.n_done == 0 and journal.header.seed == 7, cut


def test_a_file_of_another_kind_or_a_damaged_header_is_left_alone(tmp_path):
    path = tmp_path / "j"
    fill(path, batches())
    whole = path.read_bytes()
    at = len(b"hvaeood-journal 2\n")
    longer = whole[: at + 1] + struct.pack("<Q", 1 << 20) + whole[at + 9 :]
    flipped = whole[: at + 40] + bytes([whole[at + 40] ^ 1]) + whole[at + 41 :]
    for data in (longer, flipped, b"my thesis", b"hvaeood-journal 2\nX"):
        path.write_bytes(data)
        with pytest.raises(StoreError, match="damaged"):
            Journal.open(path, header())
        assert path.read_bytes() == data


@pytest.mark.parametrize("version", [b"1", b"3"])
def test_a_journal_of_another_version_is_called_that(tmp_path, version):
    path = tmp_path / "j"
    fill(path, batches())
    path.write_bytes(path.read_bytes().replace(b"journal 2\n", b"journal %s\n" % version))
    with pytest.raises(StoreError, match="another version of this program") as caught:
        Journal.open(path, header())
    assert "--force to start over" in caught.value.hint
    with Journal.open(path, header(), force=True) as journal:
        assert journal.n_done == 0


def test_a_full_disk_at_the_first_byte(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_all", full)
        with pytest.raises(OSError, match="No space"):
            Journal.open(tmp_path / "j", header())
    with Journal.open(tmp_path / "j", header()) as journal:
        assert journal.n_done == 0


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_there_are_no_locks_the_run_goes_on_and_can_say_so(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Journal.open(tmp_path / "j", header()) as journal:
        journal.append(batches()[0])
        assert not journal.locked
    with Journal.open(tmp_path / "j", header()) as again:
        assert again.n_done == 2


def test_other_trouble_with_a_lock_is_not_called_another_process(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"):
        Journal.open(tmp_path / "j", header())


def test_a_pipe_is_no_journal(tmp_path):
    os.mkfifo(tmp_path / "j")
    for force in (False, True):
        with pytest.raises(StoreError, match="not a regular file"):
            Journal.open(tmp_path / "j", header(), force)


def test_rows_of_another_form_are_not_taken_for_ours(tmp_path, monkeypatch):
    """A program with another column wrote them, and its version of the format is the same."""
    path = tmp_path / "j"
    ours = module.row_dtype(3)
    wider = np.dtype([*((name, ours[name]) for name in ours.names), ("another", "f4")])
    with monkeypatch.context() as patch:
        patch.setattr(module, "row_dtype", lambda n_layers: wider)
        fill(path, [module.Batch(0, np.zeros(2, wider), {})])
    with pytest.raises(StoreError, match="another version"):
        Journal.open(path, header())
    with Journal.open(path, header(), force=True) as journal:
        assert journal.n_done == 0
