"""An image in the terminal, drawn in the way that the terminal supports, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

ImageWidget = type[Widget]  # one of textual-image's, with an `image`

_LEAST_SIDE = 256  # pixels: small images are enlarged to it without smoothing


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
        & > .frame { width: 1fr; height: 1fr; align-horizontal: center; }
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

    def show(self, pixels: NDArray[np.uint8]) -> None:
        """Show an image. pixels: (H, W) or (H, W, 3)."""
        self._say("" if self._widget else "images are off")
        if self._widget is not None:
            self._put(enlarge(pixels))

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


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """Enlarge by a whole factor, so that pixels stay apart in a terminal that smooths images."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    times = -(-_LEAST_SIDE // max(image.size))
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return image
