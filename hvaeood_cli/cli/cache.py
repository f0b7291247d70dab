"""`hvaeood cache`: show or remove what is kept to save time."""

from __future__ import annotations

from typing import Annotated

import typer

from hvaeood_cli.cli import console, options
from hvaeood_cli.errors import HvaeoodError


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
    json_: options.Json = False,
) -> None:
    """Show what is kept to save time, or remove it.

    Example: **hvaeood cache --clear**

    Pixels are copies of your images, as small as a model takes them, and listings have their
    names; only you can read them. Pixels used longest ago go first where they take more than
    $HVAEOOD_CACHE_GB, which is 20.
    """
    from hvaeood_cli.user_cache import KINDS, cache_folder, entries, most_bytes, remove

    kept = {kind: entries(kind) for kind in KINDS}
    if clear:
        for entry in [entry for of_kind in kept.values() for entry in of_kind]:
            if not remove(entry):
                raise HvaeoodError(f"cannot remove {entry.path}", "see whose it is")
    sizes = {kind: sum(entry.n_bytes for entry in of_kind) for kind, of_kind in kept.items()}
    if json_:
        counts = {
            kind: {"entries": len(kept[kind]), "bytes": sizes[kind], "for": what}
            for kind, what in KINDS.items()
        }
        console.emit_json({"folder": str(cache_folder()), "removed": clear} | counts)
    elif clear:
        n = sum(map(len, kept.values()))
        console.say(f"removed {n:,} entries, {_size(sum(sizes.values()))}, from {cache_folder()}")
    else:
        for kind, what in KINDS.items():
            n = len(kept[kind])
            console.emit([f"{kind}  {n:>6,} entries  {_size(sizes[kind]):>9}  {what}\n"])
        most = _size(most_bytes())
        console.say(f"in {cache_folder()}; of pixels at most {most} ($HVAEOOD_CACHE_GB)")
        console.say("next: hvaeood cache --clear removes it; it is made again when it is needed")


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} GB"
