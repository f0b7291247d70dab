"""Takes images of a score file to a folder: by copies, links or moves.

Whatever ends it, the same call goes on: an image that is there already counts as taken.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from hvaeood_cli.errors import ImageError, StoreError
from hvaeood_cli.files import check_folder, sync_file
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.taking import transfer
from hvaeood_cli.taking.places import (
    Finder,
    Found,
    Layout,
    holds,
    make_folders,
    numbered,
    whole_place,
)
from hvaeood_cli.taking.record import NAME, Move, MoveRecord

# What a system says where it is this one name that it cannot give.
_OF_ITS_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ)


class How(Enum):
    """How an image is taken."""

    COPY = "copy"
    LINK = "link"
    MOVE = "move"


@dataclass
class Outcome:
    """What became of the images: each is in one of these."""

    taken: list[tuple[Path, Path]] = field(default_factory=list)  # from where, to where
    n_there: int = 0  # they had been taken before
    left: list[tuple[str, str]] = field(default_factory=list)  # the name, and why it was left
    n_inside: int = 0  # in arrays and archives, which can be copied only


def take(
    scores: ScoreFile,
    rows: Iterable[int],
    folder: Path,
    how: How,
    data_root: Path | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Take the images of these rows to a folder, which is made if it is not there.

    Below it they lie as they did below the folder that all images of the file lie in. An image
    whose file is gone, or not what was scored, is left; so is one whose name the folder cannot
    hold. dry_run: write nothing, and say what would be done.

    Raises UsageError for a folder that cannot be; StoreError where it cannot be written, with what
    has been taken so far as it is.
    """
    check_folder(folder)
    try:
        if not dry_run:
            folder.mkdir(exist_ok=True)
        recording = how is How.MOVE and not dry_run
        with MoveRecord.opened(folder, recording) as record:
            taking = _Taking(scores, folder, how, Finder(scores, data_root), record, dry_run)
            for row in rows:
                taking.take(int(row))
            return taking.outcome
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror or error}",
            "make room, or choose another folder: the same command goes on where it was",
        ) from None


class _Taking:
    """One taking of images, with what it has come to so far."""

    def __init__(
        self,
        scores: ScoreFile,
        folder: Path,
        how: How,
        finder: Finder,
        record: MoveRecord,
        dry_run: bool,
    ) -> None:
        self.outcome = Outcome()
        self._scores = scores
        self._folder = folder
        self._how = how
        self._finder = finder
        self._record = record
        self._dry_run = dry_run
        self._layout = Layout(scores.names)
        self._seen: set[Path] = set()  # where images were found: one may have several names
        self._given: set[Path] = set()  # where images would go, in a dry run

    def take(self, row: int) -> None:
        """Take a row's image, or note why it is left. Raises OSError where nothing can be taken."""
        is_file = self._finder.is_file(row)
        if not is_file and self._how is not How.COPY:
            self.outcome.n_inside += 1
            return
        name = self._scores.name(row)
        try:
            if self._how is How.MOVE and self._was_moved(row):
                self.outcome.n_there += 1
                return
            found = self._finder.find(row)
            if self._how is How.MOVE and found.path.is_symlink():
                raise ImageError("unreadable", "a link to a file elsewhere, which stays there")
            if whole_place(found.path) in self._seen:
                return
            self._seen.add(whole_place(found.path))
            self._settle(found, self._layout.place(name, found.made))
        except ImageError as error:
            self.outcome.left.append((name, error.message))
        except OSError as error:
            if error.errno not in _OF_ITS_NAME:
                raise
            self.outcome.left.append((name, f"{self._folder} cannot hold it: {error.strerror}"))

    def _was_moved(self, row: int) -> bool:
        """Whether a row's image is in the folder, moved there before."""
        sha256 = self._scores.sha256[row].tobytes()
        return any(
            move.sha256 == sha256.hex() and holds(self._folder / move.place, sha256)
            for path in self._finder.places(row)
            if not os.path.lexists(path)
            for move in self._record.of_origin(str(whole_place(path)))
        )

    def _settle(self, found: Found, place: Path) -> None:
        """Bring an image to a place in the folder, or to the next one that is free."""
        make_folders(self._folder, place.parent, self._dry_run)
        for one in numbered(place):
            target = self._folder / one
            if target in self._given or str(one).casefold() == NAME:
                continue
            if os.path.lexists(target):
                if self._is_there(found, one):
                    self.outcome.n_there += 1
                    return
                continue
            if self._dry_run:
                self._given.add(target)
            else:
                try:
                    self._bring(found, one)
                except FileExistsError:  # somebody else was quicker
                    continue
            self.outcome.taken.append((found.path, target))
            return

    def _bring(self, found: Found, place: Path) -> None:
        """Bring an image to a free place. Raises FileExistsError where it is free no longer."""
        target = self._folder / place
        if self._how is How.COPY:
            transfer.copy(found, target)
        elif self._how is How.LINK:
            transfer.link(found, target)
        else:
            self._record.add(_move(found, place))
            transfer.move(found, target)

    def _is_there(self, found: Found, place: Path) -> bool:
        """Whether what is at a place is this image; a move that was cut off is then finished."""
        target = self._folder / place
        if self._how is How.LINK and target.is_symlink():
            return target.readlink() == whole_place(found.path)
        move = _move(found, place)
        if not holds(target, bytes.fromhex(move.sha256)):
            return False
        if self._how is not How.MOVE or transfer.is_same_entry(found.path, target):
            return True
        if self._record.is_of_another(move.place, move.origin):  # which is to go back some day
            return False
        if not self._dry_run:
            sync_file(target)
            self._record.add(move)
            transfer.remove(found)
        return True


def _move(found: Found, place: Path) -> Move:
    sha256 = hashlib.sha256(found.data).hexdigest()
    return Move(str(whole_place(found.path)), str(place), sha256)
