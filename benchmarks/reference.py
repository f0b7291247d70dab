"""The same trained weights in the paper's reference implementation and in ours: do both agree?

    git clone https://github.com/JakobHavtorn/hvae-oodd
    python -m benchmarks.reference hvae-oodd --model fashionmnist -S 16 \\
        FashionMNIST=t10k-images-idx3-ubyte.gz#0:1000 MNIST=FILE#0:1000

The reference's own code makes the passes up and down, the posteriors, priors and samples, the KL
terms, log p(x|z), and the average over importance samples. It is given our weights: in its Gaussian
and dense layers, in its likelihood, and in its residual blocks wherever a block is the same
function in both. Ours stay where the architectures differ: the stem, the projections to and from a
spatial latent, and the blocks with a stride. Nothing of the reference is kept here.

Two comparisons, image by image. With the same noise in both, all that is left is rounding. With
noise of its own in each, the mean difference has a standard error, and z is their quotient. The
first set is in-distribution, and the others have an AUROC against it.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.arguments import named
from hvaeood_cli.detector import Detector
from hvaeood_cli.model import logistics
from hvaeood_cli.model.hvae import HVAE
from hvaeood_cli.model.layers import ResidualBlock
from hvaeood_cli.report.metrics import compare
from hvaeood_cli.scoring.scorer import Scorer

Float = NDArray[np.float64]

# What the reference imports and a score does not need: its plots, its logs and its data sets.
_UNUSED = [
    "matplotlib",
    "matplotlib.pyplot",
    "seaborn",
    "wandb",
    "tqdm",
    "rich",
    "yaml",
    "oodd.datasets",
]


class Reference(NamedTuple):
    """The parts of the reference implementation that are used."""

    models: Any
    blocks: Any
    losses: Any
    utils: Any

    @classmethod
    def at(cls, checkout: Path) -> Reference:
        parts = "oodd.models.dvae", "oodd.layers.deterministic", "oodd.losses", "oodd.utils"
        with (
            patch.object(sys, "path", [str(checkout), *sys.path]),
            patch.dict(sys.modules, {name: MagicMock() for name in _UNUSED}),
        ):
            return cls(*(importlib.import_module(part) for part in parts))


# -- our weights in the reference ----------------------------------------------------------------


def load(layer: nn.Module, ours: nn.Module) -> None:
    """Copy weight and bias of one layer; a weight-normalised one takes g * v / ||v||."""
    weight, bias = ours.weight.detach(), ours.bias.detach()
    with torch.no_grad():
        if hasattr(layer, "weight_v"):
            layer.weight_v.copy_(weight)
            layer.weight_g.copy_(weight.norm(dim=1, keepdim=True))
        else:
            layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def translated(blocks: nn.Sequential, reference: Reference, size: int) -> nn.Sequential:
    """A stage's blocks, each the reference's own where it is the same function there."""
    return nn.Sequential(*(_block(block, reference, size) for block in blocks))


def _block(block: ResidualBlock, reference: Reference, size: int) -> nn.Module:
    if block.shortcut is not None:  # the reference pools here, or has no connection at all
        return block
    channels, kernel = block.first.in_channels, block.first.kernel_size[0]
    theirs = reference.blocks.ResBlockConv2d(
        (channels, size, size), kernel, channels, weightnorm=False, gated=False
    )
    load(theirs.conv1.conv, block.first)
    load(theirs.conv2.conv, block.second)
    return theirs


class Up(nn.Module):
    """Stage i of the way up, as the reference calls it: from z_{i-1} and h_{i-1} to h_i."""

    def __init__(self, ladder: HVAE, i: int, reference: Reference) -> None:
        super().__init__()
        below = ladder.config.layers[i - 2]
        self.from_unit = ladder.config.likelihood == "logistics"  # its pixels are in [0, 1]
        self.stem = ladder.stem if i == 1 else None
        self.project = ladder.z_up[str(i - 1)] if i > 1 and below.spatial else nn.Identity()
        self.stage = translated(ladder.up[str(i)], reference, ladder.config.feature_size(i))

    def forward(self, z: Tensor, h: Tensor | None) -> Tensor:
        if self.stem is not None:
            return self.stage(self.stem(2.0 * z - 1.0 if self.from_unit else z))  # z_0 is x
        return self.stage(self.project(z) + h)  # (S * B, channels, H_i, W_i)


class Down(nn.Module):
    """Stage i of the way down: from z_i and d_i to d_{i-1}, or to the parameters of p(x|z)."""

    def __init__(self, ladder: HVAE, i: int, reference: Reference) -> None:
        super().__init__()
        spatial = ladder.config.layers[i - 1].spatial
        self.project = ladder.z_down[str(i)] if spatial else nn.Identity()
        self.stage = translated(ladder.down[str(i)], reference, ladder.config.feature_size(i - 1))
        self.unstem = ladder.unstem if i == 1 else None
        self.likelihood = ladder.likelihood

    def forward(self, z: Tensor, d: Tensor | None) -> Tensor:
        features = self.project(z)
        d = self.stage(features if d is None else features + d)
        if self.unstem is None:
            return d
        return F.pixel_shuffle(self.unstem(F.relu(d)), self.likelihood.stride)


def as_reference(ladder: HVAE, reference: Reference) -> nn.Module:
    """The reference's `VAE` with the ladder's weights."""
    ladder, config = copy.deepcopy(ladder).to(memory_format=torch.contiguous_format), ladder.config
    n_parameters = ladder.likelihood.n_parameters
    reference.blocks.Ours = _block_of_ours(reference)
    stages = range(1, config.n_layers + 1)
    sizes = [config.feature_size(i) for i in (0, *stages)]
    shapes = [(n, size, size) for n, size in zip(ladder.channels, sizes, strict=True)]
    shapes[0] = (n_parameters, config.image_size, config.image_size)
    deterministic = [
        [
            {
                "block": "Ours",
                "stages": (Up(ladder, i, reference), Down(ladder, i, reference)),
                "shapes": (above, below),
            }
        ]
        for i, (below, above) in zip(stages, pairwise(shapes), strict=True)
    ]
    stochastic = [
        {"block": "GaussianConv2d", "kernel_size": layer.head_kernel}
        if layer.spatial
        else {"block": "GaussianDense"}
        for layer in config.layers
    ]
    for at, layer in zip(stochastic, config.layers, strict=True):
        at |= {"latent_features": layer.latent, "weightnorm": False}
    bernoulli = config.likelihood == "bernoulli"
    model = reference.models.VAE(
        input_shape=(config.image_channels, config.image_size, config.image_size),
        likelihood_module="BernoulliLikelihoodIdentity"
        if bernoulli
        else "DiscretizedLogisticMixLikelihoodConv2d",
        config_deterministic=deterministic,
        config_stochastic=stochastic,
        activation="ReLU",
    )
    for i, stage in zip(stages, model.stages, strict=True):
        _load_latent(stage, ladder, i)
    if not bernoulli:
        _load_mixture(model.likelihood)
    for module in model.modules():
        if hasattr(module, "initialized"):  # by our weights, and not by the first batch
            module.initialized = torch.tensor(True)
    return model.eval()


def _block_of_ours(reference: Reference) -> type[nn.Module]:
    """Our stages as a block that the reference can build into its own."""

    class Ours(reference.blocks.DeterministicModule):  # type: ignore[misc, name-defined]
        def __init__(
            self,
            in_shape: Any,
            stages: tuple[Up, Down],
            shapes: tuple[Any, Any],
            transposed: bool = False,
            residual: bool = True,
            aux_shape: Any = None,
            **_: Any,
        ) -> None:
            super().__init__(in_shape, transposed, residual, aux_shape)
            self.stage = stages[transposed]
            self._out_shape = shapes[transposed]

        def forward(self, x: Tensor, aux: Tensor | None = None, **_: Any) -> Tensor:
            return self.stage(x, aux)

    return Ours


def _load_latent(stage: Any, ladder: HVAE, i: int) -> None:
    """The weights of q(z_i), p(z_i|z_{>i}), and of a dense z_i's way to and from it."""
    top, dense = i == ladder.n_layers, not ladder.config.layers[i - 1].spatial
    heads = [(stage.stochastic.in_transform_q, ladder.posterior[str(i)])]
    if not top:
        heads.append((stage.stochastic.in_transform_p, ladder.prior[str(i)]))
    for theirs, ours in heads:
        load(theirs.linear if dense else theirs.conv, ours.project)
    if dense:
        load(stage.p_projection.transform.linear, ladder.z_down[str(i)].project)
        if not top:
            load(stage.q_projection.transform.linear, ladder.z_up[str(i)].project)


