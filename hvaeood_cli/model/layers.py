"""The deterministic parts of a model: convolutions, residual blocks, and maps to and from z."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from hvaeood_cli.model.config import LayerConfig


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A same-padded convolution; with a stride, H and W are divided by it."""
    return nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2)


def transposed_conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Module:
    """The mirror of `conv`: H and W are multiplied by the stride."""
    if stride == 1:
        return conv(c_in, c_out, kernel)
    padding = kernel // 2
    return nn.ConvTranspose2d(
        c_in,
        c_out,
        kernel,
        stride=stride,
        padding=padding,
        output_padding=stride - kernel + 2 * padding,
    )


class ResidualBlock(nn.Module):
    """y = Conv_s(Act(Conv(Act(x)))) + x, the stride in the second convolution (Appendix B.1).

    Where stride or channels change, x passes a 1x1 convolution on the way to the sum.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, up: bool = False
    ) -> None:
        super().__init__()
        self.stride, self.up = stride, up
        self.first = conv(c_in, c_in, kernel)
        self.second = (transposed_conv if up else conv)(c_in, c_out, kernel, stride)
        same = stride == 1 and c_in == c_out
        self.shortcut = None if same else conv(c_in, c_out, 1, 1 if up else stride)

    def forward(self, x: Tensor) -> Tensor:
        # In place where nothing else holds the tensor: it saves a tenth of the time on a CPU.
        y: Tensor = self.second(F.relu(self.first(F.relu(x)), inplace=True))
        if self.shortcut is None:
            return y.add_(x)
        x = self.shortcut(x)
        if self.up and self.stride > 1:
            x = F.interpolate(x, scale_factor=self.stride, mode="nearest")
        return y.add_(x)


def stage_up(layer: LayerConfig, c_in: int) -> nn.Sequential:
    """The deterministic stage from h_{i-1} to h_i: its last block takes the stride."""
    blocks = [ResidualBlock(c_in, c_in, layer.kernel) for _ in range(layer.n_blocks - 1)]
    blocks.append(ResidualBlock(c_in, layer.channels, layer.kernel, layer.stride))
    return nn.Sequential(*blocks)


def stage_down(layer: LayerConfig, c_out: int) -> nn.Sequential:
    """The mirror of `stage_up`, from d_i to d_{i-1}: its first block takes the stride."""
    blocks = [ResidualBlock(layer.channels, c_out, layer.kernel, layer.stride, up=True)]
    blocks += [ResidualBlock(c_out, c_out, layer.kernel) for _ in range(layer.n_blocks - 1)]
    return nn.Sequential(*blocks)


class ToGaussian(nn.Module):
    """Features (N, channels, H, W) -> the raw parameters (N, 2 * latent, ...) of a z."""

    def __init__(self, layer: LayerConfig, channels: int, size: int) -> None:
        super().__init__()
        self.spatial = layer.spatial
        self.project: nn.Module
        if layer.spatial:
            self.project = conv(channels, 2 * layer.latent, layer.head_kernel)
        else:
            self.project = nn.Linear(channels * size * size, 2 * layer.latent)

    def forward(self, features: Tensor) -> Tensor:
        features = F.relu(features)
        out: Tensor = self.project(features if self.spatial else features.flatten(1))
        return out


class MergedPosterior(nn.Module):
    """d_i from above and features from below, merged by a residual block -> raw q(z_i)."""

    def __init__(self, layer: LayerConfig, channels: int, size: int) -> None:
        super().__init__()
        self.merge = ResidualBlock(channels, channels, layer.kernel)
        self.head = ToGaussian(layer, channels, size)

    def forward(self, d: Tensor, features: Tensor) -> Tensor:
        """d: (S * B, ...); features: (S * B, ...) or (B, ...). Returns (S * B, 2 * latent, ...)."""
        out: Tensor = self.head(self.merge(add_skip(d, features)))
        return out


class FromLatent(nn.Module):
    """z -> features (N, channels, H, W), which can be added to a skip connection's."""

    def __init__(self, layer: LayerConfig, channels: int, size: int) -> None:
        super().__init__()
        self.spatial = layer.spatial
        self.shape = (channels, size, size)
        self.project: nn.Module
        if layer.spatial:
            self.project = conv(layer.latent, channels, layer.head_kernel)
        else:
            self.project = nn.Linear(layer.latent, channels * size * size)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.project(z)
        return out if self.spatial else out.unflatten(1, self.shape)


def add_skip(features: Tensor, skip: Tensor) -> Tensor:
    """features + skip, (S * B, ...). A skip of B rows is shared by the S samples of its image."""
    merged: Tensor = features.unflatten(0, (-1, skip.shape[0])) + skip
    return merged.flatten(0, 1)


WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def apply_weight_norm(module: nn.Module) -> None:
    """Reparameterise every weight as g * v / ||v|| (Salimans & Kingma, 2016)."""
    for layer in module.modules():
        if isinstance(layer, WEIGHTED):
            # the output dimension: 1 for a transposed convolution's (in, out, k, k) weight
            dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
            parametrizations.weight_norm(layer, dim=dim)


def fold_weight_norm(module: nn.Module) -> None:
    """Replace g * v / ||v|| by its value: the same function, without its cost at every call."""
    for layer in module.modules():
        if isinstance(layer, WEIGHTED) and nn.utils.parametrize.is_parametrized(layer):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")
