"""`hvaeood find`: look for odd images in a folder of which nothing is known."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console, deciding, options, scoring, training
from hvaeood_cli.cli.listing import listed
from hvaeood_cli.cli.printing import Printing
from hvaeood_cli.errors import CalibrationError, ExitCode, UsageError
from hvaeood_cli.files import check_output

if TYPE_CHECKING:
    from hvaeood_cli.settings import TrainSettings
    from hvaeood_cli.store.decision import Decision, Rule
    from hvaeood_cli.store.score_file import ScoreFile
    from hvaeood_cli.training.loop import Progress

_MOST_EPOCHS = 1000
_REPORTING_SECONDS = 5.0


def find(
    context: typer.Context,
    sources: options.Sources,
    output: options.ScoreOutput = None,
    model_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="The folder of the models.",
            show_default="SOURCE.model",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page.", show_default="SOURCE.report.html"),
    ] = None,
    minutes: Annotated[
        float, typer.Option(metavar="N", min=0.01, help="How long the whole may take.")
    ] = 20.0,
    fpr: options.Fpr = None,
    preset: options.Preset = None,
    fit: options.Fit = None,
    tile: options.Tile = None,
    stride: options.Stride = None,
    scale: options.Scale = None,
    folds: Annotated[
        int, typer.Option(metavar="N", min=2, max=8, help="How many models are trained.")
    ] = 2,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    top: options.Top = 10,
    cached: options.Cached = True,
    null: options.Null = False,
    data_root: options.DataRoot = None,
    json_: options.Json = False,
    jsonl: options.Jsonl = False,
    csv: options.Csv = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the odd images in a folder of which nothing is known.

    Example: **hvaeood find photos/**

    Trains models on the images themselves, each on a part of them, and scores every image with a
    model that has not seen it. Needs no labels and no images that are known to belong, but most
    must: where more than a few per cent are odd, they hide one another. After an interruption, the
    same command goes on.

    Next: open the report, or **hvaeood tui FILE.h5**
    """
    started = time.monotonic()
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    from hvaeood_cli.calibration.calibration import check_enough
    from hvaeood_cli.calibration.ranking import Ranking
    from hvaeood_cli.training.choosing import Asked, choose

    rules = deciding.Rules.of(context, fpr, None, False)
    manifest = listed(sources, null, data_root, talk=not quiet)
    check_enough(len(manifest))
    out = output or scoring.output_for(sources, manifest)
    check_output(out, "scores.h5")
    base = out.name.removesuffix(".h5").removesuffix(".scores")
    folder = model_out or out.with_name(f"{base}.model")
    page = report or out.with_name(f"{base}.report.html")
    _check_page(page, force)
    warn = console.warner(quiet)
    _check_level(rules, None if force else deciding.standing_decision(out), len(manifest))
    asked = Asked(preset, fit=fit, tile=tile, stride=stride, scale=scale)
    chosen = choose(asked, manifest)
    if not quiet:
        console.say(f"preset {chosen.preset}{chosen.why}")
        if chosen.taken:
            console.say(chosen.taken)
        console.say(f"{folds} models into {folder}, then scores into {out}: {minutes:g} minutes")

    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.training.cross_fit import CrossFit

    cross_fit = CrossFit(
        config=chosen.config,
        settings=_settings(chosen.settings, minutes, seed),
        n_folds=folds,
        device=device,
        out=folder,
        name=folder.name,
        started=started,
        reserved_seconds=_REPORTING_SECONDS,
        command=["hvaeood", *sys.argv[1:]],
    )
    training.make_folder(folder)
    cache = training.cache_of(manifest, chosen.config, cached, not quiet)
    with (
        _progress(training.what_is_trained_on(chosen.config), not quiet) as draw,
        training.interruptible() as stop,
    ):

        def read() -> None:
            training.read(manifest, chosen.config, cache, not quiet, stop)

        bundle = cross_fit.of(manifest, force, stop, draw, cache, read)

    assembly = Assembly(folder, seed=seed, device=device)

    def decide(scores: ScoreFile) -> Decision:
        rule = rules.where(scores.decision, warn)
        if scores.decision and rule is None:
            return scores.decision
        return _among_themselves(scores, rule, bundle.calibration_place())

    scores, fresh = scoring.score_into(assembly.run(manifest), out, decide, force, not quiet)
    place = bundle.calibration_place()
    scoring.keep_usual_maps(assembly, scores.present, place, data_root, True, False, warn)
    calibration = deciding.calibration_that_decided(scores, str(folder), warn)
    minutes_taken = (time.monotonic() - started) / 60.0
    done = f"in {minutes_taken:.1f} minutes" if fresh else "before; nothing has changed since"
    for line in scoring.remarks(assembly, scores):
        warn(line)
    again = {"--data-root": str(data_root)} if data_root else {}
    _write_report(out, page, folder, data_root, device, quiet)
    printing.show(scores, Ranking.of(scores, calibration), top, done, again, page)
    if scores.unreadable.any():
        raise typer.Exit(ExitCode.SOME_UNREADABLE)


