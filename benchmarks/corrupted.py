"""Images that do not belong, made from images that do: the same content, spoilt in one way.

    python -m benchmarks.corrupted cifar10/test5k.npz#2000:5000 shuffled.npy --how shuffled

The seed is 0. `shuffled`: patches of 8 x 8 pixels in another order; the colours and textures are
right, and there is no object. `noise`: normal noise of 80 of 255 steps, then JPEG at quality 75, as
a bad camera makes it. `jpeg`: JPEG at quality 30. `grey`: no colour. `blur`: by a Gaussian of one
pixel. `contrast`: half of it, around the image's mean. And `coloured` leaves out the images that
have hardly any colour, and spoils nothing.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from hvaeood_cli.images.sources import open_sources

Pixels = NDArray[np.uint8]  # (N, H, W, 3)


def shuffled(images: Pixels, patch: int = 8) -> Pixels:
    """Each image's patches in an order of its own."""
    n, height, width = images.shape[:3]
    rows, columns = height // patch, width // patch
    cut = images.reshape(n, rows, patch, columns, patch, -1).swapaxes(2, 3)
    cut = cut.reshape(n, rows * columns, patch, patch, -1)
    random = np.random.default_rng(0)
    mixed = np.stack([squares[random.permutation(len(squares))] for squares in cut])
    mixed = mixed.reshape(n, rows, columns, patch, patch, -1).swapaxes(2, 3)
    return mixed.reshape(images.shape)


def noise(images: Pixels) -> Pixels:
    strength = np.random.default_rng(0).normal(0.0, 80.0, images.shape)
    return jpeg(np.clip(images + strength, 0, 255).astype(np.uint8), 75)


def jpeg(images: Pixels, quality: int = 30) -> Pixels:
    return np.stack([_through_jpeg(image, quality) for image in images])


def grey(images: Pixels) -> Pixels:
    return np.stack(
        [np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in images]
    )


def blur(images: Pixels) -> Pixels:
    smooth = gaussian_filter(images.astype(np.float32), (0, 1.0, 1.0, 0), mode="nearest")
    return np.rint(smooth).clip(0, 255).astype(np.uint8)


def contrast(images: Pixels) -> Pixels:
    mean = images.astype(np.float32).mean(axis=(1, 2, 3), keepdims=True)
    return np.rint(0.5 * (images + mean)).clip(0, 255).astype(np.uint8)


def coloured(images: Pixels) -> Pixels:
    colour = images - images.mean(axis=-1, keepdims=True)
    return images[np.abs(colour).mean(axis=(1, 2, 3)) >= 1.0]


WAYS: dict[str, Callable[[Pixels], Pixels]] = {
    "shuffled": shuffled,
    "noise": noise,
    "jpeg": jpeg,
    "grey": grey,
    "blur": blur,
    "contrast": contrast,
    "coloured": coloured,
}


def _through_jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("--how", choices=WAYS, default="shuffled")
    options = parser.parse_args()
    manifest = open_sources([options.source])
    images = np.stack([manifest.read(i)[0].pixels for i in range(len(manifest))])
    np.save(options.out, WAYS[options.how](images))


if __name__ == "__main__":
    main()
