"""From a configuration to the ladder of its kind."""

from __future__ import annotations

from hvaeood_cli.model.biva import BIVA
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.hvae import HVAE
from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.model.lvae import LVAE


def build_ladder(config: ModelConfig) -> Ladder:
    """An untrained ladder: `config.kind` says which."""
    kinds: dict[str, type[Ladder]] = {"hvae": HVAE, "biva": BIVA, "lvae": LVAE}
    return kinds[config.kind](config)  # type: ignore[call-arg]
