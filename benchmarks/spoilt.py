"""Photographs that belong, each spoilt in one place: what settings may be chosen on.

    python -m benchmarks.spoilt calibrate/ train/ spoilt/

Each image of the first folder is written to spoilt/KIND, and a mask of where it was spoilt, white,
to spoilt/KIND-masks. The kinds take turns, and the seed is 0. `dark-blob`, `bright-blob`: an
ellipse of 3 to 9 pixels each way. `dark-area`: an uneven one of 8 to 26. `patch`: one of 6 to 22
from a photograph of the second folder, half of them as bright as what was there. `scratch`: a thin
uneven line, dark or bright. `blur`: an uneven area without its detail.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Shades = NDArray[np.float64]  # (H, W), 0 to 255
Where = NDArray[np.float64]  # (H, W): below 1 inside of an area, above 1 outside
Random = np.random.Generator

KINDS = ("dark-blob", "bright-blob", "patch", "scratch", "blur", "dark-area")
_LEAST, _MOST = 12, 0.2  # pixels, and the share of an image, that a mask may have


def spoilt(
    image: Shades, kind: str, others: list[Shades], random: Random
) -> tuple[Shades, NDArray[np.bool_]]:
    """The image with one defect of a kind, and the defect's mask."""
    while True:
        made, mask = _spoilt(image, kind, others, random)
        if mask.sum() >= _LEAST and mask.mean() < _MOST:
            return made.clip(0, 255), mask


def _spoilt(
    image: Shades, kind: str, others: list[Shades], random: Random
) -> tuple[Shades, NDArray[np.bool_]]:
    if kind == "scratch":
        line = _line(image.shape, random)
        change = -image if random.random() < 0.6 else np.full_like(image, 120.0)
        return image + random.uniform(0.25, 0.7) * line * change, line > 0.5
    if kind in ("dark-blob", "bright-blob"):
        where = _ellipse(image.shape, 3, 9, random)
        change = -image if kind == "dark-blob" else np.minimum(160.0, 295.0 - image)
        inside = 1.0 / (1.0 + np.exp(np.minimum((where - 1.0) * 6.0, 50.0)))
        return image + random.uniform(0.25, 0.7) * inside * change, where < 1.0
    sizes = {"patch": (6, 22), "blur": (8, 24), "dark-area": (8, 26)}
    where = _uneven(_ellipse(image.shape, *sizes[kind], random), sizes[kind][1] / 4.0, random)
    inside = ((1.1 - where) * 5.0).clip(0.0, 1.0)
    if kind == "patch":
        put = _of_size(others[random.integers(len(others))], image.shape)
        if random.random() < 0.5 and (where < 1.0).any():
            put = put * (image[where < 1.0].mean() + 1.0) / (put[where < 1.0].mean() + 1.0)
    elif kind == "blur":
        put = ndimage.gaussian_filter(image, random.uniform(2.0, 5.0))
    else:
        put = image * (1.0 - random.uniform(0.25, 0.7))
    return image + inside * (put - image), where < 1.0


def _ellipse(shape: tuple[int, ...], least: float, most: float, random: Random) -> Where:
    """An ellipse somewhere in the image; `least` and `most` are of its half axes, pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    axes = np.exp(random.uniform(np.log(least), np.log(most), 2))
    y, x = y - random.uniform(4, shape[0] - 4), x - random.uniform(4, shape[1] - 4)
    angle = random.uniform(0.0, np.pi)
    along = (y * np.cos(angle) + x * np.sin(angle)) / axes[0]
    across = (x * np.cos(angle) - y * np.sin(angle)) / axes[1]
    return np.hypot(along, across)


def _uneven(where: Where, scale: float, random: Random) -> Where:
    noise = ndimage.gaussian_filter(random.normal(size=where.shape), scale)
    return where + 0.35 * noise / noise.std()


def _line(shape: tuple[int, ...], random: Random) -> NDArray[np.float64]:
    """A line that sways, 1 in its middle and 0 outside of it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = y - random.uniform(4, shape[0] - 4), x - random.uniform(4, shape[1] - 4)
    angle, length = random.uniform(0.0, np.pi), random.uniform(12.0, 60.0)
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    sway = 20.0 * ndimage.gaussian_filter1d(random.normal(size=400), 12.0)
    across = across + sway[np.clip(along + 200.0, 0, 399).astype(int)]
    line = np.exp(-0.5 * (across / random.uniform(0.8, 2.0)) ** 2) * (np.abs(along) < length / 2)
    return np.asarray(line)


def _of_size(image: Shades, shape: tuple[int, ...]) -> Shades:
    times = [-(-wanted // given) for wanted, given in zip(shape, image.shape, strict=True)]
    return np.tile(image, times)[: shape[0], : shape[1]]


def _read(folder: Path) -> dict[str, Shades]:
    return {
        path.name: np.asarray(Image.open(path).convert("L"), np.float64)
        for path in sorted(folder.iterdir())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    others = list(_read(options.others).values())
    for i, (name, image) in enumerate(_read(options.images).items()):
        kind, random = KINDS[i % len(KINDS)], np.random.default_rng([0, i])
        made, mask = spoilt(image, kind, others, random)
        for folder, pixels in ((kind, np.rint(made)), (f"{kind}-masks", 255 * mask)):
            (options.out / folder).mkdir(parents=True, exist_ok=True)
            path = (options.out / folder / name).with_suffix(".png")
            Image.fromarray(pixels.astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
