"""Score files made up for tests: statistics of images that belong, and of others, shifted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.reader import ScoreFile, read_scores
from hvaeood_cli.store.schema import RunHeader, blank_rows
from hvaeood_cli.store.status import STATUS_CODES
from hvaeood_cli.store.writer import write_scores

SHA256 = "ab" * 32
N_LAYERS = 3


def make_scores(
    path: Path,
    n: int = 200,
    seed: int = 0,
    shift: float = 0.0,
    bad: tuple[int, ...] = (),
    names: list[bytes] | None = None,
    shuffle: bool = False,
    **changes: Any,
) -> ScoreFile:
    """A score file of n images; `shift` nats lower L^{>k} of all, `bad` rows are not scored.

    shuffle: the same images in another order.
    """
    random = np.random.default_rng(seed)
    rows = blank_rows(n, N_LAYERS)
    depth = random.normal(size=(n, 1))
    elbo = -100.0 + 10.0 * depth + random.normal(size=(n, 1))
    llr = random.gamma(2.0, 2.0, (n, N_LAYERS - 1)) + 0.5 * depth + shift
    rows["lower_bound"] = np.concatenate([elbo, elbo - llr], axis=1)
    rows["llr"] = rows["lower_bound"][:, :1] - rows["lower_bound"][:, 1:]
    rows["kl"] = 5.0 + random.normal(size=(n, N_LAYERS)) + depth
    rows["log_px"] = rows["lower_bound"] + rows["kl"].sum(1, keepdims=True)
    rows["bits_per_dim"] = -rows["lower_bound"][:, 0] / (64 * np.log(2))
    rows["sha256"] = random.integers(0, 256, (n, 32))
    rows["content"] = random.integers(1, 2**63, n)
    order = random.permutation(n) if shuffle else np.arange(n)
    rows = rows[order]
    for i in bad:
        rows[i] = blank_rows(1, N_LAYERS)[0]
        rows["status"][i] = STATUS_CODES["damaged"]
    header: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "tool_version": "0",
        "model_name": "made-up",
        "model_sha256": SHA256,
        "n_layers": N_LAYERS,
        "seed": 0,
        "n_importance_samples": 16,
        "proposal": "mean",
        "settings": {
            "n_importance_samples_k": 1,
            "precision": "float32",
            "preprocessing": "none",
        },
        "n_images": n,
        "listing_sha256": "cd" * 32,
    }
    names = names or [b"images/%05d.png" % i for i in order]
    batches = [Batch(0, rows, dict.fromkeys(bad, "it ends too early"))]
    write_scores(path, RunHeader(**header | changes), names, batches, STATUS_CODES, {"resized": 1})
    return read_scores(path)
