"""By what an image is known, whatever its name: the hash of its pixels as a model takes them."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def content_key(pixels: Pixels) -> bytes:
    """SHA-256 of an image as the model takes it: shape and 8-bit values. 32 bytes."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def shortened(content: bytes) -> int:
    """The first 64 bits of a `content_key`: what a score file and a bundle keep of an image."""
    return int.from_bytes(content[:8], "little")


def short_key(pixels: Pixels) -> int:
    """Of an image, for those who need no more of its `content_key`."""
    return shortened(content_key(pixels))
