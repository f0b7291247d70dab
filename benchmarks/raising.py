"""What raises LLR^{>k} on natural images: variants of compact-rgb, trained alike and compared.

    python -m benchmarks.raising --minutes 4 --precision bf16-mixed cifar10/train20k.npz OUT \\
        MNIST=mnist/train-images-idx3-ubyte.gz notMNIST=notmnist/t10k-images-idx3-ubyte.gz

Each variant is trained for so many minutes on one thread on images 0 to 18,999, seed 0. Compared
are images 19,000 to 19,999, which no variant trains on, with the first 1,000 of each other set and
with themselves in patches put in another order; S = 1, proposal `mean`. Prints a row a variant:
bits/dim, and AUROC of LLR^{>1}, LLR^{>2} and LLR^{>2} / -L.
The test images, and the images of other sets behind the first 1,000, are left for measuring.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.corrupted import shuffled
from hvaeood_cli.device import make_fabric
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.presets import COMPACT_RGB
from hvaeood_cli.report.metrics import compare
from hvaeood_cli.scoring.bounds import bits_per_dim
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings, TrainSettings
from hvaeood_cli.training.checkpoint import Checkpoints
from hvaeood_cli.training.loop import train
from hvaeood_cli.training.reading import read_pixels

N = 1000  # images of each set

# What differs from compact-rgb: fields of z_1, z_2 and z_3, and training settings.
Scores = dict[str, np.ndarray]  # by the names of the column table
Layers = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
_SPATIAL: Layers = ({}, {"latent": 16}, {"latent": 32, "spatial": True})
_FREE = {"free_nats_per": "element", "free_nats_constant": 0.5, "free_nats_anneal": 0.3}
VARIANTS: dict[str, tuple[Layers, dict[str, Any]]] = {
    "compact-rgb": (({}, {}, {}), {}),
    "alpha 0.25": (({}, {}, {}), {"semantic_weight": 0.25}),
    "alpha 1": (({}, {}, {}), {"semantic_weight": 1.0}),
    "upper latents as the paper's": (_SPATIAL, {}),
    "narrower": (({}, {"latent": 2}, {"latent": 8}), {}),
    "the paper's free nats": (({}, {}, {}), {"free_nats": (2.0, 2.0, 2.0), **_FREE}),
    "posteriors start at 1": (({}, {}, {}), {"posterior_scale": ()}),
}


def read(source: str) -> np.ndarray:
    """(N, 3, 32, 32) uint8."""
    return read_pixels(open_sources([source]), COMPACT_RGB.model).pixels


def variant(name: str, minutes: float) -> tuple[ModelConfig, TrainSettings]:
    layers, settings = VARIANTS[name]
    model = COMPACT_RGB.model.model_dump()
    for layer, changes in zip(model["layers"], layers, strict=True):
        layer.update(changes)
    changed = COMPACT_RGB.train.model_dump() | settings | {"minutes": minutes, "epochs": 1000}
    return ModelConfig.model_validate(model), TrainSettings.model_validate(changed)


def row(name: str, inside: Scores, outside: dict[str, Scores], n_dims: int) -> str:
    bits = bits_per_dim(inside["lower_bound"].mean(0).astype(np.float64), n_dims)
    cells = [name, ", ".join(f"{value:.2f}" for value in bits)]
    for other in outside.values():
        ratios = [compare(a, b).auroc for a, b in zip(inside["llr"].T, other["llr"].T, strict=True)]
        both = [one["llr_share"][:, -1] for one in (inside, other)]
        cells.append(", ".join(f"{value:.3f}" for value in [*ratios, compare(*both).auroc]))
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("out", type=Path, help="for checkpoints")
    parser.add_argument("outside", nargs="+", metavar="NAME=SOURCE")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    fabric = make_fabric(torch.device("cpu"), options.precision)
    images = read(options.images)
    inside = images[19_000 : 19_000 + N]
    pairs = (pair.partition("=") for pair in options.outside)
    outside = {name: read(f"{source}#0:{N}") for name, _, source in pairs}
    outside["shuffled"] = shuffled(inside.transpose(0, 2, 3, 1), 8).transpose(0, 3, 1, 2)
    print("| variant | bits/dim L, L>1, L>2 | " + " | ".join(outside) + " |")
    print("|" + " --- |" * (2 + len(outside)))
    for name in options.only:
        config, settings = variant(name, options.minutes)
        folder = options.out / name.replace(" ", "-")
        checkpoints = Checkpoints(folder, {"name": name, "settings": settings.model_dump()})
        ladder = train(images[:19_000], images[:0], config, settings, checkpoints, fabric).ladder
        scorer = Scorer.on(ladder, ScoreSettings(n_importance_samples=1), torch.device("cpu"))
        others = {other: scorer.score(pixels) for other, pixels in outside.items()}
        print(row(name, scorer.score(inside), others, config.n_dims), flush=True)


if __name__ == "__main__":
    main()
