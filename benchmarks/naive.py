"""The bounds the obvious way: two full passes for each k, every sample through every layer.

This is what the reference implementation of the paper does for each k: an ELBO pass with S
samples and an L^{>k} pass, both from the pixels up. Tests hold `hvaeood_cli.scoring.bounds`
against it, benchmarks time it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from hvaeood_cli.model.ladder import Ladder, Noise, Route


def naive_lower_bound(ladder: Ladder, x: Tensor, noise: Noise, k: int, proposal: str) -> Tensor:
    """L^{>k}, (B,): S copies of every image, through the whole ladder."""
    n_samples, n_images = noise[0].shape[:2]
    copies = x.repeat(n_samples, 1, 1, 1)  # (S * B, C, H, W)
    flat = [eps.flatten(0, 1).unsqueeze(0) for eps in noise]  # one sample of S * B images
    route = Route(flat, k, ladder.n_layers + 1, proposal)  # type: ignore[arg-type]
    rungs, z, rung = {}, {}, None
    carried = copies
    for i in range(1, ladder.n_layers + 1):
        rung = ladder.first_rung(copies) if rung is None else ladder.next_rung(i, rung, carried)
        if i > k:
            rungs[i] = rung
            carried = None
            if rung.posterior is not None:
                carried = z[i] = route.draw_up(i, rung.posterior)
        else:
            carried = rung.mean
    descent = ladder.descend(rungs, z, route)
    log_w = ladder.likelihood.log_prob(descent.parameters, copies)  # (S * B,)
    for i in range(k + 1, ladder.n_layers + 1):
        prior, posterior = descent.priors[i], descent.posteriors[i]
        z_i = descent.z[i]
        log_ratio = Normal(*posterior).log_prob(z_i) - Normal(*prior).log_prob(z_i)
        log_w = log_w - log_ratio.flatten(1).sum(1)
    return log_w.unflatten(0, (n_samples, n_images)).logsumexp(0) - math.log(n_samples)


def naive_scores(
    ladder: Ladder, x: Tensor, noise: Noise, n_importance_samples_k: int = 1, proposal: str = "mean"
) -> Tensor:
    """LLR^{>k} for k = 1 ... L - 1, (B, L - 1): the ELBO anew for each k."""
    fewer = [eps[:n_importance_samples_k] for eps in noise]
    ratios = [
        naive_lower_bound(ladder, x, noise, 0, proposal)
        - naive_lower_bound(ladder, x, fewer, k, proposal)
        for k in range(1, ladder.n_layers)
    ]
    return torch.stack(ratios, dim=1)
