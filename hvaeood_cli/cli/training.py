"""What `train` and `find` share: the choice of a preset, the folder, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hvaeood_cli.errors import ExitCode, HvaeoodError, UsageError

if TYPE_CHECKING:
    from hvaeood_cli.images.sources import Manifest


def choose(preset: str | None, manifest: Manifest, channels: int | None = None) -> tuple[str, str]:
    """The preset that is named, or one that suits the images; and why, in words to put behind it.

    channels: how many the model is to have, if that was asked for. Raises UsageError for an unknown
    name, TrainingError where no image can be read.
    """
    from hvaeood_cli.model.presets import get_preset
    from hvaeood_cli.training.choosing import choose_preset

    if preset is not None:
        get_preset(preset)
        return preset, ""
    chosen, why = choose_preset(manifest, channels)
    return chosen, f" ({why}; --preset NAME takes another)"


def make_folder(out: Path) -> None:
    """Make the model's folder. Raises UsageError where that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise UsageError(f"cannot make {out}: {refused.strerror}", "choose another --out") from None


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
