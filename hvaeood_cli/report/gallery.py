"""Odd images beside their reconstructions, as pictures that a page can hold."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

from PIL import Image

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.look import Look, to_image

_SIDE = 160  # pixels; larger images are shown smaller


class Sight(NamedTuple):
    """A `Look` as data URIs, or a note that says why there is none."""

    image: str = ""
    from_k: tuple[str, ...] = ()
    note: str = ""


def picture(look: Look | HvaeoodError) -> Sight:
    """Make a look into pictures, and an error into a note."""
    if isinstance(look, HvaeoodError):
        return Sight(note=str(look))
    image = Image.fromarray(look.image).convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    note = "this is not the image that was scored" if look.changed else ""
    return Sight(_data_uri(image), tuple(_data_uri(to_image(mean)) for mean in look.from_k), note)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
