"""Files that are whole or not there, and taking turns."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hvaeood_cli import files
from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import locked, replacing, try_lock


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask(monkeypatch):
    """Sets the umask for a test, and then forbids to touch it: it is every thread's at once."""
    before = os.umask(0o027)
    umask = os.umask
    monkeypatch.setattr(os, "umask", None)
    yield
    umask(before)


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path, umask):
    write(tmp_path / "a")
    (tmp_path / "b").touch()
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o640


@pytest.mark.parametrize("permissions", [0o600, 0o644, 0o666, 0o444])
def test_a_replaced_file_keeps_its_permissions_and_is_private_until_then(tmp_path, permissions):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(permissions)
    with replacing(path) as temporary:
        assert mode(temporary) == 0o600
        temporary.write_text("new")
    assert mode(path) == permissions and path.read_text() == "new"


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/a")
    for text in ("made through the link", "replaced through it"):
        write(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "a").read_text() == text
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "loop")
    assert caught.value.errno == errno.ELOOP


def test_what_fails_leaves_no_trace(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_pipes_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            write(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["x" * 255, "漢" * 85, os.fsdecode(b"\xff" * 255)])
def test_names_as_long_as_names_can_be(tmp_path, name):
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_what_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch):
    synced = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(os.fstat(d).st_size), fsync(d))[1])
    monkeypatch.setattr(Path, "replace", lambda *p: (synced.append("renamed"), replace(*p))[1])
    write(tmp_path / "a", "seven..")
    assert synced[:2] == [7, "renamed"] and len(synced) == 3  # and the folder


# -- turns -----------------------------------------------------------------------------------------


def other_process_holds(folder: Path) -> bool:
    """Whether somebody, seen from another process, has the lock."""
    code = (
        "import fcntl, os, sys; d = os.open(sys.argv[1], os.O_RDONLY)\n"
        "try: fcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: print('held')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, check=True, text=True
    )
    return done.stdout == "held\n"


def test_a_lock_outlives_the_renaming_of_what_it_guards_and_leaves_no_file(tmp_path):
    path = tmp_path / "a"
    with locked(path):
        assert other_process_holds(tmp_path)
        write(path)
        assert other_process_holds(tmp_path)
    assert not other_process_holds(tmp_path) and os.listdir(tmp_path) == ["a"]
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    assert not other_process_holds(tmp_path)


def test_a_link_is_locked_where_it_leads(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/a")
    with locked(tmp_path / "link"):
        assert other_process_holds(tmp_path / "there") and not other_process_holds(tmp_path)


def test_what_is_checked_holds_until_the_renaming(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    checked = []
    with replacing(path, lambda: checked.append(other_process_holds(tmp_path))) as temporary:
        temporary.write_text("new")
        assert not other_process_holds(tmp_path), "others need not wait for what takes long"
    assert checked == [True] and path.read_text() == "new" and not other_process_holds(tmp_path)

    def refuse() -> None:
        raise KeyError

    with pytest.raises(KeyError), replacing(path, refuse) as temporary:
        temporary.write_text("newer")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_a_turn_is_waited_for_and_never_taken(tmp_path, monkeypatch):
    """Whoever goes on without it may overwrite what another has just written."""
    waits = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    monkeypatch.setattr(files.time, "monotonic", lambda: float(len(waits)))
    holder = os.open(tmp_path, os.O_RDONLY)
    assert try_lock(holder)
    with pytest.raises(StoreError, match="another process is writing"), locked(tmp_path / "a"):
        pytest.fail("it is not its turn")
    assert len(waits) == files.LOCK_SECONDS
    waits.clear()
    monkeypatch.setattr(files.time, "sleep", lambda s: (waits.append(s), os.close(holder)))
    with locked(tmp_path / "a"):
        assert len(waits) == 1 and other_process_holds(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF])
def test_without_locks_one_goes_on(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "a"), locked(tmp_path / "no" / "such" / "folder"):
        write(tmp_path / "a")
    assert (tmp_path / "a").exists()
