"""`hvaeood score`: the main job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console, deciding, options
from hvaeood_cli.cli.printing import Printing, conversions_in_words
from hvaeood_cli.errors import ExitCode, HvaeoodError, UsageError

if TYPE_CHECKING:
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.calibration.rules import Rule
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.images.sources import Manifest
    from hvaeood_cli.store.reader import ScoreFile


def score(
    sources: options.Sources,
    model: options.Model = "fashionmnist",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The score file (HDF5).",
            show_default="SOURCE.scores.h5",
        ),
    ] = None,
    samples: options.Samples = 16,
    samples_k: options.SamplesK = 1,
    proposal: options.Proposal = "mean",
    seed: options.Seed = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Images read and scored together.", show_default="one pass"
        ),
    ] = None,
    precision: options.Precision = "float32",
    device: options.Device = "auto",
    workers: options.Workers = 1,
    label: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=1, help="Note as 0 in-distribution or 1 OOD, for evaluation."
        ),
    ] = None,
    fpr: deciding.Fpr = None,
    fdr: deciding.Fdr = None,
    by: deciding.By = False,
    calibration: deciding.CalibrationFile = None,
    fail_on_flagged: deciding.FailOnFlagged = False,
    top: options.Top = 10,
    null: options.Null = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    json_: options.Json = False,
    jsonl: options.Jsonl = False,
    csv: options.Csv = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Score images: which of them does the model not know?

    Example: **hvaeood score photos/**

    Scores go to an HDF5 file, the most suspicious images to the terminal. With a calibrated
    model, images are flagged at a false-positive rate. Run again after an interruption, it goes
    on where it was.

    Next: **hvaeood report FILE** shows them all; **hvaeood decide FILE --fdr 0.05** flags anew.
    """
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    rule = deciding.asked_rule(fpr, fdr, by)
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.images.sources import open_sources
    from hvaeood_cli.report.rows import Judged
    from hvaeood_cli.store.reader import read_scores

    detector = Detector(
        model,
        n_importance_samples=samples,
        n_importance_samples_k=samples_k,
        proposal=proposal,
        seed=seed,
        precision=precision,
        device=device,
        batch_size=batch_size,
        workers=workers,
    )
    # What is wrong with the settings is said before any work.
    _ = detector.settings, detector.bundle
    manifest = open_sources(sources, options.stdin_paths(sources, null), data_root, download)
    needed = rule is not None or fail_on_flagged
    judge = _calibration(detector, calibration, rule, len(manifest), needed)
    out = output or default_output(sources)
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "name a file: -o scores.h5")
    if not out.parent.is_dir():
        raise UsageError(f"no such folder: {out.parent}", "make it first, or choose another -o")
    talk = not quiet
    if talk and manifest.skipped:
        files = "file" if manifest.skipped == 1 else "files"
        console.say(f"left out: {manifest.skipped} {files} without an image's ending")
    started = time.monotonic()
    fresh = run(detector, manifest, out, label, force, talk)
    scores = read_scores(out)
    seconds = time.monotonic() - started
    if talk:
        for line in remarks(detector, scores):
            console.warn(line)
    if judge:
        scores = deciding.decide_file(scores, judge, rule)
        if talk:
            deciding.warn_of_group(scores)
    done = "before; nothing has changed since"
    if fresh:
        done = f"in {seconds:.1f} s on {detector.scorer.device}"
    again = _repeated(detector, data_root, calibration)
    printing.show(scores, Judged.by(scores, judge, detector.reference), top, done, again)
    if fail_on_flagged and scores.decision and scores.decision.flagged.any():
        raise typer.Exit(ExitCode.FLAGGED)
    if not scores.scored.all():
        raise typer.Exit(ExitCode.SOME_UNREADABLE)


def _calibration(
    detector: Detector, path: Path | None, rule: Rule | None, n_images: int, needed: bool
) -> Calibration | None:
    """The calibration to decide by, if it is made for these settings.

    Raises CalibrationError where a decision was asked for and cannot be made.
    """
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.calibration.rules import check_level

    found = Calibration.load(path) if path else Calibration.find(detector.bundle.calibration_paths)
    if found is None:
        if needed:
            raise deciding.not_calibrated(detector.bundle.name)
        return None
    differing = found.mismatches(detector.calibration_settings)
    if differing and (needed or path is not None):
        found.check(detector.calibration_settings)
    if differing:
        console.warn("not decided, for the calibration was made otherwise: " + "; ".join(differing))
        return None
    if rule:
        check_level(rule, found, n_images)
    return found


def _repeated(
    detector: Detector, data_root: Path | None, calibration: Path | None
) -> dict[str, str]:
    """The options that the next command needs to find the model and show what was scored here."""
    usual = type(detector)()
    given = {
        "--model": (str(detector.model), str(usual.model)),
        "--data-root": (str(data_root or ""), ""),
        "--calibration": (str(calibration or ""), ""),
        "--seed": (str(detector.seed), str(usual.seed)),
        "--proposal": (detector.proposal, usual.proposal),
    }
    return {name: value for name, (value, default) in given.items() if value != default}


def default_output(sources: list[str]) -> Path:
    """SOURCE.scores.h5 in the current folder, named after the first source."""
    first = sources[0].rstrip("/").replace(":", "-").replace("#", "-")
    name = Path(first).resolve().name if first in (".", "..") else Path(first).name
    return Path(f"{name if name and name != '-' else 'images'}.scores.h5")


def remarks(detector: Detector, scores: ScoreFile) -> Iterator[str]:
    """What an analyst must know before believing the scores."""
    config = detector.bundle.config
    n = int(scores.scored.sum())
    done = {
        name: int(((scores.conversions & bit) != 0).sum())
        for name, bit in scores.conversion_codes.items()
    }
    said = conversions_in_words(n, done, config.image_size)
    if said:
        yield said
    foreign = max((done.get(name, 0) for name in ("resized", "greyed", "coloured")), default=0)
    if n and foreign > n / 2:
        kind = "grey" if config.image_channels == 1 else "colour"
        yield (
            f"the model {detector.bundle.name} was trained on {config.image_size}x"
            f"{config.image_size} {kind} images; most of these are something else, and for that "
            "alone their scores may be high or low. hvaeood train makes a model of your own images"
        )
    if scores.decision is None and detector.reference is None:
        yield (
            f"{detector.bundle.name} has no reference scores for these settings: images are "
            "ranked against this batch alone"
        )


def run(
    detector: Detector,
    manifest: Manifest,
    out: Path,
    label: int | None,
    force: bool,
    talk: bool,
) -> bool:
    """Score into a file, with a bar on a terminal; False where it was done already."""
    with _progress(talk) as progress:
        try:
            return detector.score_to_file(
                manifest, out, label=label, force=force, progress=progress
            )
        except KeyboardInterrupt:
            error = HvaeoodError(
                "interrupted", "run the same command again: it goes on where it was"
            )
            error.exit_code = ExitCode.INTERRUPTED
            raise error from None


@contextlib.contextmanager
def _progress(talk: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, on a terminal alone."""
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
