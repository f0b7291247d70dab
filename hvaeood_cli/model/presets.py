"""Model and training settings by name, each with its source."""

from __future__ import annotations

from typing import NamedTuple

from hvaeood_cli.errors import UsageError
from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.settings import TrainSettings


class Preset(NamedTuple):
    """A model and how it is trained."""

    summary: str
    model: ModelConfig
    train: TrainSettings


PAPER_GRAY = Preset(
    "the paper's HVAE for 28x28 grey images (Table 4, Appendix B): made for GPUs and days",
    ModelConfig(
        stem_kernel=5,
        weight_norm=True,
        layers=(
            LayerConfig(latent=8, spatial=True, channels=64, n_blocks=3, kernel=5, stride=2),
            LayerConfig(latent=16, spatial=False, channels=64, n_blocks=3, kernel=3, stride=2),
            LayerConfig(latent=8, spatial=False, channels=64, n_blocks=3, kernel=3, stride=1),
        ),
    ),
    TrainSettings(
        epochs=2000,
        optimizer="adam",
        learning_rate=3e-4,
        schedule="constant",
        kl_warmup=0.1,
        free_nats=(2.0, 2.0, 2.0),
        free_nats_per="element",
        free_nats_constant=0.1,
        free_nats_anneal=0.1,
    ),
)

COMPACT_GRAY = Preset(
    "a small HVAE for 28x28 grey images that trains on two CPU cores in under an hour",
    ModelConfig(
        stem_kernel=5,
        stem_stride=2,
        layers=(
            LayerConfig(latent=8, spatial=True, channels=16, n_blocks=2, head_kernel=1),
            LayerConfig(latent=8, spatial=False, channels=32, n_blocks=2, stride=2),
            LayerConfig(latent=8, spatial=False, channels=32, n_blocks=1),
        ),
    ),
    TrainSettings(
        epochs=20,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        kl_warmup=0.2,
        free_nats=(20.0, 8.0, 4.0),
        free_nats_per="layer",
        free_nats_constant=1.0,
        semantic_weight=1.0,
    ),
)

PRESETS: dict[str, Preset] = {"compact-gray": COMPACT_GRAY, "paper-gray": PAPER_GRAY}


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises UsageError with the names there are."""
    if name not in PRESETS:
        raise UsageError(f"no preset named {name!r}", "presets: " + ", ".join(PRESETS))
    return PRESETS[name]
