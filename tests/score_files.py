"""Score files made up for tests: statistics of images that belong, and of others, shifted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hvaeood_cli.store.columns import Rows, Sizes, blank_rows
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.journal import Batch
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.status import STATUS_CODES
from hvaeood_cli.store.writer import write_scores

SHA256 = "ab" * 32
N_LAYERS = 3
SIZES = Sizes(N_LAYERS, n_channels=2)


def make_header(n: int, **changes: Any) -> RunHeader:
    """The header of a run over n images of 8x8 grey pixels."""
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "tool_version": "0",
        "torch_version": "0",
        "numpy_version": "0",
        "pillow_version": "0",
        "device": "cpu",
        "model_name": "made-up",
        "model_path": "/nowhere/made-up",
        "model_sha256": SHA256,
        "n_layers": N_LAYERS,
        "n_channels": SIZES.n_channels,
        "image_size": 8,
        "image_channels": 1,
        "n_dims": 64,
        "preprocessing": "none",
        "seed": 0,
        "n_importance_samples": 16,
        "n_importance_samples_k": 1,
        "proposal": "mean",
        "precision": "float32",
        "n_images": n,
        "listing_sha256": "cd" * 32,
    }
    return RunHeader(**fields | changes)


def fill_in(rows: Rows, n_dims: int = 64) -> None:
    """What follows from lower_bound, by row."""
    lower = rows["lower_bound"]
    rows["llr"] = lower[:, :1] - lower[:, 1:]
    rows["llr_share"] = rows["llr"] / np.maximum(-lower[:, :1], 1.0)
    rows["bits_per_dim"] = -lower[:, 0] / (n_dims * np.log(2))


def make_scores(
    path: Path,
    n: int = 200,
    seed: int = 0,
    shift: float | np.ndarray = 0.0,
    bad: tuple[int, ...] = (),
    names: list[bytes] | None = None,
    shuffle: bool = False,
    **changes: Any,
) -> ScoreFile:
    """A score file of n images; `shift` nats lower L^{>k}, `bad` rows are not scored.

    shift: of all images, or of each, (n, 1).

    shuffle: the same images in another order.
    """
    random = np.random.default_rng(seed)
    rows = blank_rows(n, SIZES)
    depth = random.normal(size=(n, 1))
    elbo = -100.0 + 10.0 * depth + random.normal(size=(n, 1))
    llr = random.gamma(2.0, 2.0, (n, N_LAYERS - 1)) + 0.5 * depth + shift
    rows["lower_bound"] = np.concatenate([elbo, elbo - llr], axis=1)
    rows["kl"] = 5.0 + random.normal(size=(n, N_LAYERS)) + depth
    rows["log_px"] = rows["lower_bound"] + rows["kl"].sum(1, keepdims=True)
    fill_in(rows)
    of_pixels = np.random.default_rng([seed, 1])
    for name in ("peak", "residual", "spot_cost", "kl_channel"):
        rows[name] = of_pixels.normal(size=rows[name].shape)
    rows["sha256"] = random.integers(0, 256, (n, 32))
    rows["content"] = random.integers(1, 2**63, n)
    order = random.permutation(n) if shuffle else np.arange(n)
    rows = rows[order]
    for i in bad:
        rows[i] = blank_rows(1, SIZES)[0]
        rows["status"][i] = STATUS_CODES["damaged"]
    batch = Batch(0, rows, dict.fromkeys(bad, "it ends too early"))
    names = names or [b"images/%05d.png" % i for i in order]
    header = make_header(n, **changes)
    return write_scores(
        path,
        ScoreFile.of_batches(path, header, np.array(names, dtype=bytes), [batch], {"resized": 1}),
    )
