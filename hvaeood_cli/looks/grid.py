"""The paper's Figure 1 for any images: each image beside its reconstruction from every k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hvaeood_cli.looks.look import to_image

Float = NDArray[np.float32]

_PAPER, _INK = (255, 255, 255), (60, 60, 60)
_GAP, _CAPTION = 8, 22
_LEAST_SIDE = 112  # small images are enlarged, by a whole factor, so that their pixels are seen
_MOST_SIDE = 640  # and large ones made smaller

Row = tuple[Float, Float, Float]
"""An image, the x that was scored, (C, H, W) each on the scale 0 to 1, and E[x|z], (L, C, H, W)."""


def reconstruction_grid(rows: Sequence[Row]) -> Image.Image:
    """One row for each image, of any size: itself, the x that was scored, E[x|z] from each k."""
    drawn = [[_fitted(picture) for picture in (image, x, *means)] for image, x, means in rows]
    captions = ["image", "observed", *(f"k = {k}" for k in range(len(rows[0][2])))]
    cell = max(row[0].width for row in drawn) + _GAP
    heights = [row[0].height + _GAP for row in drawn]
    size = (_GAP + cell * len(captions), _CAPTION + sum(heights) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for column, caption in enumerate(captions):
        draw.text((_GAP + column * cell, 3), caption, fill=_INK, font=font)
    top = _CAPTION
    for row, height in zip(drawn, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (_GAP + column * cell, top))
        top += height
    return sheet


def _fitted(picture: Float) -> Image.Image:
    """A picture, (C, H, W), of a size that can be seen."""
    image = to_image(picture)
    factor = max(1, -(-_LEAST_SIDE // image.width))
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((_MOST_SIDE, _MOST_SIDE))
    return image
