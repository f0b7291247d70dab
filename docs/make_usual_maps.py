"""What is usual of the maps of the models that ship, made anew: `python docs/make_usual_maps.py`.

It takes the images that they were calibrated on: FASHION, the training images of FashionMNIST as an
IDX file, from the 55,001st on, and CIFAR, the first 2,000 of the CIFAR-10 test images:

    python docs/make_usual_maps.py train-images-idx3-ubyte.gz cifar10/test5k.npz
"""

from __future__ import annotations

import sys

from hvaeood_cli.detector import Detector
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.scoring.usual import usual_maps


def main(fashion: str, cifar: str) -> None:
    for model, images in {
        "fashionmnist": f"{fashion}#55000:60000",
        "cifar10": f"{cifar}#0:2000",
    }.items():
        detector = Detector(model, device="cpu")
        usual = usual_maps(detector.scorer, detector.calibration_settings, open_sources([images]))
        usual.save(detector.bundle.folder / "calibration.npz")


if __name__ == "__main__":
    main(*sys.argv[1:])
