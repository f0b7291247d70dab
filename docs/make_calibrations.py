"""The calibrations of the models that ship, and what is usual of their maps, made anew.

FASHION: the training images of FashionMNIST as an IDX file, of which those from the 55,001st on are
taken. CIFAR: the CIFAR-10 test images, of which the first 4,000 are.

    python docs/make_calibrations.py train-images-idx3-ubyte.gz cifar10/test5k.npz
"""

from __future__ import annotations

import sys

from hvaeood_cli.detector import Detector
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.scoring.usual import usual_maps


def main(fashion: str, cifar: str) -> None:
    for model, images in {
        "fashionmnist": f"{fashion}#55000:60000",
        "cifar10": f"{cifar}#0:4000",
    }.items():
        detector = Detector(model, device="cpu")
        place = detector.bundle.folder / "calibration.npz"
        calibration = detector.calibrate(images)
        calibration.save(place)
        usual = usual_maps(detector.scorer, detector.calibration_settings, open_sources([images]))
        usual.save(place)
        print(f"{model}: {calibration.id}, {len(calibration):,} images")


if __name__ == "__main__":
    main(*sys.argv[1:])
