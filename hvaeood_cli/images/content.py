"""Content keys: hashes of pixels as a model takes them, by which an image is known."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.preprocess import Takes, preprocess

if TYPE_CHECKING:
    from hvaeood_cli.images.sources import Manifest

Pixels = NDArray[np.uint8]


def content_key(pixels: Pixels) -> bytes:
    """SHA-256 of an image as the model takes it: shape and 8-bit values. 32 bytes."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def shortened(content: bytes) -> int:
    """The first 64 bits of a `content_key`, which score files and bundles keep of an image."""
    return int.from_bytes(content[:8], "little")


def stamp_key(stamp: str) -> int:
    """A stamp as a score file keeps it: the first 64 bits of its SHA-256."""
    return shortened(hashlib.sha256(stamp.encode()).digest())


def short_key(pixels: Pixels) -> int:
    """The shortened `content_key` of an image, (C, H, W) uint8 as the model takes it."""
    return shortened(content_key(pixels))


def short_keys(manifest: Manifest, takes: Takes) -> NDArray[np.uint64]:
    """The `short_key` of each image as a model takes it, (N,); 0 where it cannot be read."""
    keys = np.zeros(len(manifest), np.uint64)
    for i in range(len(manifest)):
        with suppress(ImageError):
            keys[i] = short_key(preprocess(manifest.read(i)[0], takes).pixels)
    return keys
