"""`hvaeood calibrate`: score usual images, so that `score` can flag unusual ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import config, console, deciding, options, scoring
from hvaeood_cli.cli.listing import listed
from hvaeood_cli.errors import CalibrationError, StoreError, UsageError
from hvaeood_cli.files import check_output
from hvaeood_cli.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.images.sources import Manifest
    from hvaeood_cli.scoring.run import ScoringRun
    from hvaeood_cli.store.score_file import ScoreFile

_ENDING = ".h5"
_SETTINGS = {  # of a score file, by the option that asks for them
    "samples": "n_importance_samples",
    "samples_k": "n_importance_samples_k",
    "proposal": "proposal",
    "precision": "precision",
}


def calibrate(
    context: typer.Context,
    sources: options.Sources,
    model: options.Model = "fashionmnist",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The calibration, for score --calibration.",
            show_default="beside the model",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the images' scores go.", show_default="they are not kept"
        ),
    ] = None,
    allow_training_images: Annotated[
        bool,
        typer.Option("--allow-training-images", help="Take images that the model was trained on."),
    ] = False,
    skip_training_images: Annotated[
        bool,
        typer.Option(
            "--skip-training-images", help="Leave out images that the model was trained on."
        ),
    ] = False,
    samples: options.Samples = None,
    samples_k: options.SamplesK = 1,
    proposal: options.Proposal = "mean",
    seed: options.Seed = 0,
    precision: options.Precision = "float32",
    statistics: options.Statistics = "",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    workers: options.Workers = None,
    null: options.Null = False,
    data_root: options.DataRoot = None,
    remote: options.Remote = False,
    download: options.Download = False,
    json_: options.Json = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Score images that belong, so that score can flag those that do not.

    Example: **hvaeood calibrate held-out/ --model mine**

    SOURCE holds 1,000 or more images that belong and that the model was not trained on, or is one
    score file (.h5) of such images. Their scores are kept with --scores alone. The calibration goes
    beside the model. That of a model that ships goes to your own folder, and is then used instead
    of the one that ships.

    Next: **hvaeood score FOLDER --model mine --fpr 0.01**
    """
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.calibration.combination import lacking
    from hvaeood_cli.store.reader import read_scores

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
        workers=workers,
    )
    _ = assembly.settings, assembly.bundle  # raises what is wrong with them before any work
    if statistics and assembly.bundle.config.fit == "tile" and not quiet:
        console.warn(f"the calibration does without {statistics}: {deciding.OF_TILES}")
    if allow_training_images and skip_training_images:
        raise UsageError(
            "--allow-training-images and --skip-training-images exclude one another", "choose one"
        )
    if output:
        check_output(output, "calibration.npz")
    if any(source.endswith(_ENDING) for source in sources):
        if len(sources) > 1:
            raise UsageError(
                "a score file must be the only SOURCE", f"one {_ENDING} file, or images"
            )
        found = read_scores(Path(sources[0])).present
        _check_as_asked(context, found)
        if (absent := lacking(found.header.fit == "tile", found.columns)) and not quiet:
            console.warn(
                f"{sources[0]} is from before {', '.join(absent)} were kept, and the calibration "
                "does without them; hvaeood score SOURCE --force measures them"
            )
        if skip_training_images:
            found = found.of_rows(_held_out(assembly, found.content, not quiet))
        kept: Path | None = found.path
    else:
        remote = True  # the user names them, and no score file does
        manifest = listed(sources, null, data_root, download, not quiet)
        out = scores or scoring.scratch_for(sources, assembly, manifest)
        check_output(out, "scores.h5", "--scores")
        kept = scores
        manifest = _to_score(
            assembly, manifest, allow_training_images, skip_training_images, not quiet
        )
        found = _score(assembly.run(manifest), out, force, kept is not None, not quiet)
    calibration = assembly.calibration_from(found, allow_training_images)
    place = output or _place(assembly, calibration)
    anew = _save(calibration, place, force)
    maps = scoring.keep_usual_maps(
        assembly, found, place, data_root, remote, anew, console.warner(quiet)
    )
    if kept is None:
        found.path.unlink(missing_ok=True)
    if json_:
        console.emit_json(_facts(calibration, found, place, kept) | {"maps": maps and str(maps)})
    elif not quiet:
        _show(calibration, found, place)


def _to_score(
    assembly: Assembly, manifest: Manifest, allow_trained: bool, skip_trained: bool, talk: bool
) -> Manifest:
    """The images to calibrate on. Raises CalibrationError for what would be refused once scored."""
    import numpy as np

    from hvaeood_cli.calibration.calibration import check_enough
    from hvaeood_cli.images.content import short_keys

    check_enough(len(manifest))
    if allow_trained or not len(assembly.bundle.training_hashes()):
        return manifest
    content = short_keys(manifest, assembly.bundle.config)
    if not skip_trained:
        assembly.check_held_out(content, lambda i: os.fsdecode(manifest.name(i)))
        return manifest
    held_out = _held_out(assembly, content, talk)
    check_enough(int(held_out.sum()))
    return manifest if held_out.all() else manifest.pick(np.flatnonzero(held_out))


