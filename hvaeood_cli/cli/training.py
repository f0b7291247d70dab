"""What `train` and `find` share: the reading of images, the folder, words, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hvaeood_cli.cli import console
from hvaeood_cli.errors import ExitCode, HvaeoodError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from hvaeood_cli.images.sources import Manifest
    from hvaeood_cli.model.config import ModelConfig
    from hvaeood_cli.training.pixel_cache import PixelCache
    from hvaeood_cli.training.reading import Read


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

    if not wanted:
        return None
    return PixelCache.of(manifest, config, console.warner(not talk))


def what_is_trained_on(config: ModelConfig) -> str:
    """What a model's batches are of, in a word."""
    return "tiles" if config.fit == "tile" else "images"


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
