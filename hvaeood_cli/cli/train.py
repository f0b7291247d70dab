"""`hvaeood train`: train a model on your own images."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from hvaeood_cli.cli import console, options, training
from hvaeood_cli.cli.listing import listed
from hvaeood_cli.cli.scoring import progress_of
from hvaeood_cli.errors import UsageError

if TYPE_CHECKING:
    from hvaeood_cli.model.bundle import Bundle
    from hvaeood_cli.settings import TrainSettings
    from hvaeood_cli.training.loop import Progress
    from hvaeood_cli.training.reading import Read
    from hvaeood_cli.training.run import Calibrating

_LOG_SECONDS = 30.0  # between progress lines, where there is no terminal to draw on


def train(
    sources: options.Sources,
    out: options.ModelFolder,
    preset: options.Preset = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    fit: options.Fit = None,
    tile: options.Tile = None,
    stride: options.Stride = None,
    scale: options.Scale = None,
    name: options.ModelName = None,
    epochs: options.Epochs = None,
    minutes: options.Minutes = None,
    validation: options.Validation = None,
    calibrate: options.CalibrationShare = None,
    batch_size: options.TrainBatchSize = None,
    learning_rate: options.LearningRate = None,
    semantic_weight: options.SemanticWeight = None,
    setting: options.Setting = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    devices: options.Devices = 1,
    strategy: options.Strategy = "auto",
    precision: options.TrainPrecision = "32-true",
    compile_: options.Compile = False,
    checkpoint_every: options.CheckpointEvery = 60.0,
    cached: options.Cached = True,
    null: options.Null = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on images that belong.

    Example: **hvaeood train photos/ --out my-model --minutes 30**

    DIR becomes a model for score --model DIR, calibrated on images that are set aside, so that
    score can flag. After an interruption, the same command goes on from the last checkpoint.

    Next: **hvaeood score FOLDER --model DIR**
    """
    started = time.monotonic()
    from hvaeood_cli.training.choosing import Asked, choose

    _check_precision(precision)
    if "-" in sources:
        _check_alone(devices)
    manifest = listed(sources, null, data_root, download, not quiet)
    asked = Asked(preset, channels, image_size, fit, tile, stride, scale)
    chosen = choose(asked, manifest)
    config = chosen.config
    given = {
        "epochs": epochs,
        "minutes": minutes,
        "validation": validation,
        "calibration": calibrate,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "semantic_weight": semantic_weight,
        "seed": seed,
    }
    settings = _settings(chosen.settings, given, setting or [])

    from hvaeood_cli.device import choose_device, make_fabric
    from hvaeood_cli.training.reading import check_channels
    from hvaeood_cli.training.run import TrainingRun

    fabric = make_fabric(choose_device(device), cast(Any, precision), devices, strategy)
    if not fabric.is_global_zero:
        console.mute()
    talk = not quiet and fabric.is_global_zero
    cache = training.cache_of(manifest, config, cached, talk)
    with training.interruptible() as stop:
        read = training.read(manifest, config, cache, talk, stop, fabric)
    if channels is None:
        check_channels(read, config)
    training.make_folder(out)
    if talk:
        n = fabric.world_size
        where = f"{n} x {fabric.device.type}" if n > 1 else str(fabric.device)
        _say_what_was_read(read, config.image_size)
        n = len(read.images)
        console.say(f"{n:,} images, preset {chosen.preset}{chosen.why}, on {where}, into {out}")
        if chosen.taken:
            console.say(chosen.taken)
    run = TrainingRun(
        config=config,
        settings=settings,
        fabric=fabric,
        out=out,
        name=name or out.resolve().name,
        compiled=compile_,
        checkpoint_seconds=checkpoint_every,
        command=["hvaeood", *sys.argv[1:]],
        conversions=read.conversions,
        started=started,
    )
    split = run.split(len(read.images), len(read.pixels) / len(read.images))
    if talk:
        n_tiles = len(read.images.rows_of(split.trained_on))
        by = f" by {n_tiles:,} tiles" if chosen.taken else ""
        console.say(
            f"{len(split.trained_on):,} to train on{by}, {len(split.validation):,} for the curve, "
            f"{len(split.calibration):,} to calibrate on"
        )
    with (
        _progress(settings, training.what_is_trained_on(chosen.config), talk) as report,
        _calibrating(talk) as calibrating,
        training.interruptible() as stop,
    ):
        bundle = run.of(read.pixels, force, stop, report, read.images, calibrating)
    if talk:
        _tell(bundle, out, settings)


def _check_precision(name: str) -> None:
    """Raise UsageError for a precision that training does not have."""
    from hvaeood_cli.settings import Precision

    if name not in get_args(Precision):
        raise UsageError(f"no precision {name!r}", ", ".join(get_args(Precision)))


