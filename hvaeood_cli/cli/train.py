"""`hvaeood train`: a model of your own images."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from hvaeood_cli.cli import console, options
from hvaeood_cli.errors import ExitCode, HvaeoodError, UsageError

if TYPE_CHECKING:
    from hvaeood_cli.model.bundle import Bundle
    from hvaeood_cli.settings import TrainSettings
    from hvaeood_cli.training.loop import Progress

_LOG_SECONDS = 30.0  # between lines where there is no terminal to draw on


def train(
    sources: options.Sources,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="The model's folder."),
    ],
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="compact-gray, compact-rgb, compact-biva-gray, compact-biva-rgb or "
            "compact-lvae-gray; paper-gray, paper-rgb-appendix, paper-rgb-code or paper-biva-rgb.",
        ),
    ] = "compact-gray",
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=4, help="Height and width, pixels.", show_default="the preset's"
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(metavar="N", help="1 (grey) or 3 (RGB).", show_default="the preset's"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the model is called.", show_default="DIR's name")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Passes over the images.", show_default="the preset's"
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.01,
            help="Stop by then; schedules shrink to fit.",
            show_default="none",
        ),
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Images set aside for the curve.", show_default="1000"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Images a step.", show_default="the preset's"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its highest.", show_default="the preset's")
    ] = None,
    semantic_weight: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.0,
            help="Weight of L>k in the loss; 0 is the paper.",
            show_default="the preset's",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other training setting, as JSON: ema, accumulate, gradient_skip, free_nats, "
            "posterior_scale, kl_warmup ...; a wrong KEY lists them all.",
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    devices: Annotated[
        int, typer.Option(metavar="N", min=1, help="Train on so many, a process each.")
    ] = 1,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="How devices share the work, by Fabric's name: ddp.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="32-true, tf32, bf16-mixed or 16-mixed.")
    ] = "32-true",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile have the model: for long runs.")
    ] = False,
    checkpoint_every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="How much a kill may cost.")
    ] = 60.0,
    null: options.Null = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on images that belong.

    Example: **hvaeood train photos/ --out my-model --minutes 30**

    DIR becomes a model for score --model DIR. Cut short, the same command goes on from the last
    checkpoint. Next: **hvaeood score FOLDER --model DIR**
    """
    from hvaeood_cli.images.sources import open_sources
    from hvaeood_cli.model.presets import for_images, get_preset
    from hvaeood_cli.settings import Precision

    chosen = get_preset(preset)
    model = for_images(chosen.model, image_size, channels)
    if precision not in get_args(Precision):
        raise UsageError(f"no precision {precision!r}", ", ".join(get_args(Precision)))
    given = {
        "epochs": epochs,
        "minutes": minutes,
        "validation": validation,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "semantic_weight": semantic_weight,
        "seed": seed,
    }
    settings = _settings(chosen.train, given, setting or [])
    if devices > 1 and "-" in sources:
        raise UsageError(
            "a list on standard input cannot be read by several processes",
            "write it to files or name a folder",
        )
    manifest = open_sources(sources, options.stdin_paths(sources, null), data_root, download)

    from hvaeood_cli.cli.printing import conversions_in_words
    from hvaeood_cli.device import choose_device, make_fabric
    from hvaeood_cli.training.run import check_channels, fit_bundle, read_pixels

    fabric = make_fabric(choose_device(device), cast(Precision, precision), devices, strategy)
    if not fabric.is_global_zero:
        console.mute()
    talk = not quiet and fabric.is_global_zero
    read = read_pixels(manifest, model)
    if channels is None:
        check_channels(read, model)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise UsageError(f"cannot make {out}: {refused.strerror}", "choose another --out") from None
    pixels = read.pixels
    if talk:
        if read.unusable:
            console.warn(f"{len(read.unusable)} images cannot be used, first {read.unusable[0]}")
        converted = conversions_in_words(len(pixels), read.conversions, model.image_size)
        if converted:
            console.warn(converted)
        where = f"{devices} x {fabric.device.type}" if devices > 1 else str(fabric.device)
        console.say(f"{len(pixels):,} images, preset {preset}, on {where}, into {out}")
    with _progress(settings, talk) as report, _interruptible() as stop:
        try:
            bundle = fit_bundle(
                pixels,
                out,
                name or out.resolve().name,
                model,
                settings,
                fabric,
                command=["hvaeood", *sys.argv[1:]],
                force=force,
                compiled=compile_,
                checkpoint_seconds=checkpoint_every,
                stop=stop,
                report=report,
            )
        except KeyboardInterrupt:
            error = HvaeoodError(
                "interrupted", "run the same command again: it goes on from the last checkpoint"
            )
            error.exit_code = ExitCode.INTERRUPTED
            raise error from None
    if talk:
        _tell(bundle, out)


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
        raise UsageError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            f"the preset has {getattr(preset, str(first['loc'][0]))}",
        ) from None


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks the run to stop after its step; a second one stops it at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress(settings: TrainSettings, talk: bool) -> Iterator[Callable[[Progress], None]]:
    if not talk:
        yield lambda progress: None
    elif console.err().is_terminal:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TaskProgressColumn())
        with Bar(*columns, console=console.err()) as bar:
            task = bar.add_task("starting", total=1.0)

            def draw(progress: Progress) -> None:
                bar.update(task, completed=progress.fraction, description=_line(progress, settings))

            yield draw
    else:
        last = -_LOG_SECONDS

        def log(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last > _LOG_SECONDS or progress.fraction >= 1.0:
                last = time.monotonic()
                console.say(f"{progress.fraction:6.1%}  {_line(progress, settings)}")

        yield log


def _line(progress: Progress, settings: TrainSettings) -> str:
    minutes, seconds = divmod(int(progress.seconds_left), 60)
    kls = " ".join(f"{kl:.1f}" for kl in progress.kl)
    skipped = f"{progress.skipped} skipped  " if progress.skipped else ""
    return (
        f"epoch {progress.epoch}/{settings.epochs}  ELBO {progress.elbo:.1f}  KL {kls}  {skipped}"
        f"{progress.images_per_second:.0f} img/s  {minutes}:{seconds:02d} left"
    )


def _tell(bundle: Bundle, out: Path) -> None:
    curve = bundle.training.get("curve", [])
    if curve and "validation_bits_per_dim" in curve[-1]:
        bits = curve[-1]["validation_bits_per_dim"]
        names = ["L"] + [f"L>{k}" for k in range(1, len(bits))]
        parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, bits, strict=True))
        console.say(f"validation, bits/dim (S = 1): {parts}")
    minutes = bundle.training.get("minutes", 0.0)
    console.say(f"model {bundle.name} in {out}, trained in {minutes:.1f} minutes")
    console.say(f"next: hvaeood score FOLDER --model {shlex.quote(str(out))}")
