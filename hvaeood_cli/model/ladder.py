"""The interface between the bounds and any hierarchical VAE.

The inference model climbs a ladder from x to z_L, with a rung for each stochastic layer; the
generative model descends it from z_L to x. The kinds of ladder differ in where z_i is inferred:

    HVAE           on the way up, from x and z_{<i}
    Ladder VAE     on the way down, from x and z_{>i}; z_L at the turn
    BIVA           one part on the way up (z_i^BU), the other on the way down (z_i^TD)

In every kind z_i is one variable with one prior p(z_i | z_{>i}), one posterior q and one noise: its
first channels are inferred on the way up, its last ones on the way down. `scoring/bounds.py` knows
nothing else about a model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.likelihoods import Likelihood


class Rung(NamedTuple):
    """Where the climb stands in front of z_i: q(z_i | ...), and the features carried past it."""

    posterior: Gaussian | None  # of the part of z_i inferred on the way up; None if no part is
    features: tuple[Tensor, ...]  # h_i, and whatever else this kind of ladder carries

    @property
    def mean(self) -> Tensor | None:
        """The posterior's mean. A layer at or below k forwards it, never a sample (Appendix D)."""
        return None if self.posterior is None else self.posterior.mean


Noise = Sequence[Tensor]
"""Standard normal draws by layer: entry i - 1 is for z_i, (S, B, *latent_shape(i)).

Two passes with the same noise use common random numbers: the same draw for the same layer of the
same image, whichever distribution is sampled with it.
"""

Proposal = Literal["mean", "sample"]
"""How latents at and below k leave the conditional prior: as its mean, or as a sample of it."""


@dataclass(frozen=True)
class Route:
    """One pass through the latents: z_i comes from the posterior where k < i < l, else the prior.

    k = 0, l = L + 1 is the ELBO's; k > 0 is L^{>k}'s (eq. 5); l <= L is L^{<l}'s (eq. 20).
    """

    noise: Noise
    k: int
    l: int
    proposal: Proposal

    def draw_up(self, i: int, posterior: Gaussian) -> Tensor:
        """Sample the part of z_i inferred on the way up, (S * B, ...): its first channels."""
        return posterior.sample(self.noise[i - 1][:, :, : posterior.n_channels])

    def draw_down(self, i: int, posterior: Gaussian) -> Tensor:
        """Sample the part of z_i inferred on the way down, (S * B, ...): its last channels."""
        return posterior.sample(self.noise[i - 1][:, :, -posterior.n_channels :])

    def inferred(self, i: int, posterior: Gaussian, up: bool) -> Gaussian:
        """q of a part of z_i as the pass takes it: as it was inferred, on the way up or down."""
        return posterior

    def draw_prior(self, i: int, prior: Gaussian) -> Tensor:
        """z_i from p(z_i | z_{>i}): where i <= k by the proposal, where i >= l as a sample."""
        if i <= self.k and self.proposal == "mean":
            return prior.mean
        return prior.sample(self.noise[i - 1])


class Descent(NamedTuple):
    """What one way down drew and drew it from, by layer: key i is for the whole of z_i."""

    z: dict[int, Tensor]  # (S * B, ...)
    priors: dict[int, Gaussian]  # p(z_i | z_{>i})
    posteriors: dict[int, Gaussian]  # q(z_i | ...), only where z_i came from it
    parameters: Tensor  # of p(x | z): (S * B, n_parameters * r^2, H / r, W / r), see Likelihood


class Ladder(nn.Module, ABC):
    """A hierarchical VAE with layers z_1 (bottom) ... z_L (top). Layers are counted from 1."""

    def __init__(self, config: ModelConfig, likelihood: Likelihood) -> None:
        super().__init__()
        self.config = config
        self.likelihood = likelihood

    @property
    def n_layers(self) -> int:
        """L, the number of stochastic layers."""
        return self.config.n_layers

    def latent_shape(self, i: int) -> tuple[int, ...]:
        """Shape of z_i without the batch."""
        return self.config.latent_shape(i)

    @property
    def n_latents(self) -> int:
        """The size of z_1 ... z_L together: how many random numbers a sample of an image takes."""
        return sum(math.prod(self.latent_shape(i)) for i in range(1, self.n_layers + 1))

    def by_layer(self, normal: Tensor) -> Noise:
        """Split normal draws by layer: (S, B, n_latents) -> (S, B, *latent_shape(i)) for each i.

        A spatial layer's numbers lie channels last in memory, as the network's own do.
        """
        shapes = [self.latent_shape(i) for i in range(1, self.n_layers + 1)]
        parts = normal.split([math.prod(shape) for shape in shapes], dim=2)
        return [
            part.unflatten(2, (*shape[1:], shape[0])).movedim(-1, 2) if len(shape) > 1 else part
            for part, shape in zip(parts, shapes, strict=True)
        ]

    @abstractmethod
    def first_rung(self, x: Tensor) -> Rung:
        """The rung in front of z_1, which every k and sample shares. x: (B, C, H, W), observed."""

    @abstractmethod
    def next_rung(self, i: int, below: Rung, z: Tensor | None) -> Rung:
        """The rung in front of z_i, i >= 2.

        below: the rung in front of z_{i-1}; where it has only B rows, the S samples share its
        features. z: the part of z_{i-1} that is inferred on the way up, (S * B, ...), a sample or
        the mean; None if no part is.
        """

    @abstractmethod
    def descend(self, rungs: dict[int, Rung], z: dict[int, Tensor], route: Route) -> Descent:
        """Descend from z_L to p(x | z).

        rungs: by layer, for the layers that the route takes from the posterior. z: by layer, the
        parts of these layers that were drawn on the way up. Their other parts are drawn here from
        the posterior, and all other layers from the prior.
        """
