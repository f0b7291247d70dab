"""What `score` and `calibrate` share: the output file, the progress bar, and the remarks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.cli import console
from hvaeood_cli.cli.printing import conversions_in_words
from hvaeood_cli.errors import ExitCode, HvaeoodError, UsageError

if TYPE_CHECKING:
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.scoring.run import Decide, ScoringRun
    from hvaeood_cli.store.score_file import ScoreFile


def output_for(sources: list[str]) -> Path:
    """SOURCE.scores.h5 in the current folder, named after the first source."""
    first = sources[0].rstrip("/").replace(":", "-").replace("#", "-")
    name = Path(first).resolve().name if first in (".", "..") else Path(first).name
    return Path(f"{name if name and name != '-' else 'images'}.scores.h5")


def check_output(out: Path) -> None:
    """Raise UsageError where no score file can be written."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "name a file: -o scores.h5")
    if not out.parent.is_dir():
        raise UsageError(f"no such folder: {out.parent}", "make it first, or choose another -o")


def score_into(
    run: ScoringRun, out: Path, decide: Decide, force: bool, talk: bool
) -> tuple[ScoreFile, bool]:
    """Score into a file, with a progress bar on a terminal.

    Returns the scores, and whether they were made now: False if the file held them already.
    """
    with _progress(talk) as progress:
        try:
            return run.to_file(
                out, decide, force, progress, console.warn if talk else lambda _: None
            )
        except KeyboardInterrupt:
            error = HvaeoodError(
                "interrupted", "run the same command again: it goes on where it was"
            )
            error.exit_code = ExitCode.INTERRUPTED
            raise error from None


def remarks(detector: Detector, scores: ScoreFile) -> Iterator[str]:
    """What the user must know before believing the scores."""
    config = detector.bundle.config
    done = {
        name: int(((scores.conversions & bit) != 0).sum())
        for name, bit in scores.conversion_codes.items()
    }
    said = conversions_in_words(scores.n_scored, done, config.image_size)
    if said:
        yield said
    telling = {"resized", "greyed", "coloured"} - _usual_conversions(detector)
    foreign = max((done.get(name, 0) for name in telling), default=0)
    if scores.n_scored and foreign > scores.n_scored / 2:
        kind = "grey" if config.image_channels == 1 else "colour"
        yield (
            f"the model {detector.bundle.name} was trained on {config.image_size}x"
            f"{config.image_size} {kind} images; most of these are not, which alone may make their "
            "scores high or low. hvaeood train makes a model of your own images"
        )


def _usual_conversions(detector: Detector) -> set[str]:
    """What was done to most of the images that the model was trained on, as far as it is known."""
    training = detector.bundle.training
    counts = training.get("conversions", {})
    return {name for name, count in counts.items() if count > training.get("n_images", 0) / 2}


@contextlib.contextmanager
def _progress(talk: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    if not talk or not console.err().is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err(), transient=True) as bar:
        task = bar.add_task("scoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
