"""Puts images back that were moved into a folder, by the record of moves that is there.

Nothing is overwritten. Whatever ends it, the same call goes on: what cannot go back stays in the
folder and in its record.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from hvaeood_cli.errors import ImageError, StoreError
from hvaeood_cli.images.folder import read_file
from hvaeood_cli.taking import transfer
from hvaeood_cli.taking.places import Found, holds, make_folders
from hvaeood_cli.taking.record import NAME, Move, MoveRecord
from hvaeood_cli.taking.take import Outcome


def put_back(folder: Path, dry_run: bool = False) -> Outcome:
    """Put back what was moved into a folder, the last first.

    An image is left that is no longer what was moved, or whose old place something else has.
    dry_run: write nothing, and say what would be done. Raises StoreError where the folder has no
    record of moves, or it cannot be read or written.
    """
    if not os.path.lexists(folder / NAME):
        raise StoreError(
            f"{folder} has no {NAME}: nothing is there that was moved and is not back",
            "name the folder that --move-to had",
        )
    outcome = Outcome()
    try:
        with MoveRecord.opened(folder, not dry_run) as record:
            left = []
            for move in reversed(record.moves):
                try:
                    if _put_back(folder, move, record, dry_run):
                        outcome.taken.append((folder / move.place, Path(move.origin)))
                    else:
                        outcome.n_there += 1
                    continue
                except ImageError as error:
                    why = error.message
                except OSError as error:
                    why = f"{move.origin}: {error.strerror or error}"
                left.append(move)
                outcome.left.append((move.place, why))
            if record.damaged:
                n = len(record.damaged)
                lines = "a line is" if n == 1 else f"{n:,} lines are"
                why = f"{lines} damaged: what was named there stays, and so does the record"
                outcome.left.append((NAME, why))
            if not dry_run:
                record.keep(left[::-1])
                _remove_empty_folders(folder, record.moves)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror or error}", "run the same command again"
        ) from None
    return outcome


def _put_back(folder: Path, move: Move, record: MoveRecord, dry_run: bool) -> bool:
    """Put one image back; False where it is back already. Raises ImageError and OSError."""
    source, target = folder / move.place, Path(move.origin)
    sha256 = bytes.fromhex(move.sha256)
    make_folders(folder, Path(move.place).parent, dry_run=True)  # no link leads out of it
    is_in_folder = holds(source, sha256)
    if holds(target, sha256):
        of_another = record.is_of_another(move.place, move.origin)
        if is_in_folder and not (dry_run or of_another or transfer.is_same_entry(source, target)):
            transfer.remove(_found(source))  # a move that was cut off
        return False
    if not is_in_folder:
        gone = not os.path.lexists(source)
        raise ImageError("missing", "no longer there" if gone else "changed since it was moved")
    if os.path.lexists(target):
        raise ImageError("unreadable", f"something else is now in its place, {target}")
    if not dry_run:
        target.parent.mkdir(parents=True, exist_ok=True)
        transfer.move(_found(source), target)
    return True


def _found(source: Path) -> Found:
    return Found(source, read_file(os.fsencode(source)), source.stat())


def _remove_empty_folders(folder: Path, moves: Iterable[Move]) -> None:
    """Remove the sub-folders that moved images were in, if nothing is in them now."""
    below = {parent for move in moves for parent in Path(move.place).parents}
    for parent in sorted(below - {Path()}, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            (folder / parent).rmdir()
