"""The paper's Figure 1 for any images: each image beside its reconstruction from every k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hvaeood_cli.looks.look import to_image

Float = NDArray[np.float32]

_PAPER, _INK = (255, 255, 255), (60, 60, 60)
_GAP, _CAPTION = 8, 22
_MIN_SIDE = 112  # small images are enlarged, by a whole factor, so that their pixels are seen


def reconstruction_grid(images: Float, observed: Float, from_k: Float) -> Image.Image:
    """One row for each image: the image, the x that was scored, E[x|z] from k = 0 ... L - 1.

    images, observed: (N, C, H, W) on the scale 0 to 1; from_k: (L, N, C, H, W).
    """
    columns = [("image", images), ("observed", observed)]
    columns += [(f"k = {k}", means) for k, means in enumerate(from_k)]
    n, _, height, width = images.shape
    factor = max(1, -(-_MIN_SIDE // width))
    cell_w, cell_h = width * factor + _GAP, height * factor + _GAP
    size = (_GAP + cell_w * len(columns), _CAPTION + cell_h * n + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for column, (caption, pictures) in enumerate(columns):
        left = _GAP + column * cell_w
        draw.text((left, 3), caption, fill=_INK, font=font)
        for row, picture in enumerate(pictures):
            tile = to_image(picture).resize(
                (width * factor, height * factor), Image.Resampling.NEAREST
            )
            sheet.paste(tile, (left, _CAPTION + row * cell_h))
    return sheet
