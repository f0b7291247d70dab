"""Which aspects the combined score is best made of: AUROC on images to develop with.

    python -m benchmarks.aspects cifar10 cifar10/test5k.npz#0:2000 cifar10/train20k.npz#0:1000 \
        MNIST=mnist/train-images-idx3-ubyte.gz#0:1000
    python -m benchmarks.aspects fashionmnist train-images-idx3-ubyte.gz#55000:57000 \
        train-images-idx3-ubyte.gz#57000:58000 MNIST=... -S 16

MODEL, images to calibrate on, images that belong, and any number of NAME=SOURCE that do not. Of
colour images that belong, corrupted versions are made as well (`benchmarks.corrupted`). Each way of
combining is fitted to the images to calibrate on as `hvaeood calibrate` does it. --statistics: as
of `hvaeood score`; each of them alone, beside what is used, and all of them beside it. One line is
the AUROC, the one below it the share flagged at an FPR of 1 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.corrupted import WAYS
from hvaeood_cli.calibration import calibration as calibration_module
from hvaeood_cli.calibration import combination
from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.combination import statistics
from hvaeood_cli.calibration.conformal import conformal_p
from hvaeood_cli.detector import Detector
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.store.score_file import ScoreFile

Values = NDArray[np.float64]
_LEVEL = 0.01

# By the aspects that a combination has, and those of its columns that "bounds" does not take.
VARIANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bounds, as before there were others": (("bounds",), ("residual",)),
    "bounds with residuals": (("bounds",), ()),
    "... and residuals": (("bounds", "residuals"), ()),
    "... and spots": (("bounds", "residuals", "spots"), ()),
    "... and channels": (("bounds", "residuals", "spots", "channels"), ()),
}


def calibrated(
    scores: ScoreFile, aspects: tuple[str, ...], without: tuple[str, ...]
) -> Calibration:
    """A calibration of these aspects alone."""
    whole = combination.aspects

    def chosen(tiled: bool, there: object) -> dict[str, tuple[str, ...]]:
        found = whole(tiled, scores.columns)
        found["bounds"] = tuple(name for name in found["bounds"] if name not in without)
        return {name: found[name] for name in aspects}

    calibration_module.aspects = chosen  # type: ignore[assignment]
    try:
        return Calibration.of(scores)
    finally:
        calibration_module.aspects = whole


def rarest(calibration: Calibration) -> Callable[[ScoreFile], Values]:
    """The rarest aspect alone, where the combined score adds them up."""

    def score(scores: ScoreFile) -> Values:
        values = statistics(scores.columns, calibration.statistics)
        return np.max(calibration.combinations[0].rarities(values), axis=0)

    return score


def largest_quantile(calibration: Calibration, scores: ScoreFile) -> Callable[[ScoreFile], Values]:
    """The rarest statistic alone, each by its place among these scores, from both sides."""
    ranked = np.sort(statistics(scores.columns, calibration.statistics), axis=0)  # (n, D)

    def score(scores: ScoreFile) -> Values:
        found = np.zeros(len(scores))
        for known, values in zip(
            ranked.T, statistics(scores.columns, calibration.statistics).T, strict=True
        ):
            below = np.searchsorted(known, values, "right")
            above = len(known) - np.searchsorted(known, values, "left")
            found = np.maximum(found, -np.log((1.0 + np.minimum(below, above)) / (1 + len(known))))
        return found

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibrate", "usual"):
        parser.add_argument(name)
    parser.add_argument("odd", nargs="*", help="NAME=SOURCE")
    parser.add_argument("-S", type=int, default=1)
    parser.add_argument("--statistics", default="")
    given = parser.parse_args()
    how: dict[str, Any] = {"n_importance_samples": given.S, "statistics": given.statistics}
    detector = Detector(given.model, device="cpu", **how)
    sources: dict[str, Any] = dict(one.split("=", 1) for one in given.odd)
    if detector.bundle.config.image_channels == 3:
        manifest = open_sources([given.usual])
        images = np.stack([manifest.read(i)[0].pixels for i in range(len(manifest))])
        sources = {name: spoil(images) for name, spoil in WAYS.items()} | sources
    calibrating, usual = detector.score(given.calibrate), detector.score(given.usual)
    odd = {name: detector.score(source) for name, source in sources.items()}
    print(f"{given.model}, S = {given.S}, n = {len(usual)}", *odd, sep="\t")
    asked, used = detector.settings.asked, VARIANTS["... and channels"][0]
    others: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        f"{name} alone": ((name,), ()) for name in asked
    }
    others |= {f"what is used, and {name}": ((*used, name), ()) for name in asked}
    others |= {"what is used, and all of them": ((*used, *asked), ())} if asked else {}
    for title, variant in (others | VARIANTS).items():
        calibration = calibrated(calibrating, *variant)
        say(title, usual, odd, lambda s, c=calibration: c.combine(s.columns), calibration.combined)
    highest = rarest(calibration)
    ranked = np.sort(highest(calibrating))  # some of them were fitted to: the rate is not exact
    say("the rarest of these alone", usual, odd, highest, ranked)
    highest = largest_quantile(calibration, calibrating)
    say("the largest quantile of any statistic", usual, odd, highest, np.sort(highest(calibrating)))


def say(
    title: str,
    usual: ScoreFile,
    odd: dict[str, ScoreFile],
    score: Callable[[ScoreFile], Values],
    calibrated: Values,
) -> None:
    inside = score(usual)
    aurocs, flagged = [], [f"{(conformal_p(calibrated, inside) <= _LEVEL).mean():.3f}"]
    for scores in odd.values():
        found = score(scores)
        labels = np.repeat([0, 1], [len(inside), len(found)])
        both = np.nan_to_num(np.concatenate([inside, found]), posinf=1e300)
        aurocs.append(f"{roc_auc_score(labels, both):.3f}")
        flagged.append(f"{(conformal_p(calibrated, found) <= _LEVEL).mean():.3f}")
    print(title, *aurocs, sep="\t")
    print("  flagged", *flagged, sep="\t", flush=True)


if __name__ == "__main__":
    main()
