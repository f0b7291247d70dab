"""Scores of others that a hierarchical VAE gives, too. (N,) each; higher is odder.

typicality         |-L - H|, H the mean of -L over training images (Nalisnick et al., 2019b), one
                   image at a time
input complexity   -L less the bits of a lossless codec (Serrà et al., 2020): of PNG and WebP, the
                   shorter. The codec is given what the likelihood is given: binarised images
                   binarised, one bit a pixel.
WAIC               the mean of -L over several models plus its variance (Choi et al., 2019)
likelihood regret  what L gains when q of this image is fitted to it (Xiao et al., 2020). Theirs
                   fits the encoder's weights; here, mean and scale of each latent, as independent
                   Gaussians that start at the encoder's, for some steps of Adam.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.hvae import HVAE
from hvaeood_cli.model.ladder import Route, Rung
from hvaeood_cli.scoring.bounds import climb_means, evaluate
from hvaeood_cli.scoring.scorer import Scorer

Float = NDArray[np.float64]
Pixels = NDArray[np.uint8]

REGRET_STEPS = 50


def typicality(elbo: Float, elbo_of_training: Float) -> Float:
    return np.abs(-elbo - np.mean(-elbo_of_training))


def input_complexity(elbo: Float, complexity: Float) -> Float:
    """elbo: nats; complexity: of `codec_bits`. In bits."""
    return -elbo / math.log(2.0) - complexity


def waic(elbos: Float) -> Float:
    """elbos: (models, N)."""
    return -elbos.mean(0) + elbos.var(0)


def codec_bits(scorer: Scorer, pixels: Pixels) -> Float:
    """The length of each image in bits, by the better of two lossless codecs: (N,)."""
    if scorer.config.likelihood != "bernoulli":
        return np.array([_shortest(_picture(image)) for image in pixels])
    observed = np.concatenate([one.x[: one.n].cpu().numpy() for one in scorer.passes(pixels)])
    return np.array(
        [_shortest(Image.fromarray(np.uint8(x[0] * 255.0)).convert("1")) for x in observed]
    )


def _picture(image: Pixels) -> Image.Image:
    """image: (C, H, W)."""
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)).squeeze())


def _shortest(image: Image.Image) -> float:
    lengths = []
    for codec, options in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "method": 6})):
        buffer = io.BytesIO()
        (image.convert("RGB") if codec == "WEBP" else image).save(buffer, codec, **options)
        lengths.append(8.0 * buffer.tell())
    return min(lengths)


def regret(scorer: Scorer, pixels: Pixels, n_steps: int = REGRET_STEPS) -> Float:
    """Likelihood regret, (N,) nats, of an HVAE. Before and after share one draw of the noise."""
    gains = []
    for one in scorer.passes(pixels):
        gain = _gain(scorer.ladder, one.x, scorer.ladder.by_layer(one.normal), n_steps)
        gains.append(gain[: one.n].double().numpy())
    return np.concatenate(gains)


def _gain(ladder: HVAE, x: Tensor, noise: list[Tensor], n_steps: int) -> Tensor:
    """How much L grows, (B,) nats. noise: by layer, (S, B, *latent_shape)."""
    n_layers = ladder.n_layers
    with torch.no_grad():
        start = [rung.posterior for rung in climb_means(ladder, x, n_layers)]
    means = [q.mean.clone().requires_grad_() for q in start]  # (B, *latent_shape)
    log_scales = [q.scale.log().requires_grad_() for q in start]
    adam = torch.optim.Adam([*means, *log_scales], lr=0.01)

    def elbo(draws: list[Tensor]) -> Tensor:
        route = Route(draws, 0, n_layers + 1, "mean")
        posteriors = [Gaussian(m, s.exp()) for m, s in zip(means, log_scales, strict=True)]
        rungs = {i: Rung(q, ()) for i, q in enumerate(posteriors, start=1)}
        z = {i: route.draw_up(i, q) for i, q in enumerate(posteriors, start=1)}
        return evaluate(ladder, x, ladder.descend(rungs, z, route)).lower_bound

    with torch.no_grad():
        before = elbo(noise)
    torch.manual_seed(0)  # of the noise of the steps
    for _ in range(n_steps):
        loss = -elbo([torch.randn_like(eps[:1]) for eps in noise]).sum()  # images do not mix
        gradients = torch.autograd.grad(loss, [*means, *log_scales])
        for parameter, gradient in zip([*means, *log_scales], gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    with torch.no_grad():
        return elbo(noise) - before
