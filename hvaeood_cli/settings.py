"""The settings of training and of scoring, validated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Proposal = Literal["mean", "sample"]
Precision = Literal["32-true", "tf32", "bf16-mixed", "16-mixed"]  # of training


# What can be measured of an image besides what always is: `scoring/asked.py`.
STATISTICS = ("complexity", "gradient", "path", "perturbed", "regret")


def _sorted_names(text: str) -> str:
    """Names of statistics, with commas or spaces between, as settings keep them."""
    names = {*text.replace(",", " ").split()}
    if unknown := sorted(names - {*STATISTICS, "all"}):
        raise ValueError(f"no statistic is called {unknown[0]!r}: {', '.join(STATISTICS)}, all")
    return " ".join(STATISTICS if "all" in names else sorted(names))


class TrainSettings(BaseModel):
    """How a ladder is trained. Schedules are fractions of the whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=1)] = 20
    minutes: Annotated[float, Field(gt=0)] | None = None  # stop then; schedules shrink to fit
    batch_size: Annotated[int, Field(ge=1)] = 128
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    # Images set aside and not trained on; None for a share of them all (`training/run.py`).
    validation: Annotated[int, Field(ge=0)] | None = None  # for the curve
    calibration: Annotated[int, Field(ge=0)] | None = None  # to calibrate the model on

    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    gradient_clip: Annotated[float, Field(gt=0)] = 200.0  # norm above which a step is scaled
    gradient_skip: Annotated[float, Field(gt=0)] | None = None  # ... and above which it is skipped
    accumulate: Annotated[int, Field(ge=1)] = 1  # parts that a batch is split into, to save memory
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = (
        0.0  # decay of the weights' moving average; 0: keep no average
    )

    # scales of q(z_1) ... q(z_L) before the first step; empty: 1, as the prior's
    posterior_scale: tuple[Annotated[float, Field(ge=0.001, le=10)], ...] = ()
    kl_warmup: Fraction = 0.2  # beta rises from 0 to 1 over this fraction
    free_nats: tuple[
        Annotated[float, Field(ge=0, allow_inf_nan=False)], ...
    ] = ()  # lambda of z_1 ... z_L, nats; empty: none
    free_nats_per: Literal["layer", "element"] = "layer"
    free_nats_constant: Fraction = 1.0  # lambda stays for this fraction of the run ...
    free_nats_anneal: Fraction = 0.0  # ... and falls to 0 over this one

    semantic_weight: Annotated[float, Field(ge=0)] = 0.0  # alpha; see training.objective
    semantic_proposal: Proposal = "mean"


class ScoreSettings(BaseModel):
    """Everything that can change a score, besides the model and the image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_importance_samples: Annotated[int, Field(ge=1, le=10_000)] = 16  # S, of the ELBO
    n_importance_samples_k: Annotated[int, Field(ge=1, le=10_000)] = 1  # S', of L^{>k}
    proposal: Proposal = "mean"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"  # of the network alone
    # more statistics that are measured: their names, sorted, with a space between
    statistics: Annotated[str, AfterValidator(_sorted_names)] = ""

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the statistics that are asked for."""
        return tuple(self.statistics.split())


def usual_samples(by_tiles: bool) -> int:
    """S where none is asked for: 16, or 1 of a model that takes images by tiles.

    The combined score of such an image is its peak from the highest k, and L alone has S samples.
    """
    return 1 if by_tiles else ScoreSettings().n_importance_samples


def usual_settings(by_tiles: bool) -> ScoreSettings:
    """The settings where none are asked for, of a model that takes images whole or by tiles."""
    return ScoreSettings(n_importance_samples=usual_samples(by_tiles))
