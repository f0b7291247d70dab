"""Noise that belongs to an image: keyed by its pixels and the run's seed, by nothing else.

A counter-based generator (Philox) is keyed by SHA-256(pixels, seed). So a score does not depend
on the batch an image came in, on its place in it, on workers or on a resume, and the first S
samples of a run with more of them are the same.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.images.content import content_key

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]


class ImageNoise(NamedTuple):
    """All the randomness in one image's score."""

    uniform: Float  # the shape of the pixels, in [0, 1): binarisation
    normal: Float  # (S, sum of the sizes of z_1 ... z_L): one row an importance sample


def image_noise(pixels: Pixels, seed: int, n_samples: int, n_latents: int) -> ImageNoise:
    """The noise of one image for S = n_samples passes through n_latents latent elements."""
    keyed = hashlib.sha256(content_key(pixels) + seed.to_bytes(8, "little")).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(keyed[:16], "<u8")))
    uniform = generator.random(pixels.shape, dtype=np.float32)
    normal = generator.standard_normal((n_samples, n_latents), dtype=np.float32)
    return ImageNoise(uniform, normal)
