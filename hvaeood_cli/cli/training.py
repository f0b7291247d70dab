"""What `train` and `find` share: the choice of a preset and of tiles, the folder, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from hvaeood_cli.cli import console
from hvaeood_cli.errors import ExitCode, HvaeoodError, TrainingError, UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from hvaeood_cli.images.sources import Manifest
    from hvaeood_cli.model.config import ModelConfig
    from hvaeood_cli.settings import TrainSettings
    from hvaeood_cli.training.choosing import Survey
    from hvaeood_cli.training.pixel_cache import PixelCache
    from hvaeood_cli.training.reading import Read


class Asked(NamedTuple):
    """What the command line says of the model; None where the images decide, or the preset."""

    preset: str | None = None
    channels: int | None = None
    image_size: int | None = None
    fit: str | None = None
    tile: int | None = None
    stride: int | None = None
    scale: float | None = None


class Chosen(NamedTuple):
    """The model to train, and why, in words for people."""

    preset: str
    why: str  # to be put behind the preset's name
    taken: str  # how images are taken where it is by tiles; else empty
    config: ModelConfig
    settings: TrainSettings  # the preset's


def choose(asked: Asked, manifest: Manifest) -> Chosen:
    """The model that is asked for, completed by what suits the images.

    Raises UsageError for an unknown name and for what does not go together, TrainingError where no
    image can be read.
    """
    from hvaeood_cli.model.presets import PRESETS_FOR_TILES, for_images, get_preset
    from hvaeood_cli.training.choosing import Survey, choose_fit, choose_preset

    _check(asked)
    survey, why, named = Survey(manifest), "", asked.preset
    if named is None:
        named, reason = choose_preset(survey, asked.channels)
        why = f" ({reason}; --preset NAME takes another)"
    preset = get_preset(named)
    fit = asked.fit
    if fit is None and any(one is not None for one in (asked.tile, asked.stride, asked.scale)):
        fit = "tile"
    if fit is None:  # a size that was asked for is that of whole images
        fit = "crop" if asked.image_size else choose_fit(survey, preset.model.image_size)
    if fit == "tile" and asked.preset is None:
        named = PRESETS_FOR_TILES.get(named, named)
        preset = get_preset(named)
    if fit != "tile":
        config = for_images(preset.model, asked.image_size, asked.channels, fit)
        return Chosen(named, why, "", config, preset.train)
    config = _tiled(for_images(preset.model, None, asked.channels), asked, survey)
    return Chosen(named, why, _in_words(config, survey), config, preset.train)


def _check(asked: Asked) -> None:
    """Raise UsageError for options that do not go together."""
    of_tiles = {"--tile": asked.tile, "--stride": asked.stride, "--scale": asked.scale}
    given = next((name for name, value in of_tiles.items() if value is not None), None)
    if asked.fit not in (None, "crop", "pad", "tile"):
        raise UsageError(f"no fit is called {asked.fit!r}", "--fit crop, pad or tile")
    if given and asked.fit in ("crop", "pad"):
        raise UsageError(f"{given} is of tiles, and --fit {asked.fit} makes none", "--fit tile")
    if asked.image_size and (given or asked.fit == "tile"):
        raise UsageError("--image-size is of whole images", "--tile N is the size of a tile")


def _tiled(model: ModelConfig, asked: Asked, survey: Survey) -> ModelConfig:
    """A model for tiles: by default of the preset's size and half overlapping."""
    from hvaeood_cli.images.tiling import Tiling
    from hvaeood_cli.model.presets import for_tiles
    from hvaeood_cli.training.choosing import choose_scale

    size = asked.tile or model.image_size
    stride = asked.stride or max(1, size // 2)
    Tiling(size, stride, asked.scale or 1.0)  # raises what is wrong with them
    for_tiles(model, size, stride, 1.0)
    scale = choose_scale(survey, size, stride) if asked.scale is None else asked.scale
    return for_tiles(model, size, stride, scale)


def _in_words(config: ModelConfig, survey: Survey) -> str:
    """How images are taken by tiles, in a line."""
    from hvaeood_cli.images.preprocess import tiling_of

    tiling = tiling_of(config)
    height, width = survey.size
    n = tiling.count(height, width) if tiling else 1
    return (
        f"images of about {width}x{height} are taken by tiles: {n:,} {tiling} "
        "(--tile, --stride, --scale or --fit take others)"
    )


def read(
    manifest: Manifest,
    config: ModelConfig,
    cache: PixelCache | None,
    talk: bool,
    stop: Callable[[], bool],
    fabric: Fabric | None = None,
) -> Read:
    """The pixels to train on, with a bar. stop: whether to raise KeyboardInterrupt.

    cache: None to hold them in memory. fabric: of the processes that read together, if there are
    several. Raises TrainingError as `read_pixels` does.
    """
    from hvaeood_cli.training.reading import ALONE, Readers, read_pixels

    readers = ALONE
    if fabric is not None:
        readers = Readers(fabric.global_rank, fabric.world_size, fabric.barrier)
    with console.progress("reading images", talk) as show:
        started = time.monotonic()

        def report(n_done: int, n_all: int) -> None:
            if stop():
                raise KeyboardInterrupt
            rate = n_done / max(time.monotonic() - started, 1e-9)
            remark = f"{n_done:,} of {n_all:,}, {rate:,.0f} a second"
            show(n_done / n_all, remark, (n_all - n_done) / max(rate, 1e-9))

        found = read_pixels(manifest, config, cache, readers, report)
    if talk and cache and cache.folder.is_dir():
        console.say(f"pixels of the images are kept in {cache.folder.parent} (hvaeood cache)")
    return found


def cache_of(
    manifest: Manifest, config: ModelConfig, wanted: bool, talk: bool
) -> PixelCache | None:
    """Where the pixels of these images are kept; None where that is not wanted.

    Raises UsageError where HVAEOOD_CACHE_GB is no number.
    """
    from hvaeood_cli.training.pixel_cache import PixelCache
    from hvaeood_cli.user_cache import most_bytes

    if not wanted:
        return None
    most_bytes()
    return PixelCache.of(manifest, config, console.warner(not talk))


def make_folder(out: Path) -> None:
    """Make the model's folder. Raises TrainingError where that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise TrainingError(
            f"cannot make {out}: {refused.strerror}", "choose another --out"
        ) from None


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks a run to stop after its step; a second one stops it at once.

    SIGTERM and SIGHUP do the same. Either ends as an error that says how to go on.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for one in before:
            signal.signal(one, signal.default_int_handler)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.getsignal(one) for one in numbers}
    before = {one: was for one, was in before.items() if was is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    except KeyboardInterrupt:
        error = HvaeoodError(
            "interrupted", "run the same command again: it goes on from the last checkpoint"
        )
        error.exit_code = ExitCode.INTERRUPTED
        raise error from None
    finally:
        for number, was in before.items():
            signal.signal(number, was)
