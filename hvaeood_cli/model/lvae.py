"""The Ladder VAE: top-down inference (Sønderby et al., 2016; Appendix F.2)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Rung
from hvaeood_cli.model.layers import MergedPosterior, ToGaussian, apply_weight_norm
from hvaeood_cli.model.stages import ConvolutionalLadder


class LVAE(ConvolutionalLadder):
    """q(z_L|h_L) prod_{i<L} q(z_i|h_i, d_i), h_i = up_i(h_{i-1}), h_0 = stem(x).

    The way up is deterministic: x reaches z_i through h_i, z_{>i} through d_i.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size, n_layers = config.feature_size, config.n_layers
        self.posterior = nn.ModuleDict()  # h_i and d_i -> q(z_i); at the top h_L alone
        for i, layer in enumerate(config.layers, start=1):
            head = ToGaussian if i == n_layers else MergedPosterior
            self.posterior[str(i)] = head(layer, layer.channels, size(i))
        if config.weight_norm:
            apply_weight_norm(self)

    def posterior_heads(self, i: int) -> list[ToGaussian]:
        merged = self.posterior[str(i)]
        return [merged.head if isinstance(merged, MergedPosterior) else cast(ToGaussian, merged)]

    def first_rung(self, x: Tensor) -> Rung:
        return Rung(None, (self.up["1"](self.stem(x)),))  # (B, channels, H_1, W_1)

    def next_rung(self, i: int, below: Rung, z: Tensor | None) -> Rung:
        h = self.up[str(i)](below.features[0])  # (B, channels, H_i, W_i)
        top = i == self.n_layers
        return Rung(Gaussian.from_raw(self.posterior[str(i)](h)) if top else None, (h,))

    def posterior_down(self, i: int, rung: Rung, d: Tensor | None) -> Gaussian | None:
        if i == self.n_layers:
            return None
        return Gaussian.from_raw(self.posterior[str(i)](d, rung.features[0]))
