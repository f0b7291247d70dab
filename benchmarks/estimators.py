"""What more samples, or better chosen ones, bring: L_S and the AUROC of each score, by S.

    python -m benchmarks.estimators fashionmnist train-images-idx3-ubyte.gz#55000:57000 \
        train-images-idx3-ubyte.gz#57000:58000 MNIST=... notMNIST=... [--samples 1 2 4 8 16]

MODEL, images to calibrate on, images that belong, and any number of NAME=SOURCE that do not. The S
draws of an image are made in these ways, each of which leaves L_S a lower bound on log p(x):

independent   as `hvaeood score` draws them
antithetic    every second draw is minus the one before
stratified    of each number one draw falls into each S-th of its distribution (a Latin hypercube)
one z_1       z_1 is drawn once for all S, which would save all that is computed from it alone
one above     z_2 ... z_L are drawn once for all S
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.detector import Detector
from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.scoring.scorer import ImageNoise, Scorer
from hvaeood_cli.store.score_file import ScoreFile

Choice = Callable[[Ladder, Tensor], Tensor]
"""Draws by a ladder from independent ones, (S, B, n_latents)."""


def antithetic(ladder: Ladder, normal: Tensor) -> Tensor:
    normal = normal.clone()
    normal[1::2] = -normal[: len(normal) - 1 : 2]
    return normal


def stratified(ladder: Ladder, normal: Tensor) -> Tensor:
    strata = normal.argsort(0).argsort(0)  # in an order that is random, and independent of what
    within = torch.rand(normal.shape, generator=torch.Generator().manual_seed(0))
    uniform = (strata + within.clamp(1e-6, 1 - 1e-6)) / len(normal)
    return torch.special.ndtri(uniform.double()).float()


def one_lowest(ladder: Ladder, normal: Tensor) -> Tensor:
    normal, n = normal.clone(), ladder.by_layer(normal)[0][0, 0].numel()
    normal[:, :, :n] = normal[:1, :, :n]
    return normal


def one_above(ladder: Ladder, normal: Tensor) -> Tensor:
    normal, n = normal.clone(), ladder.by_layer(normal)[0][0, 0].numel()
    normal[:, :, n:] = normal[:1, :, n:]
    return normal


CHOICES: dict[str, Choice] = {
    "independent": lambda ladder, normal: normal,
    "antithetic": antithetic,
    "stratified": stratified,
    "one z_1": one_lowest,
    "one above": one_above,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibrate", "usual"):
        parser.add_argument(name)
    parser.add_argument("odd", nargs="*", help="NAME=SOURCE")
    parser.add_argument("--samples", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    odd = dict(one.split("=", 1) for one in given.odd)
    drawn = Scorer._noise_of
    for n_samples in given.samples:
        for title, choice in CHOICES.items() if n_samples > 1 else [*CHOICES.items()][:1]:

            def chosen(
                self: Scorer, noises: list[ImageNoise], choice: Choice = choice
            ) -> tuple[Tensor, Tensor]:
                uniform, normal = drawn(self, noises)
                return uniform, choice(self.ladder, normal).contiguous()

            how: dict[str, Any] = {"n_importance_samples": n_samples, "seed": given.seed}
            with mock.patch.object(Scorer, "_noise_of", chosen):
                detector = Detector(given.model, device="cpu", runtime="torch", **how)
                scored = [detector.score(one) for one in (given.calibrate, given.usual)]
                others = {name: detector.score(source) for name, source in odd.items()}
            say(f"S = {n_samples}, {title}", *scored, others)


def say(title: str, calibrating: ScoreFile, usual: ScoreFile, odd: dict[str, ScoreFile]) -> None:
    calibration = Calibration.of(calibrating)
    scores: dict[str, Callable[[ScoreFile], Any]] = {
        f"LLR>{k}": lambda s, k=k: s.llr[:, k - 1] for k in range(1, usual.n_layers)
    } | {"combined": lambda s: calibration.combine(s.columns)}
    said = [f"L {usual.lower_bound[:, 0].mean():.2f}"]
    for name, other in odd.items():
        labels = np.repeat([0, 1], [len(usual), len(other)])
        for score, of in scores.items():
            both = np.concatenate([of(usual), of(other)]).astype(np.float64)
            both = np.nan_to_num(both, posinf=1e300)
            said.append(f"{name} {score} {roc_auc_score(labels, both):.4f}")
    print(title, *said, sep="\t", flush=True)


if __name__ == "__main__":
    main()
