"""The paper's hierarchical VAE: bottom-up inference, deterministic skips up and down (Figure 4)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Rung
from hvaeood_cli.model.layers import FromLatent, ToGaussian, add_skip, apply_weight_norm
from hvaeood_cli.model.stages import ConvolutionalLadder


class HVAE(ConvolutionalLadder):
    """q(z_1|x) prod q(z_i|z_{i-1}, h_{i-1}), h_i = up_i(from z_{i-1} + h_{i-1}), h_0 = stem(x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size = config.feature_size
        self.posterior = nn.ModuleDict()  # h_i -> q(z_i)
        self.z_up = nn.ModuleDict()  # z_i, added to h_i on the way to h_{i+1}
        for i, layer in enumerate(config.layers, start=1):
            self.posterior[str(i)] = ToGaussian(layer, layer.channels, size(i))
            if i < config.n_layers:
                self.z_up[str(i)] = FromLatent(layer, layer.channels, size(i))
        if config.weight_norm:
            apply_weight_norm(self)

    def posterior_heads(self, i: int) -> list[ToGaussian]:
        return [cast(ToGaussian, self.posterior[str(i)])]

    def first_rung(self, x: Tensor) -> Rung:
        h = self.up["1"](self.stem(x))  # (B, channels, H_1, W_1)
        return Rung(Gaussian.from_raw(self.posterior["1"](h)), (h,))

    def next_rung(self, i: int, below: Rung, z: Tensor | None) -> Rung:
        merged = add_skip(self.z_up[str(i - 1)](z), below.features[0])  # (S * B, ...)
        h = self.up[str(i)](merged)
        return Rung(Gaussian.from_raw(self.posterior[str(i)](h)), (h,))
