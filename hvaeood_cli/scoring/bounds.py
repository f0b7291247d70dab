"""L, L^{>k}, L_S and LLR^{>k}: the heart of the method, as pure functions of (ladder, x, noise).

Everything is per image and in nats. S is the number of importance samples, B that of images, L that
of stochastic layers. Equation numbers are those of Havtorn et al. (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvaeood_cli.model.gaussian import kl_of_channels, log_ratio
from hvaeood_cli.model.ladder import Descent, Ladder, Noise, Proposal, Route, Rung

Nats = TypeVar("Nats", Tensor, NDArray[np.float64])


class Bound(NamedTuple):
    """One bound on log p(x) and the terms that it is made of."""

    lower_bound: Tensor  # (B,) nats; importance weighted over S where S > 1
    log_px: Tensor  # (B,) nats: log p(x|z), mean over samples
    kl: Tensor  # (L, B) nats: log q - log p of each layer, mean over samples; 0 where z_i ~ p
    log_px_of_pixels: Tensor  # (B, H, W) nats: log p(x_i|z) of each pixel, mean over samples


class Scores(NamedTuple):
    """Every bound of a batch, k = 0 ... L - 1."""

    lower_bound: Tensor  # (B, L): column k is L^{>k}; column 0 is the ELBO, L_S where S > 1
    llr: Tensor  # (B, L - 1): column k - 1 is LLR^{>k}
    kl: Tensor  # (B, L): of the ELBO's pass
    log_px: Tensor  # (B, L): log p(x|z) in the pass of each k
    log_px_of_pixels: Tensor  # (B, L, H, W): log p(x_i|z) of each pixel in the pass of each k
    pit: Tensor  # (B, C, H, W): where x lies in p(x|z) of the ELBO's first sample, 0 to 1
    kl_of_channels: Tensor  # (B, channels) nats: KL(q || p) in z_1 a place, mean over samples


Visit = Callable[[int, Descent], None]
"""Called with each k and the way down of L^{>k}."""


def climb_means(ladder: Ladder, x: Tensor, n_rungs: int) -> list[Rung]:
    """Bottom-up with every layer forwarding its posterior's mean: d_k(x) of Appendix D.

    x: (B, C, H, W). Entry i - 1 is the rung of z_i, B rows. No noise enters, so these rungs are
    the start of every pass: L^{>k} leaves this chain at layer k + 1, the ELBO at layer 1.
    """
    rungs = [ladder.first_rung(x)]
    for i in range(2, n_rungs + 1):
        rungs.append(ladder.next_rung(i, rungs[-1], rungs[-1].mean))
    return rungs


def follow(ladder: Ladder, means: list[Rung], route: Route) -> Descent:
    """One pass: up from layer k + 1 by posterior samples, then down to p(x | z).

    means: the first k + 1 rungs of `climb_means`, or more.
    """
    rungs: dict[int, Rung] = {}
    z: dict[int, Tensor] = {}
    for i in range(route.k + 1, route.l):
        shared = not z and i <= len(means)  # no sample below yet: the chain has this rung
        rungs[i] = means[i - 1] if shared else ladder.next_rung(i, rungs[i - 1], z.get(i - 1))
        if (posterior := rungs[i].posterior) is not None:
            posterior = route.inferred(i, posterior, up=True)
            rungs[i] = rungs[i]._replace(posterior=posterior)
            z[i] = route.draw_up(i, posterior)  # (S * B, ...)
    return ladder.descend(rungs, z, route)


def evaluate(ladder: Ladder, x: Tensor, descent: Descent) -> Bound:
    """log p(x|z) + sum_i [log p(z_i|z_{>i}) - log q(z_i|.)], over the layers drawn from q.

    Eq. 5 in its importance-weighted form (eq. 9): logsumexp_s - log S.
    """
    n_images = x.shape[0]
    of_pixels = ladder.likelihood.log_prob_of_pixels(descent.parameters, x)  # (S * B, H, W)
    log_px = of_pixels.flatten(1).sum(1)  # (S * B,)
    kl = [
        log_ratio(descent.posteriors[i], descent.priors[i], descent.z[i])
        if i in descent.posteriors
        else torch.zeros_like(log_px)
        for i in range(1, ladder.n_layers + 1)
    ]
    kls = torch.stack(kl).unflatten(1, (-1, n_images))  # (L, S, B)
    log_px = log_px.unflatten(0, (-1, n_images))  # (S, B)
    log_w = log_px - sum(kls)  # (S, B); layer by layer, whatever the place of a row
    of_pixels = of_pixels.unflatten(0, (-1, n_images)).mean(0)  # (B, H, W)
    return Bound(log_mean_exp(log_w), log_px.mean(0), kls.mean(1), of_pixels)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """logsumexp over samples minus log S: (S, B) -> (B,)."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def lower_bound(
    ladder: Ladder,
    x: Tensor,
    noise: Noise,
    k: int = 0,
    l: int | None = None,
    proposal: Proposal = "mean",
) -> Bound:
    """L^{>k}(x) (eq. 5); with l, L^{<l}(x) (eq. 20), where z_l ... z_L come from the prior.

    x: (B, C, H, W), observed. noise: by layer, (S, B, *latent_shape(i)); its S is the number of
    importance samples. k = 0 and l = L + 1 (or None) is the ELBO.
    Raises ValueError unless 0 <= k < L and k + 1 < l <= L + 1.
    """
    n_layers = ladder.n_layers
    l = n_layers + 1 if l is None else l
    if not (0 <= k < n_layers and k + 1 < l <= n_layers + 1):
        raise ValueError(f"no bound with k = {k}, l = {l} on {n_layers} layers")
    route = Route(noise, k, l, proposal)
    return evaluate(ladder, x, follow(ladder, climb_means(ladder, x, k + 1), route))


