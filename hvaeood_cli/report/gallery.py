"""Odd images, beside their reconstructions or alone, as pictures that a page can hold."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

from PIL import Image

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.heat import overlay, sentence
from hvaeood_cli.looks.look import Look, to_image

PAGE = 20_000_000  # bytes that a page with pictures has at most, about
_CARD, _CARD_OF_MANY, _THUMBNAIL = 480, 160, 80  # pixels, of the longer side
_MANY = 100  # cards, with whose large pictures the page would be too large
_COARSE = 96  # an image of that many pixels at most is drawn with its pixels to be seen


class Sight(NamedTuple):
    """A `Look` as data URIs, or a note that says why there is none."""

    image: str = ""
    map: str = ""  # the image, the map of one k over it
    map_words: str = ""  # what it shows
    from_k: tuple[str, ...] = ()
    note: str = ""
    coarse: bool = False  # whether the image is so small that its pixels are to be seen
    missing: bool = False  # whether the image could not be read

    @property
    def n_bytes(self) -> int:
        return len(self.image) + len(self.map) + sum(len(uri) for uri in self.from_k)


def picture(look: Look | HvaeoodError, k: int, n_cards: int) -> Sight:
    """Make a look into pictures for one of so many cards, and an error into a note.

    k: whose map is shown.
    """
    side = _CARD if n_cards <= _MANY else _CARD_OF_MANY
    sight = _sight(look, side)
    if isinstance(look, HvaeoodError) or look.maps is None:
        return sight
    under = Image.fromarray(overlay(look.image, look.maps, k, least=side // 2, most=side))
    return sight._replace(
        map=_data_uri(under, "JPEG"),
        map_words=f"Map of k = {k}: {sentence(look.maps, k)}.",
    )


def thumbnail(look: Look | HvaeoodError) -> Sight:
    """Make a look into one small picture, and an error into a note."""
    return _sight(look, _THUMBNAIL)


def _sight(look: Look | HvaeoodError, side: int) -> Sight:
    if isinstance(look, HvaeoodError):
        return Sight(note=str(look), missing=True)
    image = Image.fromarray(look.image).convert("RGB")
    coarse = max(image.size) <= _COARSE
    image.thumbnail((side, side))
    return Sight(
        image=_data_uri(image, "PNG" if coarse else "JPEG"),
        from_k=tuple(_data_uri(to_image(mean), "PNG") for mean in look.from_k),
        note="this is not the image that was scored" if look.changed else "",
        coarse=coarse,
    )


def _data_uri(image: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=form, optimize=True, quality=85)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
