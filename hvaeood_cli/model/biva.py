"""BIVA: bidirectional inference (Maaløe et al., 2019).

Below the top, z_i is two variables that are independent given z_{>i}: z_i^BU is inferred on the
way up, z_i^TD on the way down.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Rung
from hvaeood_cli.model.layers import (
    FromLatent,
    MergedPosterior,
    ToGaussian,
    add_skip,
    apply_weight_norm,
    stage_up,
)
from hvaeood_cli.model.stages import ConvolutionalLadder


class BIVA(ConvolutionalLadder):
    """q(z_L|x, z_{<L}^BU) prod_{i<L} q(z_i^BU|x, z_{<i}^BU) q(z_i^TD|x, z_{<i}^BU, z_{>i}).

    Two paths start from h_0 = g_0 = stem(x) and take in the same z^BU:
    h_i = up_i(from z_{i-1}^BU + h_{i-1}) leads to the z^BU and to z_L,
    g_i = up_td_i(from z_{i-1}^BU + g_{i-1}) is kept until d_i is there: both give q(z_i^TD).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size = config.feature_size
        self.posterior = nn.ModuleDict()  # h_i -> q(z_i^BU), q(z_L)
        self.z_up = nn.ModuleDict()  # z_i^BU, added to h_i and to g_i
        self.up_td = nn.ModuleDict()  # g_{i-1} -> g_i
        self.posterior_td = nn.ModuleDict()  # g_i and d_i -> q(z_i^TD)
        for i, layer in enumerate(config.layers, start=1):
            self.posterior[str(i)] = ToGaussian(layer, layer.channels, size(i))
            if i < config.n_layers:
                self.z_up[str(i)] = FromLatent(layer, layer.channels, size(i))
                self.up_td[str(i)] = stage_up(layer, self.channels[i - 1])
                self.posterior_td[str(i)] = MergedPosterior(layer, layer.channels, size(i))
        if config.weight_norm:
            apply_weight_norm(self)

    def posterior_heads(self, i: int) -> list[ToGaussian]:
        up = cast(ToGaussian, self.posterior[str(i)])
        if i == self.n_layers:
            return [up]
        return [up, cast(MergedPosterior, self.posterior_td[str(i)]).head]

    def first_rung(self, x: Tensor) -> Rung:
        h = self.stem(x)
        return self._rung(1, h, h)

    def next_rung(self, i: int, below: Rung, z: Tensor | None) -> Rung:
        from_z = self.z_up[str(i - 1)](z)  # (S * B, channels, H_{i-1}, W_{i-1})
        h, g = (add_skip(from_z, features) for features in below.features)
        return self._rung(i, h, g)

    def _rung(self, i: int, h: Tensor, g: Tensor) -> Rung:
        """The rung in front of z_i. h, g: the inputs of stage i, (S * B, ...) or (B, ...)."""
        h = self.up[str(i)](h)
        posterior = Gaussian.from_raw(self.posterior[str(i)](h))
        if i == self.n_layers:
            return Rung(posterior, (h,))
        return Rung(posterior, (h, self.up_td[str(i)](g)))

    def posterior_down(self, i: int, rung: Rung, d: Tensor | None) -> Gaussian | None:
        if i == self.n_layers:
            return None
        return Gaussian.from_raw(self.posterior_td[str(i)](d, rung.features[1]))
