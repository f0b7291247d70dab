"""The map of a k as a layer over the image, and the key to its colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from textual.content import Content

from hvaeood_cli.looks.heat import colours, legend, overlay
from hvaeood_cli.looks.look import Look, Maps
from hvaeood_cli.text import printable

_SIDE = 384  # pixels: more than a terminal shows of one of several images
_BLOCKS = 8  # of the key


def under_map(look: Look, k: int) -> NDArray[np.uint8]:
    """The image with the map of k over it; as it is for k = 0, or where there is no map."""
    if not k or look.maps is None:
        return look.image
    return overlay(look.image, look.maps, k, most=_SIDE)


def key_to(maps: Maps, k: int) -> Content:
    """The colours of the map of k, and what they stand for."""
    ramp = colours(np.linspace(0.0, 1.0, _BLOCKS)).round().astype(int)
    blocks = [("█", f"rgb({red},{green},{blue})") for red, green, blue in ramp]
    low, high = legend(maps, k)
    before, behind = f"map of k = {k}: {low} ", f" {printable(high)}"
    return Content.assemble((before, "$text-muted"), *blocks, (behind, "$text-muted"))
