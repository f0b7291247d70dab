"""Builds the ladder that a configuration describes."""

from __future__ import annotations

from hvaeood_cli.model.biva import BIVA
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.hvae import HVAE
from hvaeood_cli.model.lvae import LVAE
from hvaeood_cli.model.stages import ConvolutionalLadder


def build_ladder(config: ModelConfig) -> ConvolutionalLadder:
    """An untrained ladder of the kind that `config.kind` names."""
    kinds: dict[str, type[ConvolutionalLadder]] = {"hvae": HVAE, "biva": BIVA, "lvae": LVAE}
    return kinds[config.kind](config)
