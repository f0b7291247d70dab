"""Which map finds what is odd in an image: pixel AUROC within each image, mean over images.

    python -m benchmarks.maps fashionmnist train-images-idx3-ubyte.gz#55000:60000 \
        t10k-images-idx3-ubyte.gz#0:150 --digits mnist/t10k-images-idx3-ubyte.gz#0:150
    python -m benchmarks.maps cifar10 cifar10/test5k.npz#0:2000 cifar10/test5k.npz#2000:2150
    python -m benchmarks.maps photos.model calibrate/ blowhole/ --masks blowhole-masks/

MODEL, images that belong (for what is usual of a map), and images to look at. Without --masks a
patch is pasted into each of them, with seed 0: an even grey, noise, and with --digits a part of a
digit. `cost` is -log p(x_i|z) in the pass of k, `difference` the same less that of k = 0.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from hvaeood_cli.detector import Detector
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.scoring import maps
from hvaeood_cli.scoring.usual import usual_maps
from hvaeood_cli.scoring.views import views

SIDES = {"grey": 8, "noise": 6, "digit": 12}  # pixels of a patch
RULES = {"cost": lambda p, _: -p[1:], "difference": lambda p, _: p[:1] - p[1:]}
Images = list[NDArray[np.uint8]]
Masks = list[NDArray[np.bool_]]


def pasted(images: Images, kind: str, digits: Images) -> tuple[Images, Masks]:
    """Images, (C, H, W), with a patch in each, and where it is, (H, W)."""
    random, side = np.random.default_rng(0), SIDES[kind]
    odd, masks = [], []
    for i, image in enumerate(images):
        top, left = random.integers(2, image.shape[1] - side - 2, 2)
        here = slice(top, top + side), slice(left, left + side)
        whole, mask = image.copy(), np.zeros(image.shape[1:], bool)
        if kind == "grey":
            whole[:, *here] = random.integers(0, 256)
        elif kind == "noise":
            whole[:, *here] = random.integers(0, 256, (len(image), side, side))
        else:
            whole[:, *here] = digits[i][:, 8:20, 8:20]
        mask[here] = True
        odd.append(whole)
        masks.append(mask)
    return odd, masks


def read_masks(folder: Path, names: Iterator[bytes], images: Images) -> Masks:
    """The mask of each image, as large as the model takes it: what is white there is odd."""
    masks = []
    for name, image in zip(names, images, strict=True):
        mask = Image.open(folder / f"{Path(os.fsdecode(name)).stem}.png").convert("L")
        small = mask.resize((image.shape[2], image.shape[1]), Image.Resampling.BOX)
        masks.append(np.asarray(small) > 64)
    return masks


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "usual", "images"):
        parser.add_argument(name)
    parser.add_argument("--digits")
    parser.add_argument("--masks", type=Path)
    given = parser.parse_args()
    detector = Detector(given.model, n_importance_samples=1, device="cpu")
    belong, manifest = open_sources([given.usual]), open_sources([given.images])
    images = detector.preprocessed(manifest)
    sets: dict[str, tuple[Images, Masks]] = {}
    if given.masks:
        sets["masks"] = images, read_masks(given.masks, manifest.names(), images)
    else:
        digits = detector.preprocessed(open_sources([given.digits])) if given.digits else []
        kinds = [kind for kind in SIDES if digits or kind != "digit"]
        sets = {kind: pasted(images, kind, digits) for kind in kinds}
    for rule, costs in RULES.items():
        maps.costs = costs  # type: ignore[assignment]
        usual = usual_maps(detector.scorer, detector.calibration_settings, belong)
        for name, (odd, masks) in sets.items():
            found = [
                [roc_auc_score(mask.ravel(), one.ravel()) for one in view.maps]
                for image, mask in zip(odd, masks, strict=True)
                if mask.any()
                for view in views(detector.scorer, [image], usual)
            ]
            by_k = ", ".join(f"k = {k}: {auc:.3f}" for k, auc in enumerate(np.mean(found, 0), 1))
            print(f"{rule:10} {name:5} n = {len(found)}  {by_k}", flush=True)


if __name__ == "__main__":
    main()
