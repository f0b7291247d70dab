"""The score file's shape, version 1: what `docs/score-file.md` says, as code.

One file a run, written whole, by rename. N images in manifest order, L stochastic layers.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FORMAT = "hvaeood-scores"
FORMAT_VERSION = 1

Rows = NDArray[np.void]  # a structured array of `row_dtype(L)`


class RunHeader(BaseModel):
    """What was scored with what. A run may only be resumed, or found done, under an equal one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: str  # ISO 8601, UTC; of the run's first start
    tool_version: str
    model_name: str
    model_sha256: str
    n_layers: Annotated[int, Field(ge=2, le=64)]
    seed: int
    n_importance_samples: int
    proposal: str
    settings: dict[str, Any]  # all else that can change a score
    n_images: Annotated[int, Field(ge=1)]
    listing_sha256: str  # names, sizes and times: has the folder changed?
    label: int | None = None


# What must agree for a run to go on, and what to call it when it doesn't.
IDENTITY = {
    "model_sha256": "the model",
    "seed": "the seed",
    "n_importance_samples": "the importance samples",
    "proposal": "the proposal",
    "settings": "the settings",
    "label": "the label",
    "n_images": "the number of images",
    "listing_sha256": "the images (a name, size or time differs)",
}


def differences(there: RunHeader, here: RunHeader) -> list[str]:
    """What keeps `here` from continuing `there`, in words; empty when nothing does."""
    found = []
    for field, words in IDENTITY.items():
        old, new = getattr(there, field), getattr(here, field)
        if old == new:
            continue
        if field == "settings":
            keys = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
            found += [f"{key}: {old.get(key)} there, {new.get(key)} here" for key in sorted(keys)]
        elif field == "listing_sha256":
            found.append(words)
        elif field == "model_sha256":
            old, new = f"{there.model_name} ({old[:12]})", f"{here.model_name} ({new[:12]})"
            found.append(f"{words}: {old} there, {new} here")
        else:
            found.append(f"{words}: {old} there, {new} here")
    return found


def row_dtype(n_layers: int) -> np.dtype[np.void]:
    """One image's row, as the journal keeps it; its fields become the file's datasets."""
    return np.dtype(
        [
            ("sha256", np.uint8, (32,)),
            ("content", np.uint64),
            ("status", np.int8),
            ("conversions", np.uint16),
            ("lower_bound", np.float32, (n_layers,)),
            ("llr", np.float32, (n_layers - 1,)),
            ("kl", np.float32, (n_layers,)),
            ("log_px", np.float32, (n_layers,)),
            ("bits_per_dim", np.float32),
        ]
    )


# field of a row -> dataset in the file
DATASETS = {
    "sha256": "/images/sha256",
    "content": "/images/content",
    "status": "/images/status",
    "conversions": "/images/conversions",
    "lower_bound": "/scores/lower_bound",
    "llr": "/scores/llr",
    "kl": "/scores/kl",
    "log_px": "/scores/log_px",
    "bits_per_dim": "/scores/bits_per_dim",
}


def blank_rows(n: int, n_layers: int) -> Rows:
    """n rows that are not scored: status 0, NaN scores."""
    rows = np.zeros(n, row_dtype(n_layers))
    for name in ("lower_bound", "llr", "kl", "log_px", "bits_per_dim"):
        rows[name] = np.nan
    return rows
