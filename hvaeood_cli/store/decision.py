"""`/decision/*` of a score file: what was flagged, by which rule, and how sure that is.

Decisions are made anew at another level without scoring again, so they are the one part of a
score file that may be replaced. The file is still written whole: copied beside, then renamed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import locked, replacing
from hvaeood_cli.store.columns import Column, columns

if TYPE_CHECKING:
    from hvaeood_cli.store.score_file import ScoreFile

GROUP = "decision"
CHUNK = 16384  # rows


@dataclass(frozen=True, eq=False)
class Decision:
    """What a rule makes of N rows. Unscored rows: p NaN, k 0, not flagged."""

    combined: NDArray[np.float64]  # (N,) the combined score, nats; higher is odder
    k: NDArray[np.int8]  # (N,) whose LLR^{>k} differs most from the calibration's
    p_value: NDArray[np.float64]  # (N, L - 1), conformal, of LLR^{>k} for each k
    p_combined: NDArray[np.float64]  # (N,), conformal, of the combined score: the one to act on
    flagged: NDArray[np.bool_]  # (N,)
    rule: str  # "fpr" | "fdr" | "fdr-by"
    level: float
    threshold: float  # p_combined is flagged up to it; for an FDR 0 where none is
    calibration_id: str
    n_calibration: int  # images that p_combined compares with; its least value is 1 / (n + 1)

    def __len__(self) -> int:
        return len(self.flagged)

    @property
    def n_flagged(self) -> int:
        return int(self.flagged.sum())

    @property
    def least_p(self) -> float:
        """The smallest p_combined that can be, 1 / (n + 1)."""
        return 1.0 / (self.n_calibration + 1.0)


ATTRIBUTES = ("rule", "level", "threshold", "calibration_id", "n_calibration")


def write_decision(scores: ScoreFile, decision: Decision | None) -> None:
    """Put a decision into the file of these scores, or with None take away the one that is there.

    Raises StoreError where the file holds another run than was read: its rows would not fit.
    """
    path = scores.path
    with locked(path), replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            here = (scores.manifest_sha256, scores.header.created, len(scores))
            there = (
                *(_text(file.attrs.get(key)) for key in ("manifest_sha256", "created")),
                len(file["/images/status"]),
            )
            if here != there:
                raise StoreError(
                    f"{path} was scored anew since it was read; the decision is not of its images",
                    "open it again, then decide",
                )
            if GROUP in file:
                del file[GROUP]
            if decision is not None:
                write_group(file, decision)


def write_group(file: h5py.File, decision: Decision) -> None:
    """A decision as datasets and attributes of an open file."""
    group = file.create_group(GROUP)
    for key in ATTRIBUTES:
        group.attrs[key] = getattr(decision, key)
    group.attrs["least_p"] = decision.least_p
    for column in columns("decision"):
        write_column(file, column, getattr(decision, column.name))


def read_decision(found: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> Decision:
    """A decision from its columns, by name, and the group's attributes."""
    kinds = {"rule": str, "level": float, "threshold": float, "n_calibration": int}
    facts: dict[str, Any] = {key: kinds.get(key, str)(attributes[key]) for key in ATTRIBUTES}
    return Decision(**found | facts)


def write_column(file: h5py.File, column: Column, values: NDArray[Any]) -> None:
    """One column as a dataset: chunked by row, with a checksum, no plugin needed to read it.

    What has a value for each k or layer is chunked one by one; a hash stays in one piece.
    """
    wide = values.shape[1:] if column.each == "byte" else tuple(1 for _ in values.shape[1:])
    file.create_dataset(
        column.dataset,
        data=values.astype(column.dtype, copy=False),
        chunks=(max(1, min(len(values), CHUNK)), *wide),
        fletcher32=True,
        track_times=False,
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
