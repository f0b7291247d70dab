"""`hvaeood score`: score images, and flag those that do not belong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console, deciding, options, scoring
from hvaeood_cli.cli.config import source_of
from hvaeood_cli.cli.listing import listed
from hvaeood_cli.cli.printing import Printing
from hvaeood_cli.errors import ExitCode, UsageError
from hvaeood_cli.files import check_folder, check_output

if TYPE_CHECKING:
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.scoring.run import ScoringRun
    from hvaeood_cli.scoring.update import Changes
    from hvaeood_cli.store.decision import Rule
    from hvaeood_cli.store.shard import Shard


def score(
    context: typer.Context,
    sources: options.Sources,
    model: options.Model = "fashionmnist",
    output: options.ScoreOutput = None,
    samples: options.Samples = None,
    samples_k: options.SamplesK = 1,
    proposal: options.Proposal = "mean",
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    precision: options.Precision = "float32",
    statistics: options.Statistics = "",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    workers: options.Workers = None,
    engine: options.Engine = "local",
    address: options.Address = "auto",
    shard: options.OfShard = None,
    label: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=1, help="Label all: 0 in-distribution, 1 OOD; for evaluation."
        ),
    ] = None,
    fpr: options.Fpr = None,
    fdr: options.Fdr = None,
    by: options.By = False,
    calibration: options.CalibrationFile = None,
    fail_on_flagged: options.FailOnFlagged = False,
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

    Scores go to an HDF5 file, the oddest images to the terminal. With a calibrated model, images
    are flagged at a false-positive rate. Run again after an interruption, it goes on where it was;
    run again when files came, changed, moved or went, it scores only what is new to it.

    With --shard I/N it scores a shard of the images, so that N jobs score them all. Each leaves a
    part in the folder -o (SOURCE.parts), and **hvaeood merge** makes one score file of them.

    Next: **hvaeood report FILE** shows them all; **hvaeood decide FILE --fdr 0.05** flags anew.
    """
    printing = Printing.chosen(json_, jsonl, csv, quiet)
    rules = deciding.Rules.of(context, fpr, fdr, by)
    if source_of(context, "address") == "COMMANDLINE" and engine != "ray":
        raise UsageError("--address names a Ray cluster", "give --engine ray as well")
    if shard:
        _check_undecided(rules.asked, calibration, fail_on_flagged, printing)
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.calibration.ranking import Ranking

    assembly = Assembly(
        model,
        n_importance_samples=samples,
        n_importance_samples_k=samples_k,
        proposal=proposal,
        seed=seed,
        precision=precision,
        statistics=statistics,
        device=device,
        runtime=runtime,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
        address=address,
    )
    _ = assembly.settings, assembly.bundle  # raises what is wrong with them before any work
    manifest = listed(sources, null, data_root, download, not quiet)
    if shard:
        run = assembly.run(manifest, label)
        parts = output or scoring.parts_for(sources, manifest)
        _score_shard(run, shard, parts, force, quiet)
        return
    out = output or scoring.output_for(sources, manifest)
    check_output(out, "scores.h5")
    warn = console.warner(quiet)
    asked = deciding.Asked(rules, calibration, fail_on_flagged, force)
    decide = deciding.Decider.of(assembly, out, len(manifest), asked, warn)
    if not quiet and manifest.skipped:
        files = "file" if manifest.skipped == 1 else "files"
        console.say(f"left out: {manifest.skipped} {files} without an image's ending")

    started = time.monotonic()
    run = assembly.run(manifest, label)
    changes: list[Changes] = []
    whole, fresh = scoring.score_into(run, out, decide, force, not quiet, changes.append)
    scores = whole.present
    done = "before; decided anew" if decide.anew else "before; nothing has changed since"
    if fresh:
        done = f"in {time.monotonic() - started:.1f} s on {scoring.place(scores)}"
        done = ": ".join([done, *map(str, changes)])
    found = decide.that_decided(scores, model, warn)
    for line in scoring.remarks(assembly, scores):
        warn(line)
    ranking = Ranking.of(scores, found)
    printing.show(scores, ranking, top, done, _repeated(assembly, data_root, calibration))
    if fail_on_flagged and scores.decision and scores.decision.n_flagged:
        raise typer.Exit(ExitCode.FLAGGED)
    if scores.unreadable.any():
        raise typer.Exit(ExitCode.SOME_UNREADABLE)


def _check_undecided(
    rule: Rule | None, calibration: Path | None, to_fail: bool, printing: Printing
) -> None:
    """Raise UsageError for what cannot be asked of a part."""
    asked = {
        "--fpr and --fdr are": rule,
        "--calibration is": calibration,
        "--fail-on-flagged is": to_fail,
        f"--{printing.value} is": printing in (Printing.JSON, Printing.JSONL, Printing.CSV),
    }
    for option, given in asked.items():
        if given:
            raise UsageError(
                f"{option} not for a shard: nothing is decided before all are merged",
                "leave it out here, and give it to hvaeood merge",
            )


def _score_shard(run: ScoringRun, shard: Shard, parts: Path, force: bool, quiet: bool) -> None:
    """Score a shard into its part in a folder of parts, unless the part stands there."""
    from hvaeood_cli.store.parts import part_name

    n = len(run.manifest)
    if not shard.places(n):
        if not quiet:
            console.say(f"shard {shard} of {n:,} images has none: nothing to do")
        return
    check_folder(parts)
    started = time.monotonic()
    run = run.shard(shard)
    parts.mkdir(exist_ok=True)
    out = parts / part_name(run.header("", ""))
    check_output(out, out.name)
    scores, fresh = scoring.score_into(run, out, lambda _: None, force, not quiet)
    if not quiet:
        how = f"scored in {time.monotonic() - started:.1f} s on {scoring.place(scores)}"
        console.say(
            f"shard {shard}: {scores.n_scored:,} of {len(scores):,} images "
            f"{how if fresh else 'scored before; the part stands'}: {out}"
        )
    if scores.unreadable.any():
        raise typer.Exit(ExitCode.SOME_UNREADABLE)


def _repeated(
    assembly: Assembly, data_root: Path | None, calibration: Path | None
) -> dict[str, str]:
    """The options that the next command must repeat to find the model and show the images."""
    usual = type(assembly)()
    given = {
        "--model": (str(assembly.model), str(usual.model)),
        "--data-root": (str(data_root or ""), ""),
        "--calibration": (str(calibration or ""), ""),
        "--seed": (str(assembly.seed), str(usual.seed)),
        "--proposal": (assembly.proposal, usual.proposal),
    }
    return {name: value for name, (value, default) in given.items() if value != default}
