"""The interface between the bounds and any hierarchical VAE.

A ladder is climbed from x to z_L by the inference model, a rung for each stochastic layer, and
descended from z_L to x by the generative model. `bounds.py` knows nothing else about a model, so
a new kind (bidirectional or top-down inference) is a new file beside `hvae.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.likelihoods import Likelihood


class Rung(NamedTuple):
    """Where the climb stands in front of z_i: q(z_i | ...) and what is carried past it."""

    posterior: Gaussian
    features: Tensor  # h_i


Noise = Sequence[Tensor]
"""Standard normal draws by layer: entry i - 1 is for z_i, (S, B, *latent_shape(i)).

Two passes that are given the same noise use common random numbers: the same draw for the same
layer of the same image, whichever distribution it goes through.
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

    def draw(self, i: int, gaussian: Gaussian) -> Tensor:
        """z_i from q or p, (S * B, ...), with the noise of layer i."""
        return gaussian.sample(self.noise[i - 1])

    def draw_prior(self, i: int, prior: Gaussian) -> Tensor:
        """z_i from p(z_i | z_{>i}): below the posterior by the proposal, above it a sample."""
        if i <= self.k and self.proposal == "mean":
            return prior.mean
        return self.draw(i, prior)


class Descent(NamedTuple):
    """What one way down leaves behind, by layer: key i belongs to z_i."""

    z: dict[int, Tensor]  # (S * B, ...)
    priors: dict[int, Gaussian]  # p(z_i | z_{>i})
    posteriors: dict[int, Gaussian]  # q(z_i | ...), only where z_i came from it
    parameters: Tensor  # of p(x | z): (S * B, C * n_parameters, H, W)


class Ladder(nn.Module, ABC):
    """A hierarchical VAE with layers z_1 (bottom) ... z_L (top). Layers are counted from 1."""

    def __init__(self, config: ModelConfig, likelihood: Likelihood) -> None:
        super().__init__()
        self.config = config
        self.likelihood = likelihood

    @property
    def n_layers(self) -> int:
        """L."""
        return self.config.n_layers

    def latent_shape(self, i: int) -> tuple[int, ...]:
        """Shape of z_i without the batch."""
        return self.config.latent_shape(i)

    @abstractmethod
    def first_rung(self, x: Tensor) -> Rung:
        """q(z_1 | x). x: (B, C, H, W), observed. The work that every k and sample shares."""

    @abstractmethod
    def next_rung(self, i: int, below: Rung, z: Tensor) -> Rung:
        """q(z_i | z_{i-1}, h_{i-1}) for i >= 2.

        z: z_{i-1}, (S * B, ...), a sample or the mean. `below` may have B rows only; then its
        features are shared by the S samples.
        """

    @abstractmethod
    def descend(self, rungs: dict[int, Rung], z: dict[int, Tensor], route: Route) -> Descent:
        """From z_L down to p(x | z).

        rungs and z: by layer, for the layers that the route takes from the posterior; the
        samples of z drawn on the way up. All others are drawn here from the prior.
        """
