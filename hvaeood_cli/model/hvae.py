"""The paper's hierarchical VAE: bottom-up inference, deterministic skips up and down (Figure 4)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Descent, Ladder, Route, Rung
from hvaeood_cli.model.layers import (
    FromLatent,
    ToGaussian,
    add_skip,
    apply_weight_norm,
    conv,
    stage_down,
    stage_up,
)
from hvaeood_cli.model.likelihoods import build_likelihood


class HVAE(Ladder):
    """q(z_1|x) prod q(z_i|z_{i-1}, h_{i-1}) and p(x|z_1, d_1) prod p(z_i|z_{i+1}, d_{i+1}) p(z_L).

    h_i = up_i(from z_{i-1} + h_{i-1}) and d_{i-1} = down_i(from z_i + d_i) are deterministic.
    """

    def __init__(self, config: ModelConfig) -> None:
        likelihood = build_likelihood(config)
        super().__init__(config, likelihood)
        layers = config.layers
        n_layers, size = config.n_layers, config.feature_size
        channels = [layers[0].channels, *(layer.channels for layer in layers)]  # of h_0 ... h_L
        per_pixel = config.stem_stride**2

        self.stem = conv(config.image_channels, channels[0], config.stem_kernel, config.stem_stride)
        # Keys are layer numbers: "2" is the module in front of z_2.
        self.up = nn.ModuleDict()  # h_{i-1} -> h_i
        self.posterior = nn.ModuleDict()  # h_i -> q(z_i)
        self.z_up = nn.ModuleDict()  # z_i, added to h_i on the way to h_{i+1}
        self.z_down = nn.ModuleDict()  # z_i, added to d_i on the way to d_{i-1}
        self.down = nn.ModuleDict()  # d_i -> d_{i-1}
        self.prior = nn.ModuleDict()  # d_i -> p(z_i | z_{i+1}, d_{i+1})
        for i, layer in enumerate(layers, start=1):
            self.up[str(i)] = stage_up(layer, channels[i - 1])
            self.posterior[str(i)] = ToGaussian(layer, channels[i], size(i))
            self.z_down[str(i)] = FromLatent(layer, channels[i], size(i))
            self.down[str(i)] = stage_down(layer, channels[i - 1])
            if i < n_layers:
                self.z_up[str(i)] = FromLatent(layer, channels[i], size(i))
                self.prior[str(i)] = ToGaussian(layer, channels[i], size(i))
        n_out = config.image_channels * likelihood.n_parameters
        self.unstem = nn.Sequential(
            conv(channels[0], n_out * per_pixel, 3 if per_pixel > 1 else config.stem_kernel),
            nn.PixelShuffle(config.stem_stride),
        )
        if config.weight_norm:
            apply_weight_norm(self)

    def first_rung(self, x: Tensor) -> Rung:
        h = self.up["1"](self.stem(x))  # (B, channels, H_1, W_1)
        return Rung(Gaussian.from_raw(self.posterior["1"](h)), h)

    def next_rung(self, i: int, below: Rung, z: Tensor) -> Rung:
        merged = add_skip(self.z_up[str(i - 1)](z), below.features)  # (S * B, ...)
        h = self.up[str(i)](merged)
        return Rung(Gaussian.from_raw(self.posterior[str(i)](h)), h)

    def descend(self, rungs: dict[int, Rung], z: dict[int, Tensor], route: Route) -> Descent:
        z, priors = dict(z), dict[int, Gaussian]()
        d: Tensor | None = None
        for i in range(self.n_layers, 0, -1):
            priors[i] = self._top_prior() if d is None else Gaussian.from_raw(self.prior[str(i)](d))
            if i not in z:
                z[i] = route.draw_prior(i, priors[i])
            features = self.z_down[str(i)](z[i])  # (S * B, channels, H_i, W_i)
            d = self.down[str(i)](features if d is None else features + d)
        posteriors = {i: rung.posterior for i, rung in rungs.items()}
        assert d is not None  # L >= 2
        return Descent(z, priors, posteriors, self.unstem(F.relu(d)))

    def _top_prior(self) -> Gaussian:
        """p(z_L) = N(0, I), one row that every image shares."""
        zeros = self.stem.weight.new_zeros(1, *self.latent_shape(self.n_layers))
        return Gaussian(zeros, zeros + 1.0)
