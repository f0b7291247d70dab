"""Text from outside, made safe to show: file names are hostile input."""

from __future__ import annotations

import math


def printable(text: str | bytes) -> str:
    """Text that cannot change the terminal's state or direction: the rest is escaped.

    Bytes that are not UTF-8, control characters, escape sequences, line breaks and bidirectional
    overrides come out as \\x1b, \\n, \\u202e and the like.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def shorten(text: str, width: int) -> str:
    """At most `width` characters, and at least the one that stands for the middle left out."""
    if len(text) <= width:
        return text
    head = max(0, (width - 1) // 3)
    tail = max(0, width - 1 - head)
    return text[:head] + "…" + text[len(text) - tail :]


def defuse(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def format_p(p: float) -> str:
    """A p-value in seven characters, so that a column of them is aligned; NaN as nothing."""
    if math.isnan(p):
        return ""
    return f"{p:.5f}" if p >= 1e-5 else f"{p:.0e}"