def _load_mixture(likelihood: Any) -> None:
    """Let the reference's last layer arrange our parameters of a pixel's mixture as it has them.

    Ours: logits, then all means, all log sharpnesses, all coefficients. The reference: logits, then
    means, log scales and coefficients of each channel. Raw zeros stand for other values in ours.
    """
    k, channels = logistics.N_COMPONENTS, 3
    n = logistics.n_parameters(channels)
    at_zero = logistics.mixture(torch.zeros(1, n, 1, 1), channels)
    rows, weight, bias = 0, torch.zeros(n, n), torch.zeros(n)

    def put(source: int, sign: float, offset: Tensor) -> None:
        nonlocal rows
        weight[range(rows, rows + k), range(source, source + k)] = sign
        bias[rows : rows + k] = offset
        rows += k

    zero = torch.zeros(k)
    put(0, 1.0, zero)
    for c in range(channels):
        put(k * (1 + c), 1.0, at_zero.means[0, c, :, 0, 0])
        put(k * (1 + channels + c), -1.0, -at_zero.log_sharpness[0, c, :, 0, 0])
        put(k * (1 + 2 * channels + c), 1.0, zero)
    likelihood.activation = nn.Identity()  # ours stands before the last layer
    layer = nn.Conv2d(n, n, 1)
    layer.weight.data, layer.bias.data = weight[:, :, None, None], bias
    likelihood.parameter_net = layer


