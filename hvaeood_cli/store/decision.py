"""`/decision/*` of a score file: what was flagged, by which rule, and how sure that is.

Decisions are made anew at another level without scoring again, so they are the one part of a
score file that may be replaced. The file is still written whole: copied beside, then renamed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.files import replacing

GROUP = "decision"
_CHUNK = 16384  # rows


@dataclass(frozen=True)
class Decision:
    """What a rule makes of N rows. Unscored rows: p NaN, k 0, not flagged."""

    p_value: NDArray[np.float32]  # (N, L - 1), conformal, of LLR^{>k} for each k
    p_combined: NDArray[np.float32]  # (N,), conformal, of the combined score: the one to act on
    combined: NDArray[np.float32]  # (N,) the combined score, nats; higher is odder
    k: NDArray[np.int8]  # (N,) whose LLR^{>k} differs most from the calibration's
    flagged: NDArray[np.bool_]  # (N,)
    rule: str  # "fpr" | "fdr" | "fdr-by"
    level: float
    threshold: float  # p_combined is flagged up to it; for an FDR 0 where none is
    calibration_id: str
    n_calibration: int  # images that p_combined compares with; its least value is 1 / (n + 1)

    def __len__(self) -> int:
        return len(self.flagged)

    @property
    def least_p(self) -> float:
        """The smallest p_combined that can be, 1 / (n + 1)."""
        return 1.0 / (self.n_calibration + 1.0)


COLUMNS = ("p_value", "p_combined", "combined", "k", "flagged")
ATTRIBUTES = ("rule", "level", "threshold", "calibration_id", "n_calibration")


def write_decision(path: Path, decision: Decision | None) -> None:
    """Put a decision into a score file, or with None take away the one that is there."""
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            if GROUP in file:
                del file[GROUP]
            if decision is not None:
                _write(file.create_group(GROUP), decision)


def read_decision(columns: dict[str, h5py.Dataset], attributes: dict[str, Any]) -> Decision:
    """A decision from the datasets of its group, by field, and the group's attributes."""
    kinds = {"rule": str, "level": float, "threshold": float, "n_calibration": int}
    facts = {key: kinds.get(key, str)(attributes[key]) for key in ATTRIBUTES}
    return Decision(**{field: columns[field][()] for field in COLUMNS}, **facts)


def _write(group: h5py.Group, decision: Decision) -> None:
    for key in ATTRIBUTES:
        group.attrs[key] = getattr(decision, key)
    group.attrs["least_p"] = decision.least_p
    for field in COLUMNS:
        values = getattr(decision, field)
        chunks = (max(1, min(len(values), _CHUNK)), *(1 for _ in values.shape[1:]))
        group.create_dataset(field, data=values, chunks=chunks, fletcher32=True, track_times=False)
