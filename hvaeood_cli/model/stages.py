"""What all kinds of ladder share: the stages up to h_L, and the generative model."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Descent, Ladder, Route, Rung
from hvaeood_cli.model.layers import FromLatent, ToGaussian, conv, stage_down, stage_up
from hvaeood_cli.model.likelihoods import build_likelihood


class ConvolutionalLadder(Ladder):
    """p(x|z_1, d_1) prod p(z_i|z_{i+1}, d_{i+1}) p(z_L), d_{i-1} = down_i(from z_i + d_i).

    A subclass adds its inference model: the rungs, and the part of z_i inferred on the way down.
    """

    def __init__(self, config: ModelConfig) -> None:
        likelihood = build_likelihood(config)
        super().__init__(config, likelihood)
        layers, size = config.layers, config.feature_size
        self.channels = [layers[0].channels, *(layer.channels for layer in layers)]  # h_0 ... h_L
        channels, per_pixel = self.channels, config.stem_stride**2

        self.stem = conv(config.image_channels, channels[0], config.stem_kernel, config.stem_stride)
        # Keys are layer numbers: "2" is the module in front of z_2.
        self.up = nn.ModuleDict()  # h_{i-1} -> h_i
        self.z_down = nn.ModuleDict()  # z_i, added to d_i on the way to d_{i-1}
        self.down = nn.ModuleDict()  # d_i -> d_{i-1}
        self.prior = nn.ModuleDict()  # d_i -> p(z_i | z_{i+1}, d_{i+1})
        for i, layer in enumerate(layers, start=1):
            whole = layer.model_copy(update={"latent": config.latent_shape(i)[0]})
            self.up[str(i)] = stage_up(layer, channels[i - 1])
            self.z_down[str(i)] = FromLatent(whole, channels[i], size(i))
            self.down[str(i)] = stage_down(layer, channels[i - 1])
            if i < config.n_layers:
                self.prior[str(i)] = ToGaussian(whole, channels[i], size(i))
        kernel = config.unstem_kernel or (3 if per_pixel > 1 else config.stem_kernel)
        last = conv(channels[0], likelihood.n_parameters * per_pixel, kernel)
        last.initial_std = likelihood.initial_std  # type: ignore[assignment]
        if not config.weight_norm:  # its own initialisation would undo this one
            likelihood.initialise(last)
        self.unstem = nn.Sequential(last)

    @abstractmethod
    def posterior_heads(self, i: int) -> list[ToGaussian]:
        """The modules whose outputs are q(z_i), one for each part of z_i."""

    def posterior_down(self, i: int, rung: Rung, d: Tensor | None) -> Gaussian | None:
        """q of the part of z_i inferred on the way down; None if no part is.

        d: d_i, (S * B, channels, H_i, W_i); None at the top.
        """
        return None

    def descend(self, rungs: dict[int, Rung], z: dict[int, Tensor], route: Route) -> Descent:
        z = dict(z)
        priors: dict[int, Gaussian] = {}
        posteriors: dict[int, Gaussian] = {}
        d: Tensor | None = None
        for i in range(self.n_layers, 0, -1):
            priors[i] = self._top_prior() if d is None else Gaussian.from_raw(self.prior[str(i)](d))
            if i in rungs:
                z[i], posteriors[i] = self._complete(i, rungs[i], z.get(i), d, route)
            else:
                z[i] = route.draw_prior(i, priors[i])
            features = self.z_down[str(i)](z[i])  # (S * B, channels, H_i, W_i)
            d = self.down[str(i)](features if d is None else features + d)
        assert d is not None  # L >= 2
        return Descent(z, priors, posteriors, self.unstem(F.relu(d)))

    def _complete(
        self, i: int, rung: Rung, z_up: Tensor | None, d: Tensor | None, route: Route
    ) -> tuple[Tensor, Gaussian]:
        """z_i and its posterior: the part drawn on the way up, then the part drawn here."""
        down = self.posterior_down(i, rung, d)
        if down is None:
            assert z_up is not None and rung.posterior is not None
            return z_up, rung.posterior
        down = route.inferred(i, down, up=False)
        z_down = route.draw_down(i, down)
        if rung.posterior is None:
            return z_down, down
        assert z_up is not None
        return torch.cat((z_up, z_down), dim=1), rung.posterior.beside(down)

    def _top_prior(self) -> Gaussian:
        """p(z_L) = N(0, I), one row that every image shares."""
        zeros = self.stem.weight.new_zeros(1, *self.latent_shape(self.n_layers))
        return Gaussian(zeros, zeros + 1.0)
