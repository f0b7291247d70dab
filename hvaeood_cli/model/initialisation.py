"""Initial weights: data-dependent weight normalisation, and posteriors narrower than the prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.layers import WEIGHTED
from hvaeood_cli.model.stages import ConvolutionalLadder

_MIN_STD = 1e-3  # a channel that is constant over the batch keeps its scale


@torch.no_grad()
def initialise_from_data(module: nn.Module, forward: Callable[[], Any]) -> None:
    """Scale and shift each weight-normalised layer by its outputs (Salimans & Kingma, 2016).

    They start with mean 0 and standard deviation 1, or `initial_std` where the layer has one.
    forward: runs the module once on a batch. A hook rescales each layer when it is called, so
    deeper layers already see the normalised outputs of those before them. A layer that is called
    more than once (from several passes) keeps the scale of its first call.
    """
    done: set[nn.Module] = set()

    def rescale(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if layer in done:
            return output
        done.add(layer)
        channels = output.transpose(0, 1).flatten(1)  # (C, everything else)
        target = getattr(layer, "initial_std", 1.0)
        std = channels.std(dim=1)  # (C,)
        std = torch.where(std < _MIN_STD, 1.0, std / target)
        mean = channels.mean(dim=1)
        gain = layer.parametrizations.weight.original0  # type: ignore[union-attr]
        gain /= std.view_as(gain)  # type: ignore[arg-type, operator]
        assert isinstance(layer.bias, Tensor)
        layer.bias.copy_((layer.bias - mean) / std)
        shape = [1, -1] + [1] * (output.dim() - 2)
        return (output - mean.view(shape)) / std.view(shape)

    hooks = [
        layer.register_forward_hook(rescale)
        for layer in module.modules()
        if isinstance(layer, WEIGHTED) and nn.utils.parametrize.is_parametrized(layer)
    ]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def narrow_posteriors(ladder: ConvolutionalLadder, scales: Sequence[float]) -> None:
    """Let the scale of q(z_i) start at scales[i - 1] rather than at the prior's 1.

    To the layers that take it, a sample of a wide posterior is noise: they learn to ignore z_i
    before q(z_i) has learned anything.
    """
    for i, scale in enumerate(scales, start=1):
        for head in ladder.posterior_heads(i):
            bias = head.project.bias
            assert isinstance(bias, torch.Tensor)
            bias.chunk(2)[1].fill_(Gaussian.raw_scale(scale))
