"""Text from outside, made safe to show: file names are hostile input."""

from __future__ import annotations

import math


def printable(text: str | bytes) -> str:
    """The text, with everything escaped that could change the terminal's state or direction.

    Bytes that are not UTF-8, control characters, escape sequences, line breaks and bidirectional
    overrides become \\x1b, \\n, \\u202e and the like.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def shorten(text: str, width: int) -> str:
    """The text in at most `width` >= 1 characters: "…" stands for the middle of a longer one."""
    if len(text) <= width:
        return text
    head = max(0, (width - 1) // 3)
    tail = max(0, width - 1 - head)
    return text[:head] + "…" + text[len(text) - tail :]


# What begins a formula in a spreadsheet: wide characters do in some, and white space is skipped.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def defuse(cell: str) -> str:
    """A CSV cell; where a spreadsheet would take it for a formula, with an apostrophe in front."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def format_p(p: float) -> str:
    """A p-value in at most seven characters, for an aligned column; empty for NaN."""
    if math.isnan(p):
        return ""
    return f"{p:.5f}" if p >= 1e-5 else f"{p:.0e}"
