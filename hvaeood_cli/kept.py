"""What is kept in the user's cache folder in files, each under a hash of what it is of.

A file is a line of JSON, with all that the entry depends on and the hash of what follows, and the
entry. It is written whole or not at all, and checked when it is read: a damaged one, or what is
no file, counts as none and is made anew. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hvaeood_cli.files import replacing
from hvaeood_cli.untrusted import read_regular
from hvaeood_cli.user_cache import Kind, cache_folder

_FORMAT = "hvaeood-kept 1"
_MAX_BYTES = 1 << 30  # of a file: a graph holds the weights of its model


def kept(kind: Kind, of: dict[str, Any], state: str = "") -> bytes | None:
    """The entry of this; None if it is not there, damaged, or of another state."""
    try:
        head, _, entry = read_regular(_place(kind, of), _MAX_BYTES).partition(b"\n")
    except OSError:
        return None
    return entry if head == _head(of, state, entry) else None


def keep(kind: Kind, of: dict[str, Any], entry: bytes, state: str = "") -> None:
    """Keep an entry, in place of one of the same that was of another state.

    Where it cannot be written, nothing happens.
    """
    place = _place(kind, of)
    with suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(place) as temporary:
            temporary.write_bytes(_head(of, state, entry) + b"\n" + entry)


def _place(kind: Kind, of: dict[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder(kind) / name


def _head(of: dict[str, Any], state: str, entry: bytes) -> bytes:
    sha256 = hashlib.sha256(entry).hexdigest()
    known = {"format": _FORMAT, "sha256": sha256, "of": of, "state": state}
    return json.dumps(known, sort_keys=True).encode()
