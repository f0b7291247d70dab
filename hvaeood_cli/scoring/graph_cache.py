"""Graphs in the user's cache folder, each under a hash of all that it depends on.

A file is a line of JSON, with what the graph depends on and the hash of what follows, and the
graph. It is written whole or not at all, and checked when it is read: a damaged one, or what is
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
from hvaeood_cli.user_cache import cache_folder

_FORMAT = "hvaeood-graph 1"
_MAX_BYTES = 1 << 30  # of a file: a graph holds the weights of its model


def cached(identity: dict[str, Any]) -> bytes | None:
    """The graph of this identity; None if it is not there, damaged or of another one."""
    try:
        head, _, blob = read_regular(_place(identity), _MAX_BYTES).partition(b"\n")
    except OSError:
        return None
    return blob if head == _head(identity, blob) else None


def keep(identity: dict[str, Any], blob: bytes) -> None:
    """Write a graph into the cache. Where that cannot be written, nothing happens."""
    place = _place(identity)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            temporary.write_bytes(_head(identity, blob) + b"\n" + blob)


def _place(identity: dict[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder("graphs") / name


def _head(identity: dict[str, Any], blob: bytes) -> bytes:
    known = {"format": _FORMAT, "sha256": hashlib.sha256(blob).hexdigest(), "of": identity}
    return json.dumps(known, sort_keys=True).encode()
