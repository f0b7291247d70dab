"""p(x | z): what the last features of the generative model say about pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from hvaeood_cli.model import logistics
from hvaeood_cli.model.config import ModelConfig


class Likelihood(ABC):
    """The observation model. Knows how many numbers a pixel needs and what they mean."""

    n_parameters: int  # of one pixel, all its channels: the decoder's output channels
    initial_std: float = 1.0  # of each parameter at data-dependent initialisation

    @abstractmethod
    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """The x that is scored, from 8-bit pixels.

        pixels: (B, C, H, W) uint8. uniform: the same shape in [0, 1), the noise that a
        likelihood may need (binarisation, dequantisation). Returns float32 (B, C, H, W).
        """

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x | z) in nats, summed over pixels.

        parameters: (S * B, n_parameters, H, W); x: (B, C, H, W). Returns (S * B,).
        """

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z] on the scale 0 (black) to 1 (white): (N, C, H, W), for showing."""


class Bernoulli(Likelihood):
    """Binarised grey images: x ~ Bernoulli(pixel / 255), p(x|z) = Bernoulli(sigmoid(logits))."""

    n_parameters = 1

    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        return (uniform * 255.0 < pixels).to(torch.float32)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits = parameters.float().unflatten(0, (-1, x.shape[0]))  # (S, B, C, H, W)
        # log p = x * logit - log(1 + e^logit), stable at both ends
        log_p: Tensor = x * logits - F.softplus(logits)
        return log_p.flatten(2).sum(2).flatten(0, 1)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.float().sigmoid()


class DiscretizedLogistics(Likelihood):
    """8-bit grey or RGB pixels: a mixture of discretised logistics (see `logistics`).

    dequantize: add uniform noise to the 8-bit value first, as the reference code does. The
    likelihood is then neither exactly discrete nor continuous: for comparison with it only.
    """

    initial_std = 0.2  # a mixture's sensible start would drown in deviations of 1

    def __init__(self, channels: int, dequantize: bool = False) -> None:
        self.channels = channels
        self.dequantize = dequantize
        self.n_parameters = logistics.n_parameters(channels)

    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        if self.dequantize:
            return (pixels + uniform) / 128.0 - 1.0
        return pixels / 127.5 - 1.0

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        copies = x.repeat(parameters.shape[0] // x.shape[0], 1, 1, 1)  # (S * B, C, H, W)
        return logistics.log_prob(logistics.mixture(parameters, self.channels), copies)

    def mean(self, parameters: Tensor) -> Tensor:
        mean = logistics.mean(logistics.mixture(parameters, self.channels))
        return (0.5 + 0.5 * mean).clamp(0.0, 1.0)  # the weights sum to 1 but for rounding


def build_likelihood(config: ModelConfig) -> Likelihood:
    """The likelihood that a configuration names."""
    if config.likelihood == "bernoulli":
        return Bernoulli()
    return DiscretizedLogistics(config.image_channels, config.dequantize == "uniform")
