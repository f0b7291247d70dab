"""p(x | z): the distribution of the pixels that a decoder's output stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvaeood_cli.model import logistics
from hvaeood_cli.model.config import ModelConfig


class Likelihood(ABC):
    """The observation model: how many numbers a decoder gives for a pixel, and what they mean.

    stride: r, the stem's. A decoder works at 1/r of the image's height and width, and its output
    holds the numbers of r x r neighbouring pixels side by side, as `nn.PixelUnshuffle` arranges
    them. `log_prob_of_pixels` may rearrange x to match instead, since x has fewer channels.
    """

    n_parameters: int  # of one pixel, all its channels
    initial_std: float = 1.0  # of each parameter at data-dependent initialisation

    def __init__(self, stride: int = 1) -> None:
        self.stride = stride

    def initialise(self, last: nn.Conv2d) -> None:  # noqa: B027  there is a default: nothing
        """Set the decoder's last layer before training; by default it is left as it is."""

    @abstractmethod
    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """The x that is scored, observed from 8-bit pixels.

        pixels: (B, C, H, W) uint8. uniform: the same shape in [0, 1), the noise that a
        likelihood may need (binarisation, dequantisation). Returns float32 (B, C, H, W).
        """

    def remainder(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """What is left of the noise that `observe` used: uniform in [0, 1), independent of x.

        pixels, uniform: as in `observe`; returns the same shape.
        """
        return uniform

    @abstractmethod
    def pit(self, parameters: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
        """Where each number of x lies in its distribution: the probability integral transform.

        P(below x | z) + uniform * P(x | z), of a colour given the pixel's earlier ones. If the
        model is right these are uniform between 0 and 1, and independent. x and uniform:
        (B, C, H, W); parameters of B rows. Returns (B, C, H, W).
        """

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x | z) in nats, summed over pixels: (S * B,). Shapes as in `log_prob_of_pixels`."""
        return self.log_prob_of_pixels(parameters, x).flatten(1).sum(1)

    @abstractmethod
    def log_prob_of_pixels(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x_i | z) in nats of each pixel, all its channels together.

        parameters: (S * B, n_parameters * r^2, H / r, W / r); x: (B, C, H, W). Returns
        (S * B, H, W).
        """

    def shown(self, x: Tensor) -> Tensor:
        """x, (N, C, H, W), on the scale 0 (black) to 1 (white), to be shown beside `mean`."""
        return x

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z], (N, C, H, W), on the scale 0 (black) to 1 (white), to be shown."""


class Bernoulli(Likelihood):
    """Binarised grey images: x ~ Bernoulli(pixel / 255), p(x|z) = Bernoulli(sigmoid(logits))."""

    n_parameters = 1

    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        return (uniform * 255.0 < pixels).to(torch.float32)

    def log_prob_of_pixels(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits = F.pixel_shuffle(parameters.float(), self.stride)  # (S * B, 1, H, W)
        logits = logits.unflatten(0, (-1, x.shape[0]))  # (S, B, 1, H, W)
        # log p = x * logit - log(1 + e^logit), stable at both ends
        log_p: Tensor = x * logits - F.softplus(logits)
        return log_p.flatten(0, 1).squeeze(1)

    def remainder(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        level, shade = uniform * 255.0, pixels.to(torch.float32)
        dark = (level - shade) / (255.0 - shade).clamp(min=1.0)
        return torch.where(level < shade, level / shade.clamp(min=1.0), dark)

    def pit(self, parameters: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
        p = F.pixel_shuffle(parameters.float().sigmoid(), self.stride)  # (B, 1, H, W): of a 1
        return torch.where(x > 0.5, 1.0 - p + uniform * p, uniform * (1.0 - p))

    def mean(self, parameters: Tensor) -> Tensor:
        return F.pixel_shuffle(parameters.float().sigmoid(), self.stride)


class DiscretizedLogistics(Likelihood):
    """8-bit grey or RGB pixels: a mixture of discretised logistics (see `logistics`).

    dequantize: add uniform noise to the 8-bit value first, as the reference code does. The
    likelihood is then neither exactly discrete nor continuous: for comparison with it only.
    """

    initial_std = 0.2  # deviations of 1 would drown the sensible mixture that a raw 0 is

    def __init__(self, channels: int, stride: int = 1, dequantize: bool = False) -> None:
        super().__init__(stride)
        self.channels = channels
        self.dequantize = dequantize
        self.n_parameters = logistics.n_parameters(channels)

    def initialise(self, last: nn.Conv2d) -> None:
        assert last.bias is not None
        weight, bias = (p.unflatten(0, (self.n_parameters, -1)) for p in (last.weight, last.bias))
        logistics.start_as_one(weight, bias, self.channels)

    def observe(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        if self.dequantize:
            return (pixels + uniform) / 128.0 - 1.0
        return pixels / 127.5 - 1.0

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._log_prob(parameters, x).flatten(1).sum(1)  # in any order: no shuffling

    def log_prob_of_pixels(self, parameters: Tensor, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self._log_prob(parameters, x), self.stride).squeeze(1)

    def _log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x_i | z) of r x r neighbouring pixels side by side: (S * B, r^2, H / r, W / r)."""
        x = F.pixel_unshuffle(x, self.stride).unflatten(1, (self.channels, -1))
        copies = x.repeat(parameters.shape[0] // x.shape[0], 1, 1, 1, 1)  # (S * B, C, r^2, ...)
        return logistics.log_prob(self._by_pixel(parameters), copies)

    def pit(self, parameters: Tensor, x: Tensor, uniform: Tensor) -> Tensor:
        x, uniform = (
            F.pixel_unshuffle(t, self.stride).unflatten(1, (self.channels, -1))
            for t in (x, uniform)
        )  # (B, C, r^2, H / r, W / r)
        levels = logistics.pit(self._by_pixel(parameters), x, uniform)
        return F.pixel_shuffle(levels.flatten(1, 2), self.stride)

    def shown(self, x: Tensor) -> Tensor:
        return (0.5 + 0.5 * x).clamp(0.0, 1.0)  # noise may have moved it beyond an end

    def mean(self, parameters: Tensor) -> Tensor:
        mixture = logistics.mixture(self._by_pixel(parameters.float()), self.channels)
        mean = logistics.mean(mixture).flatten(1, 2)  # (N, C r^2, H / r, W / r)
        mean = F.pixel_shuffle(mean, self.stride)
        return (0.5 + 0.5 * mean).clamp(0.0, 1.0)  # the weights sum to 1 but for rounding

    def _by_pixel(self, parameters: Tensor) -> Tensor:
        """By pixel: (N, n_parameters, r^2, H / r, W / r)."""
        by_pixel: Tensor = parameters.unflatten(1, (self.n_parameters, -1))
        return by_pixel


def build_likelihood(config: ModelConfig) -> Likelihood:
    """The likelihood that a configuration names."""
    if config.likelihood == "bernoulli":
        return Bernoulli(config.stem_stride)
    dequantize = config.dequantize == "uniform"
    return DiscretizedLogistics(config.image_channels, config.stem_stride, dequantize)
