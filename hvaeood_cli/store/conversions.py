"""What was done to many images on the way to a model, counted and in words."""

from __future__ import annotations

from collections.abc import Mapping

_WORDS = {
    "resized": "resized to {size}x{size}",
    "cropped": "cropped to the centre square",
    "greyed": "made grey",
    "coloured": "repeated into three channels",
    "rotated": "turned by their EXIF orientation",
    "alpha": "put on white where transparent",
    "palette": "looked up in their palette",
    "depth": "scaled to 8 bits",
    "first_frame": "reduced to their first frame",
    "padded": "continued by their mirror image",
}


def in_words(name: str, size: int) -> str:
    """A conversion in words, such as "resized to 28x28". size: of the model's images, pixels.

    A name that is not known comes back as it is: it may be from a hostile score file.
    """
    return _WORDS.get(name, name).replace("{size}", str(size))


def conversions_in_words(n_images: int, done: Mapping[str, int], size: int) -> str | None:
    """How many images were converted for the model, and how, in words; None if none was."""
    said = [f"{count:,} {in_words(name, size)}" for name, count in done.items() if count]
    return f"of {n_images:,} images, " + ", ".join(said) if said else None


def done_to_most(done: Mapping[str, int], n_images: int) -> list[str]:
    """The conversions that were made to more than half of the images."""
    return [name for name, count in done.items() if count > n_images / 2]