def _held_out(assembly: Assembly, content: NDArray[np.uint64], talk: bool) -> NDArray[np.bool_]:
    """Which images the model was not trained on, (N,). Says how many are left out."""
    trained = assembly.bundle.trained_on(content)
    if talk and trained.any():
        console.say(f"left out: {trained.sum():,} images that the model was trained on")
    return ~trained


def _score(run: ScoringRun, out: Path, force: bool, keep: bool, talk: bool) -> ScoreFile:
    """Score the images to calibrate on. force: replace what is in the way.

    What an earlier try left under a name of its own is used all the same, if it can be.
    """
    try:
        anew = force and keep
        return scoring.score_into(run, out, lambda scores: None, anew, talk)[0].present
    except StoreError:
        if keep or not force:
            raise
        return scoring.score_into(run, out, lambda scores: None, force, talk)[0].present


def _check_as_asked(context: typer.Context, scores: ScoreFile) -> None:
    """Raise UsageError for options that a score file was not made with."""
    from hvaeood_cli.calibration.calibration import MUST_AGREE
    from hvaeood_cli.settings import ScoreSettings

    for option, setting in _SETTINGS.items():
        there, value = getattr(scores.header, setting), context.params[option]
        if config.is_given(context, option) and value != there:
            raise UsageError(
                f"{scores.path} was scored with another setting, {MUST_AGREE[setting]}: "
                f"{there} there, {value} asked for",
                "leave the option out, or name the images to score them anew",
            )
    wanted = ScoreSettings(statistics=context.params["statistics"]).asked
    if absent := sorted({*wanted} - {*scores.sizes.asked}):
        raise UsageError(
            f"{scores.path} has no {', '.join(absent)}",
            "leave --statistics out, or name the images to score them anew",
        )


def _place(assembly: Assembly, calibration: Calibration) -> Path:
    """Where to save: the usual place, or another if a calibration of other settings is there."""
    plain = assembly.bundle.calibration_place()
    try:
        plain.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make {plain.parent}: {error.strerror}", "choose a place: -o calibration.npz"
        ) from None
    there = _load(plain)
    same = there is not None and there.settings == calibration.settings
    if there is None or (same and there.asked == calibration.asked):
        return plain
    names = "-".join(("", calibration.settings_id, *calibration.asked))
    return assembly.bundle.calibration_place(names)


def _save(calibration: Calibration, place: Path, force: bool) -> bool:
    """Save, unless this very calibration is there already; whether it was saved.

    Raises StoreError for another one.
    """
    check_output(place, "calibration.npz")
    if place.exists() and not force and _is_there(calibration, place):
        return False
    try:
        calibration.save(place)
    except OSError as error:
        raise StoreError(
            f"cannot write {place}: {error.strerror}", "make room, or choose another -o"
        ) from None
    return True


def _is_there(calibration: Calibration, place: Path) -> bool:
    """Whether a file holds that very calibration; False where nothing is lost by replacing it.

    Raises StoreError where something would be.
    """
    from hvaeood_cli.calibration.calibration import Calibration, OutdatedError

    hint = "--force replaces it; -o FILE keeps both"
    try:
        there = Calibration.load(place)
    except OutdatedError:
        return False
    except CalibrationError as error:
        raise StoreError(error.message, hint) from None
    if there.id != calibration.id and there.about.get("made_by") == "train":
        return False  # the images that are given now were chosen, those not
    if there.id != calibration.id:
        raise StoreError(f"{place} holds another calibration ({there.id})", hint)
    return True


def _load(place: Path) -> Calibration | None:
    """The calibration at `place`; None where there is none or it is broken."""
    from hvaeood_cli.calibration.calibration import Calibration

    try:
        return Calibration.load(place)
    except CalibrationError:
        return None


def _facts(
    calibration: Calibration, scores: ScoreFile, place: Path, kept: Path | None
) -> dict[str, object]:
    from hvaeood_cli.calibration.conformal import least_p

    n = len(calibration.combined)
    return {
        "id": calibration.id,
        "file": str(place),
        "scores": str(kept) if kept else None,
        "n_images": len(calibration),
        "n_unreadable": int(scores.unreadable.sum()),
        "n_calibration": n,
        "least_p": least_p(n),
        "settings": calibration.settings,
    }


def _show(calibration: Calibration, scores: ScoreFile, place: Path) -> None:
    from rich.text import Text

    from hvaeood_cli.calibration.conformal import least_p

    n, n_bad = len(calibration.combined), int(scores.unreadable.sum())
    text = Text.assemble("calibration ", (calibration.id, "bold"))
    text.append(f" of {printable(str(calibration.about['model_name']))}: ")
    apart = len(calibration) - n
    text.append(f"{len(calibration):,} images")
    text.append(f", {apart:,} of them for the densities\n" if apart else "\n")
    if n_bad:
        text.append(f"left out  {n_bad:,} that could not be read\n", style="yellow")
    text.append(f"p-values  from {n:,} images, so none below 1/{n + 1} = {least_p(n):.2g}\n")
    text.append("kept in   ")
    text.append(printable(str(place)), style="bold")
    console.show(text)
