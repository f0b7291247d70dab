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


def short_key(pixels: Pixels) -> int:
    """The first 64 bits of `content_key`: what a score file and a bundle keep of an image."""
    return int.from_bytes(content_key(pixels)[:8], "little")
