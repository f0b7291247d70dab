"""Brings one file to a new place. Nothing is ever overwritten, and a file is there whole or not."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from hvaeood_cli.errors import ImageError
from hvaeood_cli.files import NO_HARD_LINKS, creating, sync_folder
from hvaeood_cli.taking.places import Found, whole_place


def copy(found: Found, target: Path) -> None:
    """Write an image to a new file, of the same time and permissions.

    Raises FileExistsError where something has that name, OSError where it cannot be written.
    """
    with creating(target, private=found.status is not None) as temporary:
        temporary.write_bytes(found.data)
        if temporary.read_bytes() != found.data:  # the caller may remove the original
            raise OSError(errno.EIO, "what was written is not what is read", str(target))
        if found.status is not None:
            temporary.chmod(found.status.st_mode & 0o777 | 0o400)
            os.utime(temporary, ns=(found.status.st_atime_ns, found.status.st_mtime_ns))


def link(found: Found, target: Path) -> None:
    """Make a symbolic link to an image's file. Raises as `copy` does."""
    target.symlink_to(whole_place(found.path))
    sync_folder(target.parent)


def move(found: Found, target: Path) -> None:
    """Bring an image's file to another place; on another file system it is copied, then removed.

    At any time the file is whole in one place at least. Raises as `copy` does; ImageError where it
    has changed since it was found or cannot be taken from its folder, and then it stays there.
    """
    assert found.status is not None, "a row of an array is in no file of its own"
    try:
        os.link(found.path, target, follow_symlinks=False)
        linked = _is(found.status, target)
    except FileNotFoundError:
        if os.path.lexists(found.path):
            raise
        raise ImageError("missing", "no such file") from None
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        copy(found, target)
        linked = True
    try:
        if not linked:
            raise ImageError("damaged", "changed while it was moved")
        sync_folder(target.parent)
        remove(found)
    except ImageError:
        target.unlink()
        raise


def remove(found: Found) -> None:
    """Remove an image's file that is whole in another place, too. Raises ImageError."""
    try:
        if not _is(found.status, found.path):
            raise ImageError("damaged", "changed while it was moved")
        found.path.unlink()
    except OSError as error:
        raise ImageError(
            "unreadable", f"it cannot be taken from its folder: {error.strerror}"
        ) from None
    sync_folder(found.path.parent)


def is_same_entry(path: Path, other: Path) -> bool:
    """Whether two paths are one file under one name, so that removing one removes the other."""
    if whole_place(path) == whole_place(other):
        return True
    with contextlib.suppress(OSError):  # a name in capitals, on a file system without
        here, there = path.lstat(), other.lstat()
        return os.path.samestat(here, there) and here.st_nlink == 1
    return False


def _is(status: os.stat_result | None, path: Path) -> bool:
    """Whether a path is still the file that had this status, unchanged."""
    now = path.lstat()
    return status is not None and (
        os.path.samestat(now, status)
        and (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    )