def _check_alone(devices: int) -> None:
    """Raise UsageError where several processes would read a list on standard input."""
    from hvaeood_cli.device import launch

    if devices > 1 or launch():
        raise UsageError(
            "a list on standard input cannot be read by several processes",
            "write it to files or name a folder",
        )


def _say_what_was_read(read: Read, image_size: int) -> None:
    """Warn of images that cannot be used, and of how the others were converted."""
    from hvaeood_cli.store.conversions import conversions_in_words

    if read.unusable:
        console.warn(f"{len(read.unusable)} images cannot be used, first {read.unusable[0]}")
    converted = conversions_in_words(len(read.images), read.conversions, image_size)
    if converted:
        console.warn(converted)


def _settings(preset: TrainSettings, given: dict[str, Any], pairs: list[str]) -> TrainSettings:
    import json

    from pydantic import ValidationError

    changed = {key: value for key, value in given.items() if value is not None}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in type(preset).model_fields:
            known = ", ".join(type(preset).model_fields)
            raise UsageError(f"--set {pair}: no such setting", f"settings: {known}")
        try:
            changed[key] = json.loads(value)
        except json.JSONDecodeError:
            changed[key] = value
    try:
        return preset.model_validate(preset.model_dump() | changed)
    except ValidationError as error:
        first = error.errors()[0]
        of_set = [f"--set {pair}" for pair in pairs if pair.startswith(f"{first['loc'][0]}=")]
        raise UsageError(
            f"{of_set[-1] if of_set else '.'.join(map(str, first['loc']))}: {first['msg']}",
            f"the preset has {getattr(preset, str(first['loc'][0]))}",
        ) from None


@contextlib.contextmanager
def _progress(
    settings: TrainSettings, what: str, talk: bool
) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, else a line now and then. what: images or tiles."""
    if not talk:
        yield lambda progress: None
    elif console.err().is_terminal:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TaskProgressColumn())
        with Bar(*columns, console=console.err()) as bar:
            task = bar.add_task("starting", total=1.0)

            def draw(progress: Progress) -> None:
                bar.update(
                    task, completed=progress.fraction, description=_line(progress, settings, what)
                )

            yield draw
    else:
        last = -_LOG_SECONDS

        def log(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last > _LOG_SECONDS or progress.fraction >= 1.0:
                last = time.monotonic()
                console.say(f"{progress.fraction:6.1%}  {_line(progress, settings, what)}")

        yield log


@contextlib.contextmanager
def _calibrating(talk: bool) -> Iterator[Calibrating]:
    """A bar for each part of calibrating, from when it begins to when the next one does."""
    with contextlib.ExitStack() as bar:
        show: dict[str, Callable[[int, int], None]] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in show:
                bar.close()
                show[what] = bar.enter_context(progress_of(f"calibrating: {what}", talk))
            show[what](done, total)

        yield draw


def _line(progress: Progress, settings: TrainSettings, what: str) -> str:
    minutes, seconds = divmod(int(progress.seconds_left), 60)
    kls = " ".join(f"{kl:.1f}" for kl in progress.kl)
    skipped = f"{progress.skipped} skipped  " if progress.skipped else ""
    return (
        f"epoch {progress.epoch}/{settings.epochs}  ELBO {progress.elbo:.1f}  KL {kls}  {skipped}"
        f"{progress.images_per_second:.0f} {what}/s  {minutes}:{seconds:02d} left"
    )


def _tell(bundle: Bundle, out: Path, settings: TrainSettings) -> None:
    from hvaeood_cli.calibration.usual_maps import NOT_KNOWN, place_of

    curve = bundle.training.get("curve", [])
    if curve and "validation_bits_per_dim" in curve[-1]:
        bits = curve[-1]["validation_bits_per_dim"]
        names = ["L"] + [f"L>{k}" for k in range(1, len(bits))]
        parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, bits, strict=True))
        console.say(f"validation, bits/dim (S = 1): {parts}")
    minutes = bundle.training.get("minutes", 0.0)
    console.say(f"model {bundle.name} in {out}, trained in {minutes:.1f} minutes")
    if not bundle.calibrations:
        few = "" if settings.calibration == 0 else ", for too few images were set aside"
        console.warn(
            f"it is not calibrated{few}: score will rank, and flag nothing. hvaeood calibrate "
            f"HELD-OUT-IMAGES --model {shlex.quote(str(out))}"
        )
    elif not place_of(bundle.calibration_place()).exists():
        console.warn(f"maps stay in nats: {NOT_KNOWN}")
    console.say(f"next: hvaeood score FOLDER --model {shlex.quote(str(out))}")
