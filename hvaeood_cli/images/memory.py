"""Images in memory as a source: an array, a torch tensor, or a list of images of any sizes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.arrays import ArraySource, InMemory, array_in_memory, as_images
from hvaeood_cli.images.decode import Conversion, Decoded, decode_opened

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

OneImage: TypeAlias = "NDArray[Any] | Tensor | Image.Image"

_HINT = "images are PIL images, or arrays of unsigned bytes (H, W), (H, W, 3) or (3, H, W)"


@dataclass(frozen=True)
class ListSource:
    """A list of images called X; its first is called X#0."""

    images: Sequence[Pixels | Image.Image]  # (H, W) or (H, W, 3) each, of any size

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> bytes:
        return b"X#%d" % i

    def read(self, i: int) -> tuple[Decoded, bytes]:
        image = self.images[i]
        if isinstance(image, Image.Image):
            decoded = decode_opened(image)
        else:
            decoded = Decoded(np.ascontiguousarray(image), Conversion(0))
        return decoded, hashlib.sha256(np.ascontiguousarray(decoded.pixels).data).digest()

    def sha256(self, i: int) -> bytes:
        return self.read(i)[1]

    def stamp(self, i: int) -> str:
        return self._stamps[i]

    @cached_property
    def _stamps(self) -> list[str]:
        return [self._stamp(i) for i in range(len(self))]

    def _stamp(self, i: int) -> str:
        """The hash of an image's pixels, or why it has none."""
        try:
            return self.read(i)[1].hex()
        except ImageError as error:
            return error.code


def open_memory(images: object) -> ArraySource | ListSource | None:
    """Images in memory as a source; None for a list of paths.

    Raises SourceError for what is no image, for a single one, and for values that are not bytes.
    """
    if isinstance(images, Image.Image):
        raise SourceError("X is one image", "give a list of images: [image]")
    array = _as_array(images)
    if array is not None and array.dtype.kind not in "UO":  # those hold paths, or images
        return array_in_memory(array)
    items = list(images)  # type: ignore[call-overload]
    if all(isinstance(item, str | os.PathLike) for item in items):
        return None
    return ListSource([_one(f"X#{i}", item) for i, item in enumerate(items)])


def in_memory(source: object) -> bool:
    """Whether a source's images are in memory, and no file holds them."""
    return isinstance(source, ListSource | InMemory)


def _one(name: str, item: object) -> Pixels | Image.Image:
    """An image of a list. Raises SourceError for anything else."""
    if isinstance(item, Image.Image):
        return item
    array = _as_array(item)
    if array is None:
        raise SourceError(f"{name} is no image but a {type(item).__name__}", _HINT)
    if array.ndim not in (2, 3):
        raise SourceError(f"{name} has shape {array.shape}", _HINT)
    image: Pixels = as_images(name, array[None])[0]
    return image


def _as_array(value: Any) -> NDArray[Any] | None:
    """An array, or a torch tensor of any device, as an array; None for anything else."""
    if hasattr(value, "detach"):  # a tensor; torch is not imported for those who have none
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
    return np.asarray(value) if hasattr(value, "__array__") else None
