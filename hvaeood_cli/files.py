"""Where files can be written, writing them whole or not at all, and locks to take turns by."""

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

from hvaeood_cli.errors import StoreError, UsageError

LOCK_SECONDS = 5.0  # how long `locked` waits for its turn; turns take milliseconds
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# What a system says that cannot give a file a second name, there or at all.
NO_HARD_LINKS = frozenset(
    (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
)
# What a system says that could not keep what it took.
_LOST = frozenset((errno.EIO, errno.ENOSPC, errno.EDQUOT))
NO_LOCKS = "this file system has no locks: do not run two commands at once on one output"
_LONGEST_STEM = 200  # bytes of a name that its temporary file repeats; a name has at most 255


def check_output(out: Path, example: str, option: str = "-o") -> None:
    """Raise UsageError where no file can be written, before any work is done for it.

    example: a name of such a file. option: which names it.
    """
    if not out.parent.is_dir():
        hint = f"make it first, or choose another {option}"
        raise UsageError(f"no such folder: {out.parent}", hint)
    try:
        mode = out.stat().st_mode
    except FileNotFoundError:  # which a link to nothing is, too: that is made
        return
    except OSError as error:  # such as a link to itself
        hint = f"choose another {option}"
        raise UsageError(f"cannot write {out}: {error.strerror}", hint) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise UsageError(f"{out} is {what}", f"name a file: {option} {example}")


def check_folder(folder: Path) -> None:
    """Raise UsageError for what is no folder, and cannot be made one, before any work is done."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "name a folder, which is made if it is new")
    if not folder.parent.is_dir():
        raise UsageError(f"no such folder: {folder.parent}", "make it first, or choose another")


@contextlib.contextmanager
def replacing(path: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and rename it to `path`.

    check: called right before the renaming, while `path` is locked (see `locked`), so that no other
    writer with a check replaces it in between. If it raises, `path` stays as it is.

    On any error the temporary file is removed and `path` is as it was. A file that is replaced
    keeps its permissions. If `path` is a link, the file that it points to is replaced. Raises
    OSError where the folder cannot be written, or `path` is a folder, a device or a pipe; with a
    check, StoreError as `locked` does.
    """
    path = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
    mode = _mode(path)
    temporary = _new_file(path, private=mode is not None)
    try:
        yield temporary
        sync_file(temporary)
        if mode is not None:
            temporary.chmod(mode)
        if check is None:
            temporary.replace(path)
        else:
            with locked(path):
                check()
                temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _about(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def creating(path: Path, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and give it the name `path`.

    What has that name already stays as it is, if it came in between too: FileExistsError is raised
    then. private: only the owner may read the file until the caller says otherwise.

    On any error the temporary file is removed. Raises OSError where the folder cannot be written.
    """
    temporary = _new_file(path, private)
    try:
        yield temporary
        sync_file(temporary)
        _name_exclusively(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _about(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let threads and processes that rewrite `path` take turns: each waits here for the others.

    The lock is on the folder, so it survives the renaming of files and leaves no file behind.
    Others wait no longer than `LOCK_SECONDS`, so hold it only briefly: a large file is prepared
    before. The caller goes on without the lock on a file system that has none, and in a folder
    that does not exist. Raises StoreError when the turn does not come, for another program may
    hold the folder for reasons of its own.
    """
    try:
        descriptor = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
    except OSError:  # the write that follows will report it
        yield
        return
    try:
        _wait_for_lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # which releases the lock


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False where the file system has no locks.

    Raises BlockingIOError while someone else holds the lock. Closing the descriptor releases it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def open_regular(path: Path, flags: int = os.O_RDONLY, follow: bool = True) -> int:
    """Open a file and return its descriptor; never wait for a pipe, nor start a device.

    follow: whether it may be a link. Raises OSError for what is not a regular file.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, os.stat(path, follow_symlinks=follow))
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, 0o666)
    try:
        _check_regular(path, os.fstat(descriptor))  # it may be another by now
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_file(path: Path) -> None:
    """Flush a file to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's file names to the disk, on systems that can. Raises OSError where it fails.

    A folder that may be written and not read is left to the system.
    """
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno in _LOST:
            error.filename = str(folder)
            raise


def has_locks(path: Path) -> bool:
    """Whether writers of `path` can take turns: network file systems may have no locks."""
    try:
        descriptor = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    except BlockingIOError:
        return True
    except OSError:  # such as NFS, which locks no folder
        return False
    finally:
        os.close(descriptor)


def _about(error: OSError, path: Path) -> OSError:
    """The error, with the name of the file that a person knows, which the system does not say."""
    if error.errno is None or isinstance(error, FileExistsError):
        return error
    return OSError(error.errno, error.strerror, str(path))


def _name_exclusively(temporary: Path, path: Path) -> None:
    """Give a file another name in its folder. Raises FileExistsError where something has it."""
    try:
        os.link(temporary, path)
        return
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    # Renaming replaces what is there, so an empty file of our own keeps the place.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        temporary.replace(path)
    except OSError:
        path.unlink()
        raise


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
        except OSError:  # such as NFS, which locks no folder
            return


def _new_file(path: Path, private: bool) -> Path:
    """Make an empty file beside `path`, under a name that no other file has.

    private: only the owner may read it until it is whole, since the file that it replaces may be
    private. Otherwise the system gives it the permissions of any new file: this program cannot
    read the umask without setting it, for every thread at once.
    """
    stem = os.fsencode(path.name)[:_LONGEST_STEM].decode("utf-8", "ignore")
    while True:
        temporary = path.with_name(f".{stem}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            os.close(os.open(temporary, flags, 0o600 if private else 0o666))
            return temporary


def _mode(path: Path) -> int | None:
    """The permissions of the file; None where there is none. Raises OSError for a folder."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    _check_regular(path, status)
    return status.st_mode & 0o777


def _check_regular(path: Path, status: os.stat_result) -> None:
    """Raise OSError unless this is the status of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        link = stat.S_ISLNK(status.st_mode)
        raise OSError(errno.EINVAL, "a link" if link else "not a regular file", str(path))
