"""How well models tell sets apart: the README's tables.

    python -m benchmarks.detection --inside FILE --outside NAME=FILE ... -S 16 --samples-k 1
    python -m benchmarks.detection --models seed0 seed1 seed2 --inside ... --outside ...

Files are IDX or NumPy; every image of each is scored. Prints bits/dim of the in-distribution set,
and AUROC, AUPRC and FPR80 of every bound and ratio, and of the combined score, with the share that
is flagged at an FPR of 1 %, where the models are calibrated. Of several models, such as the same
one from several seeds, it prints mean and standard deviation.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from hvaeood_cli.calibration.conformal import conformal_p
from hvaeood_cli.detector import Detector
from hvaeood_cli.report.metrics import compare
from hvaeood_cli.store.score_file import ScoreFile

_LEVEL = 0.01


def score_columns(scores: ScoreFile, detector: Detector) -> Iterator[tuple[str, np.ndarray]]:
    """Everything that can rank images, higher is more out-of-distribution."""
    n_layers = scores.lower_bound.shape[1]
    for k in range(n_layers):
        yield f"-L>{k}", -scores.lower_bound[:, k]
    for k in range(1, n_layers):
        yield f"LLR>{k}", scores.llr[:, k - 1]
    if detector.calibration is not None:
        yield "combined", detector.calibration.combine(scores.columns)


def flagged(scores: ScoreFile, detector: Detector) -> float:
    """The share that is flagged; NaN without a calibration."""
    if detector.calibration is None:
        return float("nan")
    combined = detector.calibration.combine(scores.columns)
    return float((conformal_p(detector.calibration.combined, combined) <= _LEVEL).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["fashionmnist"])
    parser.add_argument("--inside", required=True)
    parser.add_argument("--outside", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("-S", "--samples", type=int, default=16)
    parser.add_argument("--samples-k", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--proposal", default="mean")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    bits, found = list[np.ndarray](), defaultdict[tuple[str, int, str], list[list[float]]](list)
    shares = defaultdict[str, list[float]](list)
    for model in options.models:
        detector = Detector(
            model,
            n_importance_samples=options.samples,
            n_importance_samples_k=options.samples_k,
            precision=options.precision,
            proposal=options.proposal,
            seed=options.seed,
        )
        inside = detector.score(options.inside)
        n_dims = detector.bundle.config.n_dims
        bits.append(-inside.lower_bound.mean(0) / (n_dims * np.log(2.0)))
        shares["in-distribution"].append(flagged(inside, detector))
        columns = dict(score_columns(inside, detector))
        print(f"model {detector.bundle.name} ({detector.bundle.sha256[:12]})", flush=True)
        for outside in options.outside:
            name, _, source = outside.partition("=")
            scores = detector.score(source)
            shares[name].append(flagged(scores, detector))
            for column, values in score_columns(scores, detector):
                m = compare(columns[column], values)
                found[name, m.n, column].append([m.auroc, m.auprc, m.fpr80])
    print(f"S = {options.samples} in L and {options.samples_k} in L>k, ", end="")
    print(f"proposal {options.proposal}, {options.precision}, seed {options.seed}")
    print(f"{len(inside.llr)} images in-distribution: bits/dim ", end="")
    print(", ".join(f"L>{k} {one}" for k, one in enumerate(in_words(np.stack(bits)))))
    print("| set | n | score | AUROC | AUPRC | FPR80 |\n| --- | --- | --- | --- | --- | --- |")
    for (name, n, column), metrics in found.items():
        print("|", " | ".join([name, str(n), column, *in_words(np.array(metrics))]), "|")
    for name, each in shares.items():
        print(f"flagged at {_LEVEL:g}: {name} {in_words(np.array([[one] for one in each]))[0]}")


def in_words(values: np.ndarray) -> list[str]:
    """Each column of (models, n): its mean, and its standard deviation if there are several."""
    means = [f"{value:.4f}" for value in values.mean(0)]
    if len(values) == 1:
        return means
    return [
        f"{mean} ± {value:.4f}" for mean, value in zip(means, values.std(0, ddof=1), strict=True)
    ]


if __name__ == "__main__":
    main()
