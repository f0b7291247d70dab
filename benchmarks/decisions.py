"""What a calibration promises, held against images: the tables of docs/decisions.md.

    python -m benchmarks.decisions CALIBRATION.h5 INSIDE.h5 NAME=OUTSIDE.h5 ...

Score files of: held-out images to calibrate on, other in-distribution images, and sets of images
that do not belong. Prints, with the seeds 0, 1, ... for every sample: how well each way to combine
the statistics tells the sets apart; the false-positive rate realised at 1 % and 5 %; the false
discoveries and the recall under an FDR of 5 %; batches of 50; false alarms of the drift test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binom, false_discovery_control

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.combination import statistics
from hvaeood_cli.calibration.conformal import conformal_p
from hvaeood_cli.calibration.drift import LEVEL, measure_drift
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.report.metrics import compare
from hvaeood_cli.store.decision import Decision, Rule
from hvaeood_cli.store.reader import ScoreFile, read_scores


def combinations(calibration: Calibration, scores: ScoreFile) -> dict[str, np.ndarray]:
    """Every way to make one score of an image, (N,) each, higher is odder."""
    llr = scores.llr[scores.scored].astype(np.float64)
    p = np.stack([conformal_p(c, s) for c, s in zip(calibration.sorted_llr.T, llr.T, strict=True)])
    standard = (llr - calibration.llr.mean(0)) / calibration.llr.std(0)
    single = {f"LLR>{k}": values for k, values in enumerate(llr.T, start=1)}
    return (
        {"-L": -scores.lower_bound[scores.scored, 0]}
        | single
        | {
            "Bonferroni-min of p": -p.min(0),
            "max of standardised LLR": standard.max(1),
            **aspects(calibration, scores),
            "combined": calibration.combine(scores.columns)[scores.scored],
        }
    )


def aspects(calibration: Calibration, scores: ScoreFile) -> dict[str, np.ndarray]:
    """How rare in each aspect alone, and in the aspect where it is rarest, (N,) each."""
    values = statistics(scores.columns, calibration.statistics)[scores.scored]
    rarities = calibration.combinations[0].rarities(values)
    found = dict(zip(calibration.aspects, rarities, strict=True))
    return found | {"the rarest aspect alone": np.max(rarities, axis=0)}


def tell_apart(calibration: Calibration, inside: ScoreFile, outside: dict[str, ScoreFile]) -> None:
    print("\n| set | n | score | AUROC | AUPRC | FPR80 | flagged at FPR 1 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    usual = combinations(calibration, inside)
    for name, scores in outside.items():
        for way, values in combinations(calibration, scores).items():
            m = compare(usual[way], values)
            figures = f"{m.auroc:.4f} | {m.auprc:.4f} | {m.fpr80:.4f}"
            print(f"| {name} | {m.n} | {way} | {figures} | {flagged(calibration, way, values)} |")


def flagged(calibration: Calibration, way: str, values: np.ndarray) -> str:
    if way != "combined":
        return ""
    return f"{np.mean(conformal_p(calibration.combined, values) <= 0.01):.3f}"


def false_positives(decision: Decision) -> None:
    n = len(decision)
    for level in (0.01, 0.05):
        found = int((decision.p_combined <= level).sum())
        low, high = binom.interval(0.99, n, level)
        inside = "inside" if low <= found <= high else "OUTSIDE"
        print(
            f"FPR {level:.0%}: {found} of {n} flagged ({found / n:.2%}), "
            f"{inside} the 99 % binomial interval {low:.0f} to {high:.0f}"
        )


def false_discoveries(
    usual: Decision, odd: Decision, n_usual: int, n_odd: int, name: str, n_seeds: int
) -> None:
    """FDR 5 % over batches of n_usual + n_odd images."""
    proportions, recalls = [], []
    for seed in range(n_seeds):
        random = np.random.default_rng(seed)
        p = np.concatenate(
            [
                random.choice(usual.p_combined, n_usual, replace=False),
                random.choice(odd.p_combined, n_odd, replace=False),
            ]
        ).astype(np.float64)
        flagged = false_discovery_control(p) <= 0.05
        proportions.append(flagged[:n_usual].sum() / max(flagged.sum(), 1))
        recalls.append(flagged[n_usual:].mean() if n_odd else np.nan)
    error = np.std(proportions, ddof=1) / np.sqrt(len(proportions))
    recall = f", recall {np.mean(recalls):.3f}" if n_odd else ""
    print(
        f"FDR 5 %, {n_usual} + {n_odd} {name}, {n_seeds} seeds: false-discovery proportion "
        f"{np.mean(proportions):.4f} ± {error:.4f} (standard error){recall}"
    )


def false_alarms(calibration: Calibration, inside: ScoreFile) -> None:
    n_batches, size = 200, 500
    random = np.random.default_rng(0)
    llr = inside.llr[inside.scored]
    drifted = sum(
        measure_drift(calibration.sorted_llr, random.choice(llr, size, replace=False)).drifted
        for _ in range(n_batches)
    )
    low, high = binom.interval(0.99, n_batches, LEVEL)
    print(
        f"drift test at {LEVEL:.0%}: {drifted} alarms in {n_batches} batches of {size} "
        f"in-distribution images ({drifted / n_batches:.1%}; nominal: {low:.0f} to {high:.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("inside", type=Path)
    parser.add_argument("outside", nargs="+", metavar="NAME=FILE")
    options = parser.parse_args()

    calibration = Calibration.of(read_scores(options.calibration))
    inside = read_scores(options.inside)
    pairs = [pair.partition("=") for pair in options.outside]
    outside = {name: read_scores(Path(path)) for name, _, path in pairs}
    run = inside.header
    print(
        f"model {run.model_name} ({run.model_sha256[:12]}), "
        f"S = {run.n_importance_samples} in L and "
        f"{run.n_importance_samples_k} in L>k, "
        f"proposal {run.proposal}, seed {run.seed}"
    )
    print(
        f"calibration {calibration.id}: {len(calibration)} images, {len(calibration.combined)} "
        f"for p-values; {len(inside)} other in-distribution images"
    )
    tell_apart(calibration, inside, outside)
    print()
    usual = decide(calibration, inside, Rule())
    false_positives(usual)
    for name, scores in outside.items():
        odd = decide(calibration, scores, Rule())
        false_discoveries(usual, odd, 1000, 100, name, 20)
        false_discoveries(usual, odd, 50, 5, name, 200)
    false_discoveries(usual, usual, 50, 0, "others", 200)
    false_alarms(calibration, inside)


if __name__ == "__main__":
    main()
