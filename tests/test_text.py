"""Text from outside, made safe to show."""

from __future__ import annotations

import pytest

from hvaeood_cli.text import defuse, format_p, printable, shorten


@pytest.mark.parametrize("width", range(1, 14))
def test_shortened_text_fits_and_keeps_its_end(width):
    text = shorten("abcdefghij", width)
    assert len(text) <= width and (width < 2 or text.endswith("j"))


def test_nothing_that_could_steer_a_terminal_is_printable():
    text = "".join(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2066, 0xFEFF, 0xD800, 0xDCFF]))
    assert printable(text).isascii() and printable(text).isprintable()


def test_cells_and_p_values():
    assert [defuse(cell) for cell in ("=1+1", "@x", "\r=", "a=1")] == [
        "'=1+1",
        "'@x",
        "'\r=",
        "a=1",
    ]
    assert [format_p(p) for p in (float("nan"), 1.0, 1e-5, 9e-6)] == [
        "",
        "1.00000",
        "0.00001",
        "9e-06",
    ]
