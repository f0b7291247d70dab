"""Writing files that are either whole or not there, and taking turns at it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hvaeood_cli.errors import StoreError

LOCK_SECONDS = 5.0  # how long `locked` waits for its turn; turns take milliseconds
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_LONGEST_STEM = 200  # bytes of a name that go into its temporary file's; names end at 255


@contextlib.contextmanager
def replacing(path: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and rename it to `path`.

    check: called right before the renaming, in this writer's turn (see `locked`): what it finds of
    `path` still holds when it is replaced by all who give a check. What it raises keeps the file.

    On any error the temporary file is removed and `path` is as it was. A file that is replaced
    keeps its permissions; through a link, the file that it points to is replaced. Raises OSError
    where the folder cannot be written, or `path` is a folder, a device or a pipe; with a check,
    StoreError as `locked`.
    """
    path = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
    mode = _mode(path)
    temporary = _new_file(path, private=mode is not None)
    try:
        yield temporary
        _fsync(temporary)
        if mode is not None:
            temporary.chmod(mode)
        if check is None:
            temporary.replace(path)
        else:
            with locked(path):
                check()
                temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Take turns at reading and rewriting `path` with other threads and processes that use this.

    The lock is one on the folder, so that it outlives the renaming of files in it and leaves no
    file behind. Others wait no longer than `LOCK_SECONDS`, so hold it for something short: a
    large file is prepared before. On a file system without locks, and in a folder that is not
    there, the caller goes on without it. Raises StoreError when the turn does not come.
    """
    try:
        descriptor = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
    except OSError:  # whoever writes there next will say so
        yield
        return
    try:
        _wait_for_lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # which releases the lock


def try_lock(descriptor: int) -> bool:
    """Lock an open file against everyone else who asks. False where there are no locks.

    Raises BlockingIOError while another holds it. The lock ends with the descriptor.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        _fsync(folder)


def _wait_for_lock(descriptor: int, path: Path) -> None:
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            try_lock(descriptor)
            return
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise StoreError(
                    f"another process is writing {path}, or something beside it",
                    "try again when it is done, and not under a lock (flock) on that folder",
                ) from None
            time.sleep(0.005)
        except OSError:  # NFS, for one, locks no folder
            return


def _new_file(path: Path, private: bool) -> Path:
    """An empty file beside `path` with a name of its own.

    private: for the owner alone until it is whole, since what it replaces may be so. Otherwise
    the system gives it the permissions of any new file; asking for the umask would mean setting
    it, for every thread at once.
    """
    stem = os.fsencode(path.name)[:_LONGEST_STEM].decode("utf-8", "ignore")
    while True:
        temporary = path.with_name(f".{stem}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            os.close(os.open(temporary, flags, 0o600 if private else 0o666))
            return temporary


def _mode(path: Path) -> int | None:
    """The permissions of the file that is there; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status.st_mode & 0o777


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
