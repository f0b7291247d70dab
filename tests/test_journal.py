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
from hvaeood_cli.store.columns import Sizes, blank_rows
from hvaeood_cli.store.journal import Journal
from hvaeood_cli.store.reader import read_scores
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
    ours = module.row_dtype(Sizes(3, 2))
    wider = np.dtype([*((name, ours[name]) for name in ours.names), ("another", "f4")])
    with monkeypatch.context() as patch:
        patch.setattr(module, "row_dtype", lambda sizes: wider)
        fill(path, [module.Batch(0, np.zeros(2, wider), {})])
    with pytest.raises(StoreError, match="another version"):
        Journal.open(path, header())
    with Journal.open(path, header(), force=True) as journal:
        assert journal.n_done == 0


# -- damaged where it was whole -------------------------------------------------------------------


def flip(path: Path, at: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return bytes(data)


def places(path: Path) -> list[int]:
    """Where its frames begin."""
    data, found = path.read_bytes(), [len(b"hvaeood-journal 2\n")]
    while found[-1] < len(data):
        found.append(found[-1] + 13 + struct.unpack_from("<Q", data, found[-1] + 1)[0])
    return found[:-1]


@pytest.mark.parametrize("frame", [1, 2, 3])
def test_rows_behind_damaged_ones_stand_and_the_loss_is_said(tmp_path, frame):
    path = tmp_path / "j"
    fill(path, batches())
    flipped = flip(path, places(path)[frame] + 60)
    with Journal.open(path, header()) as journal:
        lost = batches()[frame - 1]
        whole = [batch for batch in batches() if batch.first != lost.first]
        assert b"".join(batch.rows.tobytes() for batch in journal.batches()) == b"".join(
            batch.rows.tobytes() for batch in whole
        )
        assert journal.n_lost == len(lost.rows) and not journal.done[lost.first]
        n_whole = 5 - len(lost.rows)
        assert (
            f"about {journal.n_lost} rows" in journal.damage and f"{n_whole} are" in journal.damage
        )
        journal.append(lost)
    with Journal.open(path, header()) as journal:
        assert journal.done.all() and journal.damage, "it is still damaged"
        journal.remove()
    assert os.listdir(tmp_path) == ["j.damaged"]
    assert (tmp_path / "j.damaged").read_bytes().startswith(flipped)
    fill(path, batches())
    flip(path, places(path)[frame] + 60)
    with Journal.open(path, header()) as journal:
        journal.remove()
    assert sorted(os.listdir(tmp_path)) == ["j.damaged", "j.damaged1"], "none takes another's place"


@pytest.mark.parametrize("at", [0, 1, 5])
def test_where_a_header_may_be_lost_rows_are_known_by_content_alone(tmp_path, at):
    """Kind or length of a frame is damaged: nobody knows what stood there."""
    path = tmp_path / "j"
    fill(path, batches())
    flip(path, places(path)[2] + at)
    for _ in range(2):
        with Journal.open(path, header()) as journal:
            size = path.stat().st_size
            assert journal.n_done == 0 and journal.damage
            assert [batch.first for batch in journal.earlier()] == [0, 4]
    assert path.stat().st_size == size, "the part begins once"


def test_what_a_kill_tore_is_no_damage(tmp_path):
    path = tmp_path / "j"
    fill(path, batches())
    whole = path.read_bytes()
    for cut in range(places(path)[-1], len(whole)):
        path.write_bytes(whole[:cut])
        with Journal.open(path, header()) as journal:
            assert journal.n_done == 4 and not journal.damage


def test_a_link_is_no_journal(tmp_path):
    fill(tmp_path / "real", batches())
    (tmp_path / "j").symlink_to("real")
    whole = (tmp_path / "real").read_bytes()
    for force in (False, True):
        with pytest.raises(StoreError, match="is a link"):
            Journal.open(tmp_path / "j", header(), force)
    assert (tmp_path / "real").read_bytes() == whole


def test_a_run_says_what_was_lost_and_is_the_same_run(run, folder, tmp_path):
    """The rows of a damaged journal are scored again; the others are not."""
    assert run("score", "images", "-o", "whole.h5", "-q")[0] == 0
    scores = read_scores(tmp_path / "whole.h5")
    header = scores.header
    with Journal.open(tmp_path / "s.h5.journal", header) as journal:
        for first in range(0, 12, 3):
            rows = blank_rows(3, scores.sizes)
            for name in rows.dtype.names or ():
                rows[name] = scores[name][first : first + 3]
            journal.append(module.Batch(first, rows, {}))
    flip(tmp_path / "s.h5.journal", places(tmp_path / "s.h5.journal")[2] + 70)
    code, _, err = run("score", "images", "-o", "s.h5")
    flat = " ".join(err.split())
    assert code == 0 and "about 3 rows in it cannot be read" in flat and "9 are whole" in flat
    assert (tmp_path / "s.h5.journal.damaged").exists()
    again = read_scores(tmp_path / "s.h5")
    assert all(again[name].tobytes() == scores[name].tobytes() for name in scores.columns)


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "j")
    assert Journal.runtime_of(tmp_path / "j") == ""
    with pytest.raises(StoreError, match="not a regular file"):
        Journal.open(tmp_path / "j", header())
