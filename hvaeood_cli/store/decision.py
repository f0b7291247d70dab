"""A decision: what is flagged, by which rule and p-values. `/decision/*` of a score file."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hvaeood_cli.errors import CalibrationError
from hvaeood_cli.store.header import Word

GROUP = "decision"
CALIBRATION = f"/{GROUP}/calibration"
MAX_CALIBRATION = 1 << 26  # bytes of a calibration that a score file may hold
KINDS = ("fpr", "fdr", "fdr-by")


@dataclass(frozen=True)
class Rule:
    """Says which images are flagged, by their p-values.

    fpr: every image with p <= level, so that each in-distribution image is flagged with at most
    this probability. fdr: Benjamini-Hochberg over the batch, so that on average at most this
    fraction of what is flagged is in-distribution (Bates et al., 2023: conformal p-values that
    share their calibration depend on one another in a way that it allows). fdr-by: the same
    promise under any dependence, by Benjamini-Yekutieli.
    """

    kind: str = "fpr"
    level: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CalibrationError(f"no rule is called {self.kind!r}", f"rules: {', '.join(KINDS)}")
        if not 0.0 < self.level < 1.0:
            raise CalibrationError(f"a level of {self.level:g} is not between 0 and 1", "try 0.01")

    def __str__(self) -> str:
        by = " (Benjamini-Yekutieli)" if self.kind == "fdr-by" else ""
        return f"{self.kind[:3].upper()} {100 * self.level:.4g} %{by}"


class DecisionFacts(BaseModel):
    """The attributes of a decision's group in a file."""

    model_config = ConfigDict(frozen=True, strict=True)

    rule: Literal["fpr", "fdr", "fdr-by"]
    level: Annotated[float, Field(gt=0.0, lt=1.0)]
    threshold: Annotated[float, Field(ge=0.0, le=1.0)]
    calibration_id: Word
    n_calibration: Annotated[int, Field(ge=1, lt=2**53)]
    least_p: Annotated[float, Field(gt=0.0, lt=1.0)]  # 1 / (n_calibration + 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not math.isclose(self.least_p * (self.n_calibration + 1), 1.0):
            raise ValueError(f"least_p {self.least_p:g} does not follow from n_calibration")
        return self


@dataclass(frozen=True, eq=False)
class Decision:
    """What a rule decides of N rows. A row without scores has p NaN and k 0, and is not flagged."""

    combined: NDArray[np.float64]  # (N,) the combined score, nats; higher is odder
    k: NDArray[np.int8]  # (N,) whose LLR^{>k} differs most from the calibration's
    p_value: NDArray[np.float64]  # (N, L - 1), conformal, of LLR^{>k} for each k
    p_combined: NDArray[np.float64]  # (N,), conformal, of the combined score: the one to act on
    flagged: NDArray[np.bool_]  # (N,)
    rule: str  # "fpr" | "fdr" | "fdr-by"
    level: float
    threshold: float  # the largest p_combined that is flagged; 0 where an FDR flags none
    calibration_id: str
    n_calibration: int  # images that p_combined compares with; its least value is 1 / (n + 1)
    calibration: bytes = b""  # the calibration's file, to decide anew where it is not at hand

    def __len__(self) -> int:
        return len(self.flagged)

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes of its group in a file."""
        return {name: getattr(self, name) for name in DecisionFacts.model_fields}

    def of_rows(self, rows: NDArray[np.bool_]) -> Decision:
        """The decision of some rows alone. rows: which, (N,)."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _BLANK})

    def among(self, rows: NDArray[np.bool_]) -> Decision:
        """The decision of M rows, of which its N are some; of the others nothing is decided.

        rows: which are its own, (M,).
        """
        wider: dict[str, Any] = {}
        for name, blank in _BLANK.items():
            own = getattr(self, name)
            wider[name] = np.full((len(rows), *own.shape[1:]), blank, own.dtype)
            wider[name][rows] = own
        return replace(self, **wider)

    @property
    def by(self) -> Rule:
        """The rule that made it. Raises CalibrationError for one that is none."""
        return Rule(self.rule, self.level)

    @property
    def n_flagged(self) -> int:
        return int(self.flagged.sum())

    @property
    def least_p(self) -> float:
        """The smallest p_combined that can be, 1 / (n + 1)."""
        return 1.0 / (self.n_calibration + 1.0)


_BLANK = {"combined": np.nan, "k": 0, "p_value": np.nan, "p_combined": np.nan, "flagged": False}
