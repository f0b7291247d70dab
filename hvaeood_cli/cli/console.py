"""The only writer to stdout and stderr: data to the one, talk to the other.

File names are hostile input. They reach a terminal through `printable` alone, and never as markup.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.errors import ExitCode, HvaeoodError
from hvaeood_cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@cache
def out() -> Console:
    """Standard output, for people."""
    from rich.console import Console

    return Console(markup=False, highlight=False, soft_wrap=False)


@cache
def err() -> Console:
    """Standard error, for people."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False)


def mute() -> None:
    """Say nothing more: for a process whose sister speaks for both."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    out.cache_clear()
    err.cache_clear()


def show(*things: RenderableType) -> None:
    """Print things that Rich can draw to standard output."""
    with out().capture() as capture:
        for thing in things:
            out().print(thing)
    emit([capture.get()])


def say(message: str, style: str | None = None) -> None:
    """A remark on standard error."""
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
    """`error:` what, then `hint:` what to do."""
    err().print(f"error: {printable(error.message)}", style="bold red", soft_wrap=True)
    if error.hint:
        err().print(f"hint: {printable(error.hint)}", soft_wrap=True)


def emit(lines: Iterable[str]) -> None:
    """Data to standard output, byte for byte: no wrapping, no styling, names as they are.

    A reader that goes away, as `head` does, ends the program in peace.
    """
    if sys.stdout is None:  # closed by the shell: `>&-`
        raise SystemExit(ExitCode.DONE)
    stream = sys.stdout.buffer
    try:
        for line in lines:
            stream.write(line.encode("utf-8", "surrogateescape"))
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(ExitCode.DONE) from None


def emit_json(value: object) -> None:
    """One JSON value on a line of standard output."""
    emit([json.dumps(value) + "\n"])
