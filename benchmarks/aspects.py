"""Which aspects the combined score is best made of: AUROC on images to develop with.

    python -m benchmarks.aspects cifar10 cifar10/test5k.npz#0:2000 cifar10/train20k.npz#0:1000 \
        MNIST=mnist/train-images-idx3-ubyte.gz#0:1000
    python -m benchmarks.aspects fashionmnist train-images-idx3-ubyte.gz#55000:57000 \
        train-images-idx3-ubyte.gz#57000:58000 MNIST=... -S 16

MODEL, images to calibrate on, images that belong, and any number of NAME=SOURCE that do not. Of
colour images that belong, corrupted versions are made as well (`benchmarks.corrupted`). Each way of
combining is fitted to the images to calibrate on as `hvaeood calibrate` does it. --statistics: as
of `hvaeood score`; each of them alone, beside what is used, and all of them beside it. One line is
the AUROC, the one below it the share flagged at an FPR of 1 %, the mean over --splits of the images
to calibrate on into those that densities are fitted to and those that give p-values.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from hvaeood_cli.calibration.density import Density
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
    scores: ScoreFile, aspects: tuple[str, ...], without: tuple[str, ...], split: int = 0
) -> Calibration:
    """A calibration of these aspects alone."""
    whole = combination.aspects

    def chosen(tiled: bool, there: object) -> dict[str, tuple[str, ...]]:
        found = whole(tiled, scores.columns)
        found["bounds"] = tuple(name for name in found["bounds"] if name not in without)
        return {name: found[name] for name in aspects}

    with (
        instead(calibration_module, "aspects", chosen),
        instead(calibration_module, "_SPLIT_SEED", split),
    ):
        return Calibration.of(scores)


@contextmanager
def instead(owner: object, name: str, value: object) -> Iterator[None]:
    """Inside a `with` block, something of the program is this instead."""
    usual = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, usual)


def of_all(values: Values) -> Density:
    """A density as `Density.fit_core` would fit it without leaving any image out."""
    return Density.fit(values, n_components=1)


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
    parser.add_argument("--splits", type=int, default=1)
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
    print(f"{given.model}, S = {given.S}, n = {len(usual)}", "itself", *odd, sep="\t")
    asked, used = detector.settings.asked, VARIANTS["... and channels"][0]
    others: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        f"{name} alone": ((name,), ()) for name in asked
    }
    others |= {f"what is used, and {name}": ((*used, name), ()) for name in asked}
    others |= {"what is used, and all of them": ((*used, *asked), ())} if asked else {}
    splits = range(given.splits)

    def show(title: str, variant: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        made = [calibrated(calibrating, *variant, split) for split in splits]
        say(title, usual, odd, [(lambda s, c=c: c.combine(s.columns), c.combined) for c in made])

    for title, variant in (others | VARIANTS).items():
        show(title, variant)
    what_is_used = VARIANTS["... and channels"]
    with instead(combination, "HANDICAPS", {}):
        show("... with spots as heavy as the others", what_is_used)
        with instead(Density, "fit_core", staticmethod(of_all)):
            show("... and densities of all images", what_is_used)
    made = [calibrated(calibrating, *what_is_used, split) for split in splits]
    # some of the images that are ranked were fitted to: the rates are not exact
    highest = [rarest(one) for one in made]
    ways = [(one, np.sort(one(calibrating))) for one in highest]
    say("the rarest of these alone", usual, odd, ways)
    quantile = largest_quantile(made[0], calibrating)
    say(
        "the largest quantile of any statistic",
        usual,
        odd,
        [(quantile, np.sort(quantile(calibrating)))],
    )


def say(
    title: str,
    usual: ScoreFile,
    odd: dict[str, ScoreFile],
    ways: list[tuple[Callable[[ScoreFile], Values], Values]],
) -> None:
    """Print the mean over ways: each a score, and that of the calibration images, sorted."""
    found = [
        (calibrated, score(usual), list(map(score, odd.values()))) for score, calibrated in ways
    ]
    aurocs = np.mean([[auroc(inside, one) for one in out] for _, inside, out in found], axis=0)
    flagged = np.mean(
        [
            [(conformal_p(calibrated, one) <= _LEVEL).mean() for one in (inside, *out)]
            for calibrated, inside, out in found
        ],
        axis=0,
    )
    print(title, "", *(f"{value:.3f}" for value in aurocs), sep="\t")
    print("  flagged", *(f"{value:.3f}" for value in flagged), sep="\t", flush=True)


def auroc(inside: Values, out: Values) -> float:
    labels = np.repeat([0, 1], [len(inside), len(out)])
    both = np.nan_to_num(np.concatenate([inside, out]), posinf=1e300)
    return float(roc_auc_score(labels, both))


if __name__ == "__main__":
    main()
