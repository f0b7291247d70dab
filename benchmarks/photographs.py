"""Photographs with and without defects: the figures of docs/photographs.md.

    python -m benchmarks.photographs magnetic-tile/ models/ --odd blowhole break --seeds 0 1 2

The first folder has the folders train, calibrate and good, and for each kind of defect KIND and
KIND-masks, of the same file names and white where the defect is. Every seed's model is trained,
calibrated and used by the commands that anybody would type; what is there already is kept. Prints
for every seed the AUROC of images, good ones against those with a defect, with bootstrap intervals
at 95 %, and the AUROC of pixels: all of the images with a defect, their maps against their masks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata

from hvaeood_cli.store.reader import read_scores

Float = NDArray[np.float64]

_TRAIN = (
    "--preset compact-photo-tile --tile 32 --stride 16 --scale 0.5 --epochs 4 --validation 16 "
    "--calibrate 0"
)
_RESAMPLES = 1000


def hvaeood(*arguments: object) -> None:
    command = [sys.executable, "-m", "hvaeood_cli", *map(str, arguments)]
    print("$ hvaeood", *command[3:], flush=True)
    subprocess.run(command, check=True)


def prepare(data: Path, model: Path, seed: int, minutes: float, odd: Sequence[str]) -> None:
    """Whatever is not there yet of a seed's model, scores and maps."""
    if not (model / "config.json").is_file():
        hvaeood("train", data / "train", "-o", model, "--seed", seed, "--minutes", minutes,
                "--precision", "bf16-mixed", *_TRAIN.split())  # fmt: skip
    if not list(model.glob("calibration*.npz")):
        hvaeood("calibrate", data / "calibrate", "--model", model, "-S", 1)
    for kind in ("good", *odd):
        if not (out := scores_of(model, kind)).is_file():
            hvaeood("score", data / kind, "--model", model, "-S", 1, "-o", out)
        if kind != "good" and not maps_of(model, kind).is_dir():
            hvaeood("reconstruct", data / kind, "--model", model, "--maps", maps_of(model, kind))


def scores_of(model: Path, kind: str) -> Path:
    return model / f"{kind}.scores.h5"


def maps_of(model: Path, kind: str) -> Path:
    return model / f"{kind}.maps"


def auroc(inside: Float, outside: Float) -> float:
    """How often what does not belong has the higher score. inside: (n,); outside: (m,)."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    n = len(outside)
    return float((ranks.sum() - n * (n + 1) / 2) / (len(inside) * n))


def interval(inside: Float, outside: Float) -> tuple[float, float]:
    """Of the AUROC, 95 %, by drawing images of each kind again; the seed is 0."""
    random = np.random.default_rng(0)
    drawn = [
        auroc(random.choice(inside, len(inside)), random.choice(outside, len(outside)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def of_images(model: Path, odd: Sequence[str]) -> dict[str, float]:
    """The AUROC of every score of images over all kinds of defect, by its name."""
    values = {kind: _columns(scores_of(model, kind)) for kind in ("good", *odd)}
    overall = {}
    for name, good in values["good"].items():
        sets = {kind: values[kind][name] for kind in odd}
        sets["all"] = np.concatenate(list(sets.values()))
        said = []
        for kind, defective in sets.items():
            low, high = interval(good, defective)
            said.append(f"{kind} {auroc(good, defective):.3f} [{low:.3f}, {high:.3f}]")
        overall[name] = auroc(good, sets["all"])
        print(f"  images, {name}: " + "; ".join(said))
    return overall


def _columns(path: Path) -> dict[str, Float]:
    scores = read_scores(path)
    peaks = scores["peak"][scores.scored].astype(np.float64)  # (N, L)
    found = {f"peak of k = {k}": peaks[:, k] for k in range(peaks.shape[1])}
    if scores.decision is not None:
        found["combined"] = scores.decision.combined[scores.scored].astype(np.float64)
    return found


def of_pixels(data: Path, model: Path, odd: Sequence[str]) -> dict[str, float]:
    """The AUROC of the pixels of all images with a defect, by the map's k."""
    maps, masks = zip(*(_pixels(data, model, kind) for kind in odd), strict=True)
    overall = {}
    for k in range(len(maps[0])):
        each = [auroc(of[k][~mask], of[k][mask]) for of, mask in zip(maps, masks, strict=True)]
        values, mask = np.concatenate([of[k] for of in maps]), np.concatenate(masks)
        overall[f"map of k = {k + 1}"] = auroc(values[~mask], values[mask])
        together = overall[f"map of k = {k + 1}"]
        said = "; ".join(f"{kind} {value:.3f}" for kind, value in zip(odd, each, strict=True))
        print(f"  pixels, map of k = {k + 1}: {said}; all {together:.3f}")
    return overall


def _pixels(data: Path, model: Path, kind: str) -> tuple[Float, NDArray[np.bool_]]:
    """The maps (L - 1, n) and the masks (n,) of all images of a kind, pixel by pixel.

    A map is as large as the image that tiles were cut from; so the mask is made as small.
    """
    maps, masks = [], []
    for path in sorted(maps_of(model, kind).rglob("*.npy")):
        of_image = np.load(path)  # (L - 1, h, w)
        stem = path.name.split(".")[0]
        mask = Image.open(data / f"{kind}-masks" / f"{stem}.png").convert("L")
        small = mask.resize(of_image.shape[:0:-1], Image.Resampling.BOX)
        maps.append(of_image.reshape(len(of_image), -1))
        masks.append(np.asarray(small).ravel() > 127)
    return np.concatenate(maps, axis=1), np.concatenate(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--odd", nargs="+", default=["blowhole", "break"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in options.seeds:
        model = options.models / f"seed{seed}"
        prepare(options.data, model, seed, options.minutes, options.odd)
        print(f"seed {seed}")
        figures = of_images(model, options.odd) | of_pixels(options.data, model, options.odd)
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    for name, values in found.items():
        print(f"{name}: {min(values):.3f} to {max(values):.3f}, mean {np.mean(values):.3f}")


if __name__ == "__main__":
    main()
