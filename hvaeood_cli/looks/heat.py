"""A map over its image, in colours: what is usual stays grey, what is not begins to glow.

Colours are evenly spaced to the eye, from violet to pale yellow, each brighter than the one before,
so that they are told apart in print and by people who see no red. The image below is grey and
darker than it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.looks.look import Box, Maps

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

SPREADS = (2.0, 8.0)  # above what is usual: where the colour begins, and where it is brightest
_NATS = 0.9  # where the colour begins if no spread is known: this share of the map is below it

# "Inferno" of matplotlib (CC0), its upper three quarters, in eight steps.
_COLOURS: tuple[Colour, ...] = (
    (87, 16, 110),
    (120, 28, 109),
    (152, 38, 98),
    (188, 55, 84),
    (221, 81, 58),
    (243, 120, 25),
    (252, 165, 10),
    (246, 215, 70),
    (252, 255, 164),
)
_FULL = 0.25  # from there on, as a share of the scale, the colour hides half of the image and more
_COVER = 0.85  # how much of the image the brightest colour hides
_DIMMED = 0.6  # how bright the image below is


def scale(maps: Maps, k: int) -> tuple[float, float]:
    """Where the colours of the map of k begin, and where they are brightest: in spreads or nats.

    Maps in nats have no common scale: of each, the tenth that is highest is coloured.
    """
    if not maps.why_nats:
        return SPREADS
    values = np.nan_to_num(maps.values[k - 1])
    low, high = float(np.quantile(values, _NATS)), float(values.max())
    return low, max(high, low + 1e-6)


def legend(maps: Maps, k: int) -> tuple[str, str]:
    """What the ends of the colours of the map of k stand for: words before and behind them."""
    low, high = scale(maps, k)
    if not maps.why_nats:
        return f"from {low:g}", f"to {high:g} spreads above what is usual there"
    return f"from {low:.2g}", f"to {high:.2g} nats a pixel, for {maps.why_nats}"


def sentence(maps: Maps, k: int) -> str:
    """What the map of k shows of its image, in one sentence."""
    low, _ = scale(maps, k)
    largest = float(np.nan_to_num(maps.values[k - 1]).max())
    if maps.why_nats:
        most = f"with up to {largest:.2g} nats a pixel; what is usual there is not known"
        return f"coloured is what the layers above {k} explain worst, {most}"
    if largest < low:
        return f"nowhere do the layers above {k} explain it {low:g} spreads worse than is usual"
    most = f"by up to {largest:.1f} spreads"
    return f"coloured is what the layers above {k} explain worse than is usual there, {most}"


def overlay(image: Pixels, maps: Maps, k: int, least: int = 256, most: int = 1024) -> Pixels:
    """An image with the map of k over it: (H', W', 3). image: (H, W) or (H, W, 3).

    least, most: pixels of its longer side. A smaller image is enlarged by a whole factor, and its
    pixels stay to be seen; a larger one is reduced.
    """
    below = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    before, longer = below.size, max(below.size)
    if longer > most:
        below.thumbnail((most, most))
    elif longer < least:
        times = -(-least // longer)
        below = below.resize((times * before[0], times * before[1]), Image.Resampling.NEAREST)
    grey = np.asarray(below, np.float32)
    left, top, right, bottom = maps.box
    x, y = below.width / before[0], below.height / before[1]
    values = placed(maps.values[k - 1], (x * left, y * top, x * right, y * bottom), *grey.shape)
    low, high = scale(maps, k)
    strength = np.clip((np.nan_to_num(values) - low) / (high - low), 0.0, 1.0)  # (H, W)
    cover = _COVER * np.minimum(1.0, strength / _FULL) * (0.5 + 0.5 * strength)
    shown = (1.0 - cover[:, :, None]) * _DIMMED * grey[:, :, None]
    shown = shown + cover[:, :, None] * colours(strength)
    return np.asarray(np.rint(shown), np.uint8)


def colours(strength: NDArray[np.floating]) -> NDArray[np.float32]:
    """The colour of each number from 0 to 1: (..., 3), 0 to 255."""
    at = np.linspace(0.0, 1.0, len(_COLOURS))
    channels = [np.interp(strength, at, channel) for channel in zip(*_COLOURS, strict=True)]
    return np.stack(channels, axis=-1).astype(np.float32)


def placed(values: NDArray[np.float32], box: Box, height: int, width: int) -> NDArray[np.float32]:
    """A map, (h, w), where it belongs on an image: (height, width), and 0 where it does not reach.

    box: what it covers of the image: left, top, right and bottom, in pixels of the image.
    """
    left, top, right, bottom = box
    across = values.shape[1] / (right - left)
    down = values.shape[0] / (bottom - top)
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(values)).transform(
            (width, height),
            Image.Transform.AFFINE,
            (across, 0.0, -left * across, 0.0, down, -top * down),
            Image.Resampling.BILINEAR,
        )
    )
