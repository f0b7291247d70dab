"""How examples/mixed was made: 180 FashionMNIST test images, 20 MNIST test digits among them.

    python examples/make_mixed.py FASHION_T10K.gz MNIST_T10K.gz examples/mixed

Both are the IDX files of the official test splits. Seed 0; the file names tell nothing, labels.csv
tells all (0 in-distribution, 1 out-of-distribution).
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from hvaeood_cli.images.arrays import load_array


def main(fashion: str, mnist: str, folder: str) -> None:
    random = np.random.default_rng(0)
    picks = [(0, "fashionmnist", load_array(Path(fashion)), 180)]
    picks += [(1, "mnist", load_array(Path(mnist)), 20)]
    chosen = [
        (label, source, int(i), images[i])
        for label, source, images, n in picks
        for i in random.choice(len(images), n, replace=False)
    ]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "source", "index"])
        for number, pick in enumerate(random.permutation(len(chosen))):
            label, source, index, pixels = chosen[pick]
            name = f"{number:03d}.png"
            Image.fromarray(pixels).save(out / name, optimize=True)
            writer.writerow([name, label, source, index])


if __name__ == "__main__":
    main(*sys.argv[1:])