# -- both sides' bounds --------------------------------------------------------------------------


@contextmanager
def given_noise(draws: Iterator[Tensor]) -> Iterator[None]:
    """Inside the `with` block, every Gaussian sample of PyTorch takes the next of these draws."""

    def rsample(normal: Any, *_: Any) -> Tensor:
        return normal.mean + normal.stddev * next(draws).reshape(normal.mean.shape)

    with patch.object(torch.distributions.Normal, "rsample", rsample):
        yield


def reference_bound(
    model: nn.Module, reference: Reference, x: Tensor, k: int, n_samples: int
) -> Tensor:
    """L^{>k} by the reference's model, loss and average over samples: (B,) nats."""
    from_prior = [i < k for i in range(model.n_latents)]
    likelihood, stages = model(
        x, n_posterior_samples=n_samples, decode_from_p=from_prior, use_mode=from_prior
    )
    kl = [stage.loss.kl_elementwise for stage in stages]
    _, elbo, *_ = reference.losses.ELBO()(
        likelihood.likelihood,
        kl,
        samples=n_samples,
        free_nats=0,
        sample_reduction=reference.utils.log_sum_exp,
    )
    return elbo


class Bounds(NamedTuple):
    """L^{>k} of N images, k = 0 ... L - 1, (N, L) nats each."""

    ours: Float
    same_noise: Float  # the reference's
    own_noise: Float  # the reference's


