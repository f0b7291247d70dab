"""What `decide` does and says where flagged images are taken to a folder, or put back."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hvaeood_cli.cli import console
from hvaeood_cli.errors import ExitCode, HvaeoodError, UsageError
from hvaeood_cli.files import check_folder
from hvaeood_cli.text import printable

if TYPE_CHECKING:
    from hvaeood_cli.store.score_file import ScoreFile
    from hvaeood_cli.taking.take import How, Outcome

_DONE = {"copy": "copied {} to {}", "link": "linked {} in {}", "move": "moved {} to {}"}
_NAMED = 5  # images that are named one by one


class Asked(NamedTuple):
    """Where the command line wants the flagged images, and how; and how to speak of it."""

    how: How
    folder: Path
    dry_run: bool
    list_all: bool  # whether standard output is free for a list of what a dry run would do
    quiet: bool

    @classmethod
    def of(
        cls, to: dict[str, Path | None], dry_run: bool, list_all: bool, quiet: bool
    ) -> Asked | None:
        """to: the folder of each way, if it is asked for.

        Raises UsageError for two of them, and for one that can be no folder.
        """
        from hvaeood_cli.taking.take import How

        named = {how: folder for how, folder in to.items() if folder is not None}
        if len(named) > 1:
            options = " and ".join(f"--{how}-to" for how in named)
            raise UsageError(f"{options} exclude one another", "choose one")
        for how, folder in named.items():
            check_folder(folder)
            return cls(How(how), folder, dry_run, list_all, quiet)
        return None

    def take(self, scores: ScoreFile, data_root: Path | None) -> bool:
        """Take the flagged images, and say so; returns whether all of them could be."""
        import numpy as np

        from hvaeood_cli.taking.take import take

        assert scores.decision is not None
        flagged = np.flatnonzero(scores.decision.flagged).tolist()
        with _resumable():
            outcome = take(scores, flagged, self.folder, self.how, data_root, self.dry_run)
        if self.dry_run and self.list_all:
            console.emit(_lines(outcome))
        if self.quiet:
            return not outcome.left
        how = self.how.value
        done = f"would {how} {{}} to {{}}" if self.dry_run else _DONE[how]
        said = done.format(_images(len(outcome.taken)), self.folder)
        if outcome.n_there:
            said += f"; {outcome.n_there:,} there already"
        console.say(said)
        if how == "move" and outcome.taken and not self.dry_run:
            console.say(f"hvaeood decide --undo-move {shlex.quote(str(self.folder))} undoes it")
        if outcome.n_inside:
            console.warn(
                f"{_images(outcome.n_inside)} in arrays, data sets or archives left there: "
                "--copy-to copies them"
            )
        _name_left("not taken", outcome)
        return not outcome.left


def put_back(folder: Path, dry_run: bool, quiet: bool) -> bool:
    """Put moved images back, and say so; returns whether all of them could be."""
    from hvaeood_cli.taking.undo import put_back

    with _resumable():
        outcome = put_back(folder, dry_run)
    if dry_run:
        console.emit(_lines(outcome))
    if not quiet:
        done = "would put back" if dry_run else "put back"
        back = f"; {outcome.n_there:,} back already" if outcome.n_there else ""
        console.say(f"{done} {_images(len(outcome.taken))} from {folder}{back}")
        _name_left("cannot go back", outcome)
    return not outcome.left


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        error = HvaeoodError("interrupted", "run the same command again: it goes on where it was")
        error.exit_code = ExitCode.INTERRUPTED
        raise error from None


def _lines(outcome: Outcome) -> Iterator[str]:
    for source, target in outcome.taken:
        yield f"{printable(str(source))} -> {printable(str(target))}\n"


def _name_left(what: str, outcome: Outcome) -> None:
    if not outcome.left:
        return
    console.warn(f"{_images(len(outcome.left))} {what}:")
    for name, why in outcome.left[:_NAMED]:
        console.say(f"  {name}: {why}")
    if len(outcome.left) > _NAMED:
        console.say(f"  and {len(outcome.left) - _NAMED:,} more")


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"