def _among_themselves(scores: ScoreFile, rule: Rule | None, place: Path) -> Decision:
    """Decide by comparing the images with one another; that calibration is kept at `place`."""
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.calibration.rules import decide_as_asked

    calibration = Calibration.within(scores, {"made_by": "find"})
    if not place.exists():
        calibration.save(place)
    return decide_as_asked(calibration, scores, rule)


def _check_level(rules: deciding.Rules, standing: Decision | None, n_images: int) -> None:
    """Raise CalibrationError, before anything is trained, where no image could ever be flagged."""
    from hvaeood_cli.calibration.conformal import least_p
    from hvaeood_cli.store.decision import Rule

    rule = rules.where(standing, lambda _: None) or (standing.by if standing else Rule())
    least = 2.0 * least_p(n_images)  # the oddest image is among those that it is compared with
    if least > rule.level:
        enough = math.ceil(1000 * least) / 1000
        raise CalibrationError(
            f"among {n_images:,} images the oddest has p = {least:.3g}, and {rule} flags none",
            f"--fpr {enough:g}, or give more images",
        )


def _check_page(page: Path, force: bool) -> None:
    """Raise UsageError where the report would replace a file that is no report of this program."""
    from hvaeood_cli.report.page import fingerprint_of

    check_output(page, "report.html", "--report")
    if page.exists() and not force and fingerprint_of(page) is None:
        raise UsageError(f"{page} is there, and is no report", "choose another --report")


def _settings(preset: TrainSettings, minutes: float, seed: int) -> TrainSettings:
    """Those of the preset, but the clock ends the training: of few images, more epochs."""
    changes = {"minutes": minutes, "seed": seed, "epochs": _MOST_EPOCHS}
    return preset.model_copy(update=changes)


@contextlib.contextmanager
def _progress(what: str, talk: bool) -> Iterator[Callable[[Sequence[Progress]], None]]:
    """A bar for all folds together on a terminal, else a line now and then.

    what: images or tiles.
    """
    with console.progress("training", talk) as show:

        def draw(folds: Sequence[Progress]) -> None:
            slowest = min(folds, key=lambda fold: fold.fraction)
            rate = sum(fold.images_per_second for fold in folds)
            show(slowest.fraction, f"{rate:.0f} {what}/s", slowest.seconds_left)

        yield draw


def _write_report(
    out: Path, page: Path, model: Path, data_root: Path | None, device: str, quiet: bool
) -> None:
    """The page of `hvaeood report`. One that an earlier start made is replaced."""
    from hvaeood_cli.cli.report import report

    ours = page.exists()  # and was checked to be ours, or is to be replaced
    report(
        [out],
        page,
        format_="html",
        model=str(model),
        data_root=data_root,
        remote=True,  # whatever is in it, the user has named
        device=device,
        force=ours,
        quiet=quiet,
    )
