"""How well a model tells sets apart: the README's tables.

    python -m benchmarks.detection --inside FILE --outside NAME=FILE ... -S 16 --samples-k 1

Files are IDX or NumPy; every image of each is scored. Prints AUROC, AUPRC and FPR80 of every
bound and ratio, of the combined score if the model is calibrated, and bits/dim of the
in-distribution set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from hvaeood_cli.detector import Detector
from hvaeood_cli.report.metrics import compare
from hvaeood_cli.store.score_file import ScoreFile


def score_columns(scores: ScoreFile, detector: Detector) -> Iterator[tuple[str, np.ndarray]]:
    """Everything that can rank images, higher is more out-of-distribution."""
    n_layers = scores.lower_bound.shape[1]
    for k in range(n_layers):
        yield f"-L>{k}", -scores.lower_bound[:, k]
    for k in range(1, n_layers):
        yield f"LLR>{k}", scores.llr[:, k - 1]
    if detector.calibration is not None:
        yield "combined", detector.calibration.combine(scores.columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fashionmnist")
    parser.add_argument("--inside", required=True)
    parser.add_argument("--outside", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("-S", "--samples", type=int, default=16)
    parser.add_argument("--samples-k", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--proposal", default="mean")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    detector = Detector(
        options.model,
        n_importance_samples=options.samples,
        n_importance_samples_k=options.samples_k,
        precision=options.precision,
        proposal=options.proposal,
        seed=options.seed,
    )
    inside = detector.score(options.inside)
    n_dims = detector.bundle.config.n_dims
    bits = -inside.lower_bound.mean(0) / (n_dims * np.log(2.0))
    print(
        f"model {detector.bundle.name} ({detector.bundle.sha256[:12]}), S = {options.samples} ",
        end="",
    )
    print(f"in L and {options.samples_k} in L>k, proposal {options.proposal}, ", end="")
    print(f"{options.precision}, seed {options.seed}")
    print(f"{len(inside.llr)} images in-distribution: bits/dim ", end="")
    print(", ".join(f"L>{k} {value:.4f}" for k, value in enumerate(bits)))
    print("| set | n | score | AUROC | AUPRC | FPR80 |\n| --- | --- | --- | --- | --- | --- |")
    for pair in options.outside:
        name, _, path = pair.partition("=")
        outside = dict(score_columns(detector.score(path), detector))
        for column, values in score_columns(inside, detector):
            m = compare(values, outside[column])
            print(f"| {name} | {m.n} | {column} | {m.auroc:.4f} | {m.auprc:.4f} | {m.fpr80:.4f} |")


if __name__ == "__main__":
    main()
