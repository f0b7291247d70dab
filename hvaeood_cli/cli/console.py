"""The only module that writes to stdout (data) and to stderr (remarks for people).

File names are hostile input. They reach a terminal through `printable` alone, and never as markup.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.errors import ExitCode, HvaeoodError
from hvaeood_cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LOG_SECONDS = 30.0  # between lines of progress, where there is no terminal to draw on


@cache
def out() -> Console:
    """Rich's console on standard output."""
    from rich.console import Console

    return Console(markup=False, highlight=False, soft_wrap=False)


@cache
def err() -> Console:
    """Rich's console on standard error."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False)


def mute() -> None:
    """Print nothing from now on: for all training processes but the first, which prints for all."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    out.cache_clear()
    err.cache_clear()


def show(*things: RenderableType) -> None:
    """Print things that Rich can draw to standard output."""
    with out().capture() as capture:
        for thing in things:
            out().print(thing)
    emit([capture.get()], styled=True)


def say(message: str, style: str | None = None) -> None:
    """Print a remark on standard error."""
    err().print(printable(message), style=style, soft_wrap=True)


def warn(message: str) -> None:
    err().print(f"warning: {printable(message)}", style="yellow", soft_wrap=True)


def warner(quiet: bool = False) -> Callable[[str], None]:
    """`warn`, of each thing once; of nothing where quiet."""
    said: set[str] = set()

    def warn_once(message: str) -> None:
        if not quiet and message not in said:
            warn(message)
        said.add(message)

    return warn_once


def fail(error: HvaeoodError) -> None:
    """Print an error and its hint on standard error, if there is one that can be written."""
    with contextlib.suppress(OSError):  # a closed terminal, a full disk: the exit code still tells
        err().print(f"error: {printable(error.message)}", style="bold red", soft_wrap=True)
        if error.hint:
            err().print(f"hint: {printable(error.hint)}", soft_wrap=True)


def emit(lines: Iterable[str], styled: bool = False) -> None:
    """Write data to standard output: no wrapping, no styling, file names byte for byte.

    On a terminal, what could steer it is escaped in data, too; not in what Rich has styled. If the
    reader goes away, as `head` does, the program ends without an error. Raises HvaeoodError where
    it cannot be written.
    """
    if sys.stdout is None:  # closed by the shell: `>&-`
        raise SystemExit(ExitCode.DONE)
    stream = sys.stdout.buffer
    escaped = sys.stdout.isatty() and not styled
    try:
        for text in lines:
            line = "\n".join(map(printable, text.split("\n"))) if escaped else text
            stream.write(line.encode("utf-8", "surrogateescape"))
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that exiting can flush
        if isinstance(error, BrokenPipeError):
            raise SystemExit(ExitCode.DONE) from None
        raise HvaeoodError(
            f"cannot write to standard output: {error.strerror or error}", "make room for it"
        ) from None


def emit_json(value: object) -> None:
    """Write one JSON value as a line of standard output."""
    emit([json.dumps(value) + "\n"])


Show = Callable[[float, str, float], None]
"""Shows how far something is: the fraction that is done, a remark, and the seconds left."""


@contextlib.contextmanager
def progress(what: str, talk: bool = True) -> Iterator[Show]:
    """Progress on standard error: a bar on a terminal; else a line now and then, for logs."""
    if not talk:
        yield lambda fraction, remark, seconds_left: None
    elif err().is_terminal:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[remark]}"),
        )
        with Progress(*columns, console=err(), transient=True) as bar:
            task = bar.add_task(what, total=1.0, remark="")

            def draw(fraction: float, remark: str, seconds_left: float) -> None:
                words = f"{remark}  {_left(seconds_left)}".strip()
                bar.update(task, completed=fraction, remark=words)

            yield draw
    else:
        last = time.monotonic()  # nothing is said of what takes less than LOG_SECONDS

        def log(fraction: float, remark: str, seconds_left: float) -> None:
            nonlocal last
            if time.monotonic() - last > LOG_SECONDS:
                last = time.monotonic()
                say(f"{what}  {fraction:6.1%}  {remark}  {_left(seconds_left)}")

        yield log


@contextlib.contextmanager
def counting(what: str, talk: bool = True) -> Iterator[Callable[[int], None]]:
    """How many images were found so far, on a terminal, while nobody knows how many there are."""
    if not (talk and err().is_terminal):
        yield lambda n: None
        return
    with err().status(what) as status:
        yield lambda n: status.update(f"{what}: {n:,} images so far")


def _left(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d} left"
