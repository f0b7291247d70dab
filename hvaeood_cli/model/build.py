"""Builds the ladder that a configuration describes."""

from __future__ import annotations

import torch

from hvaeood_cli.model.biva import BIVA
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.hvae import HVAE
from hvaeood_cli.model.lvae import LVAE
from hvaeood_cli.model.stages import ConvolutionalLadder


def build_ladder(config: ModelConfig) -> ConvolutionalLadder:
    """An untrained ladder of the kind that `config.kind` names."""
    kinds: dict[str, type[ConvolutionalLadder]] = {"hvae": HVAE, "biva": BIVA, "lvae": LVAE}
    return kinds[config.kind](config)


def tensors_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a ladder's weights by name, found without making any of them.

    Raises ValueError for a ladder that no memory can hold.
    """
    try:
        with torch.device("meta"):
            ladder = build_ladder(config)
    except RuntimeError as error:
        raise ValueError(f"no memory holds such a model: {error}") from None
    return {name: tuple(tensor.shape) for name, tensor in ladder.state_dict().items()}