def score(
    ladder: Ladder,
    x: Tensor,
    noise: Noise,
    n_importance_samples: int = 1,
    n_importance_samples_k: int = 1,
    proposal: Proposal = "mean",
    visit: Visit | None = None,
    uniform: Tensor | None = None,
) -> Scores:
    """L^{>k} and LLR^{>k} for every k = 0 ... L - 1 in one call.

    x: (B, C, H, W), observed. noise: by layer, (max(S, S'), B, *latent_shape(i)). L takes the
    first S = n_importance_samples draws, each L^{>k} the first S' = n_importance_samples_k, so
    common random numbers run through all k. The bottom-up chain of means is climbed once and
    shared: where the naive way makes two full passes for each k, this one makes a single pass up
    (the ELBO's samples climb again above z_1) and one way down for each k and sample.
    visit: called with each k and its descent, for reconstructions. uniform: (B, C, H, W) in
    [0, 1), independent of x, for `Likelihood.pit`; without it a half.
    """
    n_layers = ladder.n_layers
    means = climb_means(ladder, x, n_layers)
    bounds, elbo = [], None
    for k in range(n_layers):
        n_samples = n_importance_samples_k if k else n_importance_samples
        draws = [eps[:n_samples] for eps in noise]
        descent = follow(ladder, means, Route(draws, k, n_layers + 1, proposal))
        bounds.append(evaluate(ladder, x, descent))
        elbo = elbo or descent
        if visit is not None:
            visit(k, descent)
    assert elbo is not None
    lower = torch.stack([bound.lower_bound for bound in bounds], dim=1)  # (B, L)
    uniform = torch.full_like(x, 0.5) if uniform is None else uniform
    return Scores(
        lower_bound=lower,
        llr=lower[:, :1] - lower[:, 1:],
        kl=bounds[0].kl.T,
        log_px=torch.stack([bound.log_px for bound in bounds], dim=1),
        log_px_of_pixels=torch.stack([bound.log_px_of_pixels for bound in bounds], dim=1),
        pit=ladder.likelihood.pit(elbo.parameters[: len(x)], x, uniform),
        kl_of_channels=kl_of_channels(elbo.posteriors[1], elbo.priors[1], len(x)),
    )


def bits_per_dim(nats: Nats, n_dims: int) -> Nats:
    """-L / (D ln 2) in bits/dim, elementwise. nats: L, a tensor or an array; n_dims: D."""
    return -nats / (n_dims * math.log(2.0))
