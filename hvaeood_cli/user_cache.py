"""What commands keep in the user's cache folder: it only saves time, and may be deleted."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import platformdirs

from hvaeood_cli.errors import UsageError

Kind = Literal["pixels", "graphs", "listings"]

KINDS: dict[Kind, str] = {
    "pixels": "images as models take them, for train and find",
    "graphs": "networks as OpenVINO runs them, for score",
    "listings": "names and places of the images in large archives",
}
MOST_GB = 20.0  # of pixels that are kept, unless HVAEOOD_CACHE_GB says otherwise
_NAME = re.compile(r"[0-9a-f]{32}")  # of an entry: nothing else in the folder is ours


class Entry(NamedTuple):
    """A file or a folder that is kept."""

    path: Path
    n_bytes: int
    used: float  # when last, in seconds since the epoch


def cache_folder(kind: Kind | None = None) -> Path:
    """Where entries of a kind are kept; None for the folder of all kinds."""
    folder = platformdirs.user_cache_path("hvaeood")
    return folder / kind if kind else folder


def entries(kind: Kind) -> list[Entry]:
    """What is kept of a kind, the latest used first."""
    found = []
    with suppress(OSError):
        for path in cache_folder(kind).iterdir():
            if _NAME.fullmatch(path.name):
                with suppress(OSError):  # another process may just remove it
                    files = list(path.iterdir()) if path.is_dir() else [path]
                    n_bytes = sum(file.stat().st_size for file in files)
                    found.append(Entry(path, n_bytes, path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def most_bytes() -> float:
    """What pixels may take together. Raises UsageError for a HVAEOOD_CACHE_GB that is no number."""
    asked = os.environ.get("HVAEOOD_CACHE_GB", "")
    try:
        most = float(asked or MOST_GB)
        if most >= 0.0:  # not so for NaN
            return most * 1e9
    except ValueError:
        pass
    raise UsageError(f"HVAEOOD_CACHE_GB={asked} is not a number of gigabytes", "such as 20")


def bound_pixels(in_use: Path) -> None:
    """Remove pixels, those first that were used longest ago, until all that are kept fit."""
    with suppress(OSError):
        os.utime(in_use)
    room = most_bytes()
    for entry in entries("pixels"):
        room -= entry.n_bytes
        if room < 0 and entry.path != in_use:
            remove(entry)


def remove(entry: Entry) -> bool:
    """Remove an entry; what another process maps into memory stays there. False if it cannot."""
    with suppress(OSError):
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
    return not os.path.lexists(entry.path)
