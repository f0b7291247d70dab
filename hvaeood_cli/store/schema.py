"""What a score file holds, said once: `reader.py` lets in nothing else; tests/hostile breaks it.

A column of rows is an entry in `store/columns.py`; any other dataset is one here. An attribute is a
field of `RunHeader`, of `FileFacts` or of `DecisionFacts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from hvaeood_cli.store.columns import PERTURBATIONS, RESIDUALS, Column, columns, tile_columns
from hvaeood_cli.store.decision import CALIBRATION
from hvaeood_cli.store.header import Sha256
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.tiles import FIRST, PLACE
from hvaeood_cli.store.tiles import GROUP as TILES

STRING = "string"  # the type of a dataset of strings, of fixed or of variable length

_SHAPES: dict[str, tuple[str, ...]] = {
    "image": ("N",),
    "k": ("N", "L"),
    "k > 0": ("N", "L - 1"),
    "layer": ("N", "L"),
    "channel": ("N", "channels"),
    "residual": ("N", str(len(RESIDUALS))),
    "perturbation": ("N", str(len(PERTURBATIONS))),
    "byte": ("N", "32"),
}


@dataclass(frozen=True)
class Dataset:
    """One dataset of the file. What is not optional is in every file that has its group.

    shape: by sizes. N is the number of rows, L of layers, tiles that of all tiles. Datasets that
    name another size agree on it among themselves.
    """

    path: str
    dtype: str  # NumPy's name, or STRING
    shape: tuple[str, ...]
    optional: bool = False
    least: float | None = None  # no value is less; NaN, where there is none, is always allowed
    most: float | None = None  # ... nor more
    has_codes: bool = False  # whether its attribute `codes` names its values, or its bits
    stays: bool = False  # whether it stays on the disk: its values are read when they are asked for

    @classmethod
    def of(cls, column: Column) -> Dataset:
        """The dataset of a column."""
        return cls(
            column.dataset,
            column.dtype,
            _SHAPES[column.each],
            column.optional,
            column.least,
            column.most,
            has_codes=column.name in ("status", "conversions"),
        )

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def group_is_optional(self) -> bool:
        return self.group in _OPTIONAL_GROUPS


_OPTIONAL_GROUPS = ("/decision", f"/{TILES}")


def datasets() -> list[Dataset]:
    """All datasets that a file may have."""
    return [
        *map(Dataset.of, columns("images", "scores", "decision")),
        Dataset("/images/path", STRING, ("N",)),
        Dataset("/images/error", STRING, ("N",)),
        Dataset("/images/label", "int8", ("N",), optional=True, least=-1, most=1),
        Dataset(CALIBRATION, "uint8", ("bytes",), optional=True),
        Dataset(FIRST, "int64", ("N + 1",), least=0),
        Dataset(PLACE, "int32", ("tiles", "2"), stays=True),
        *map(_of_tiles, tile_columns()),
    ]


def _of_tiles(column: Column) -> Dataset:
    """The dataset of a column that is kept of each tile."""
    shape = ("tiles", *_SHAPES[column.each][1:])
    return Dataset(f"/{TILES}/{column.name}", column.dtype, shape, stays=True)


FROM_ROWS = ("n_images", "label")  # fields of the header that are no attributes


class FileFacts(BaseModel):
    """The root attributes that say nothing of the run."""

    model_config = ConfigDict(frozen=True, strict=True)

    manifest_sha256: Sha256  # of every row's path and the hash of its content


_CODES = TypeAdapter(
    dict[
        Annotated[str, Field(max_length=200)],
        Annotated[int, Field(ge=0, lt=1 << 16, strict=True)],
    ]
)


def read_codes(text: Any) -> dict[str, int]:
    """Names with their numbers, from the attribute `codes`. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("they are not a text")
    codes = _CODES.validate_json(text)
    if len(set(codes.values())) < len(codes):
        raise ValueError("two names have one number")
    return codes


def disagreement(scores: ScoreFile) -> str:
    """What columns say of one another that cannot be; empty if nothing is wrong."""
    named = np.bitwise_or.reduce(
        np.array(list(scores.conversion_codes.values()), np.int64), initial=0
    )
    channels = scores.columns.get("kl_channel")
    asked = {column.name for column in columns("scores") if column.asked in scores.sizes.asked}
    asked_there = {column.name for column in scores.scores if column.asked}
    cannot_be = {
        "/scores holds other statistics than were asked for": np.array(asked != asked_there),
        "/scores/kl_channel is of no channel": np.array(channels is not None and not channels.size),
        "/images/status holds a code that has no name": ~np.isin(
            scores.status, list(scores.status_codes.values())
        ),
        "/images/conversions holds a bit that has no name": scores.conversions & ~np.uint16(named),
    }
    if decision := scores.decision:
        for name in ("combined", "p_combined"):
            without = np.isnan(getattr(decision, name))
            cannot_be[f"/decision/{name} is not of the images with scores"] = (
                without == scores.scored
            )
        follows = decision.p_combined <= decision.threshold
        cannot_be |= {
            "/decision/k holds one that the model does not have": decision.k >= scores.n_layers,
            "/decision/flagged does not follow from p_combined": decision.flagged != follows,
        }
    return next((what for what, rows in cannot_be.items() if rows.any()), "")
