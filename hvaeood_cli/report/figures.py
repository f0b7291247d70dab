"""The page's drawings: small inline SVG, coloured by the page's style sheet.

No plotting library makes them, because the page forbids the inline styles that such libraries put
on every element, and because its colours follow the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]

_WIDTH, _HEIGHT = 640, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 18, 42
_BINS = 80
_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
_SQUARE, _MARGIN = 360, 44


def histogram(
    usual: Values | None, here: Values, cut: float | None, axis: str, cut_words: str = ""
) -> Markup:
    """Shares of images by score: the calibration as an area, the batch as a line.

    usual: None where there is no calibration. cut: the threshold, a vertical line; None for none.
    Shares are drawn by their square root, so that a few odd images among thousands are seen.
    """
    here = here[~np.isnan(here)]
    usual = None if usual is None else usual[~np.isnan(usual)]
    both = here if usual is None else np.concatenate([here, usual])
    low, high = _range(
        both[np.isfinite(both)].astype(np.float64), cut
    )  # infinite scores are counted in the last bin
    edges = np.linspace(low, high, _BINS + 1)
    areas = [(values, name) for values, name in ((usual, "usual"), (here, "here"))]
    shares = [(_shares(values, edges), name) for values, name in areas if values is not None]
    top = max(float(share.max()) for share, _ in shares) or 1.0

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - math.sqrt(share / top) * (_HEIGHT - _TOP - _BOTTOM)

    parts: list[str] = [_open(_WIDTH, _HEIGHT, f"Distribution of {axis}")]
    for share in _SHARES:
        if share <= top:
            parts.append(_line(_LEFT, y(share), _WIDTH - _RIGHT, y(share), "grid"))
            parts.append(_text(_LEFT - 6, y(share) + 4, f"{share:.0%}", "tick end"))
    for share_of, name in shares:
        steps = " ".join(
            f"V{y(share):.1f}H{x(right):.1f}"
            for share, right in zip(share_of, edges[1:], strict=True)
        )
        floor = y(0.0)
        close = f"V{floor:.1f}Z" if name == "usual" else f"V{floor:.1f}"
        parts.append(f'<path class="{name}" d="M{x(low):.1f} {floor:.1f}{steps}{close}"/>')
    for tick in ticks(low, high):
        parts.append(_text(x(tick), _HEIGHT - _BOTTOM + 16, f"{tick:,.6g}", "tick middle"))
    parts.append(_line(_LEFT, y(0.0), _WIDTH - _RIGHT, y(0.0), "axis"))
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 4, axis, "tick end"))
    if cut is not None and low <= cut <= high:
        parts.append(_line(x(cut), _TOP - 6, x(cut), y(0.0), "cut"))
        side, shift = ("end", -5) if x(cut) > _WIDTH * 0.7 else ("start", 5)
        parts.append(_text(x(cut) + shift, _TOP + 2, cut_words, f"cut-words {side}"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704  every text in it is escaped


def curve(lines: Sequence[tuple[str, Values]], x_axis: str, y_axis: str) -> Markup:
    """Curves in the unit square. lines: a CSS class and (points, 2) each; the last is on top."""
    side = _SQUARE - _MARGIN - 10
    top = 24  # the vertical axis is named above the square

    def at(point: Values) -> str:
        return f"{_MARGIN + point[0] * side:.1f} {top + (1.0 - point[1]) * side:.1f}"

    parts: list[str] = [_open(_SQUARE, top + side + 40, f"{y_axis} over {x_axis}")]
    for tick in (0.0, 0.5, 1.0):
        across, down = _MARGIN + tick * side, top + (1.0 - tick) * side
        parts.append(_line(_MARGIN, down, _MARGIN + side, down, "grid"))
        parts.append(_line(across, top, across, top + side, "grid"))
        parts.append(_text(across, top + side + 16, f"{tick:g}", "tick middle"))
        parts.append(_text(_MARGIN - 6, down + 4, f"{tick:g}", "tick end"))
    for name, points in lines:
        path = "L".join(at(point) for point in _thinned(points))
        parts.append(f'<path class="curve {name}" d="M{path}"/>')
    parts.append(_text(_MARGIN + side, top + side + 34, x_axis, "tick end"))
    parts.append(_text(_MARGIN, 12, y_axis, "tick start"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704


def ticks(low: float, high: float, n: int = 6) -> Iterator[float]:
    """Round values between low and high, about n of them: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    for i in range(first, int(np.floor(high / step + 1e-9)) + 1):
        yield float(round(i * step, 10))


def _range(values: Values, cut: float | None) -> tuple[float, float]:
    """The ends of the axis, which leaves out the far tails and includes the threshold."""
    if not len(values):
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(values, [0.001, 0.995]))
    if cut is not None and np.isfinite(cut):
        low, high = min(low, cut), max(high, cut)
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _shares(values: Values, edges: Values) -> Values:
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return np.asarray(counts / max(len(values), 1))


def _thinned(points: Values, n: int = 200) -> Values:
    """At most n points of a curve, evenly along its length, with both ends."""
    if len(points) <= n:
        return points
    along = np.append(0.0, np.cumsum(np.abs(np.diff(points, axis=0)).sum(1)))
    rows = np.searchsorted(along, np.linspace(0.0, along[-1], n))
    return np.asarray(points[np.unique(np.clip(rows, 0, len(points) - 1))])


def _open(width: int, height: int, title: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        width, height, title
    )


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, name: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(name, x, y, words)