@torch.no_grad()
def bounds(scorer: Scorer, model: nn.Module, reference: Reference, pixels: NDArray[Any]) -> Bounds:
    """What both make of (N, C, H, W) 8-bit images."""
    settings, n_layers = scorer.settings, scorer.config.n_layers
    parts = []
    for one in scorer.passes(pixels):
        x = one.x.contiguous()
        x = x if scorer.config.likelihood == "bernoulli" else 0.5 + 0.5 * x
        noise = scorer.ladder.by_layer(one.normal)  # by layer, (S, B, *latent_shape)
        same, own = [], []
        for k in range(n_layers):
            n = settings.n_importance_samples_k if k else settings.n_importance_samples
            with given_noise(eps[:n] for eps in noise[k:]):
                same.append(reference_bound(model, reference, x, k, n))
            own.append(reference_bound(model, reference, x, k, n))
        ours = scorer.bounds(one.x, one.normal).lower_bound
        each = ours, torch.stack(same, dim=1), torch.stack(own, dim=1)  # (B, L)
        parts.append([values[: one.n].double().numpy() for values in each])
    return Bounds(*(np.concatenate(values) for values in zip(*parts, strict=True)))


# -- the tables ----------------------------------------------------------------------------------


def scores(lower_bound: Float) -> dict[str, Float]:
    """Every bound and ratio by name, (N,) nats, from L^{>k}, (N, L)."""
    by_name = {"L" if k == 0 else f"L^{{>{k}}}": values for k, values in enumerate(lower_bound.T)}
    ratios = {f"LLR^{{>{k}}}": lower_bound[:, 0] - lower_bound[:, k]
              for k in range(1, lower_bound.shape[1])}  # fmt: skip
    return by_name | ratios


def differences(name: str, of: Bounds) -> Iterator[str]:
    """A row for each score of a set: how far both are apart."""
    ours, same, own = map(scores, of)
    for score, values in ours.items():
        rounding = np.abs(same[score] - values).max()
        apart = own[score] - values
        error = apart.std(ddof=1) / math.sqrt(len(apart))
        yield (
            f"| {name} | {score} | {values.mean():.3f} | {rounding:.1e} | {own[score].mean():.3f} "
            f"| {apart.mean():+.3f} ± {error:.3f} | {apart.mean() / error:+.2f} |"
        )


def detections(inside: Bounds, name: str, outside: Bounds) -> Iterator[str]:
    """A row for each score: the AUROC of both."""
    pairs = [(scores(usual), scores(odd)) for usual, odd in zip(inside, outside, strict=True)]
    for score in pairs[0][0]:
        sign = 1.0 if score.startswith("LLR") else -1.0
        ours, _, own = (compare(sign * usual[score], sign * odd[score]) for usual, odd in pairs)
        yield f"| {name} | {score} | {ours.auroc:.4f} | {own.auroc:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="of the reference implementation")
    parser.add_argument("sets", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--model", default="fashionmnist")
    parser.add_argument("-S", "--samples", type=int, default=16)
    parser.add_argument("--samples-k", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    detector = Detector(
        options.model,
        n_importance_samples=options.samples,
        n_importance_samples_k=options.samples_k,
        seed=options.seed,
        device="cpu",
    )
    reference = Reference.at(options.checkout)
    model = as_reference(detector.scorer.ladder, reference)
    torch.manual_seed(options.seed)  # of the reference's own noise
    found = {
        name: bounds(detector.scorer, model, reference, detector.pixels(detector.manifest(path)))
        for name, path in named(options.sets).items()
    }
    print(
        f"model {detector.bundle.name} ({detector.bundle.sha256[:12]}), S = {options.samples} ",
        end="",
    )
    print(f"in L and {options.samples_k} in L>k, proposal mean, seed {options.seed}; ", end="")
    print(", ".join(f"{len(of.ours)} images of {name}" for name, of in found.items()))
    print("\n| set | score | ours | same noise: largest difference | the reference, own noise "
          "| difference ± standard error | z |\n|" + " --- |" * 7)  # fmt: skip
    for name, of in found.items():
        print("\n".join(differences(name, of)))
    first, *others = found
    print("\n| against | score | AUROC, ours | AUROC, the reference |\n|" + " --- |" * 4)
    for name in others:
        print("\n".join(detections(found[first], name, found[name])))


if __name__ == "__main__":
    main()
