"""Images that have the right colours and textures, and no object: patches in another order.

    python -m benchmarks.shuffled cifar10/test5k.npz#2000:5000 shuffled.npy [PATCH]

Each image is cut into PATCH x PATCH squares (8 unless given), which are put back in an order of
their own (seed 0). An out-of-distribution set made from in-distribution images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.images.sources import open_sources


def shuffle_patches(images: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """(N, H, W, C) -> (N, H, W, C), each image's patches in an order of its own."""
    n, height, width = images.shape[:3]
    rows, columns = height // patch, width // patch
    cut = images.reshape(n, rows, patch, columns, patch, -1).swapaxes(2, 3)
    cut = cut.reshape(n, rows * columns, patch, patch, -1)
    random = np.random.default_rng(0)
    mixed = np.stack([squares[random.permutation(len(squares))] for squares in cut])
    mixed = mixed.reshape(n, rows, columns, patch, patch, -1).swapaxes(2, 3)
    return mixed.reshape(images.shape)


def main() -> None:
    source, out = sys.argv[1:3]
    patch = int(sys.argv[3]) if len(sys.argv) > 3 else 8
    manifest = open_sources([source])
    images = np.stack([manifest.read(i)[0].pixels for i in range(len(manifest))])
    np.save(Path(out), shuffle_patches(images, patch))


if __name__ == "__main__":
    main()
