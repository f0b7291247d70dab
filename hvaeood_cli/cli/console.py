"""The only writer to stdout and stderr: data to the one, talk to the other.

File names are hostile input. They reach a terminal through `printable` alone, and never as markup.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from hvaeood_cli.errors import ExitCode, HvaeoodError

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


def printable(text: str | bytes) -> str:
    """Text that cannot change the terminal's state or direction: the rest is escaped.

    Bytes that are not UTF-8, control characters, escape sequences, line breaks and bidirectional
    overrides come out as \\x1b, \\n, \\u202e and the like.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the middle left out."""
    if len(text) <= width:
        return text
    head = max(1, (width - 1) // 3)
    return text[:head] + "…" + text[-(width - 1 - head) :]


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
