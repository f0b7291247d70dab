"""An image in the terminal, drawn in the way that the terminal supports, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

ImageWidget = type[Widget]  # one of textual-image's, with an `image`

_LEAST_SIDE = 256  # pixels: small images are enlarged to it without smoothing
_SMALL_SIDE = 384  # pixels: what a small picture keeps of a large image


class Picture(Vertical):
    """A caption above an image, or above words that say why there is none."""

    DEFAULT_CSS = """
    Picture {
        width: 1fr;
        height: 1fr;
        min-width: 12;
        padding: 0 1 0 0;
        & > .caption { width: 1fr; height: 1; text-align: center; color: $text-muted; }
        & > .words { width: 1fr; height: auto; text-align: center; color: $text-muted; }
        & > .frame { width: 1fr; height: 1fr; align: center top; }
        .image { width: auto; height: auto; }
    }
    """

    def __init__(self, caption: str, widget: ImageWidget | None, **options: str) -> None:
        """widget: draws images; None if images are off."""
        super().__init__(**options)  # type: ignore[arg-type]
        self._caption = caption
        self._widget = widget

    def compose(self) -> ComposeResult:
        yield Static(Content(self._caption), classes="caption")
        yield Static(classes="words")
        if self._widget is not None:
            with Container(classes="frame"):
                yield self._widget(classes="image")

    def caption(self, text: str) -> None:
        """Write another caption."""
        self.query_one(".caption", Static).update(Content(text))

    def show(self, pixels: NDArray[np.uint8]) -> None:
        """Show an image. pixels: (H, W) or (H, W, 3)."""
        self._say("" if self._widget else "images are off")
        if self._widget is not None:
            _, behind = self.background_colors
            self._put(squared(enlarge(pixels), behind.rgb))

    def say(self, text: str) -> None:
        """Show words instead of an image."""
        self._say(text)
        if self._widget is not None:
            self._put(None)

    def _say(self, text: str) -> None:
        words = self.query_one(".words", Static)
        words.update(Content(text))
        words.display = bool(text)

    def _put(self, image: Image.Image | None) -> None:
        widget: Any = self.query_one(".image")
        widget.image = image
        widget.display = image is not None


class PictureRow(Horizontal):
    """Pictures side by side, each as wide as the others to the cell: all are of one size."""

    def on_resize(self) -> None:
        pictures = self.query(Picture)
        if pictures:
            width = max(12, self.content_size.width // len(pictures))
            pictures.set_styles(f"width: {width};")


def reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A large image made small enough to keep hundreds; a small one as it is."""
    if max(pixels.shape[:2]) <= _SMALL_SIDE:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_SMALL_SIDE, _SMALL_SIDE))
    return np.asarray(image)


def squared(image: Image.Image, behind: tuple[int, int, int]) -> Image.Image:
    """The image in the middle of a square, so that every picture has the same shape.

    behind: the colour beside it, RGB.
    """
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), behind)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """Enlarge by a whole factor, so that pixels stay apart in a terminal that smooths images."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    times = -(-_LEAST_SIDE // max(image.size))
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return image
