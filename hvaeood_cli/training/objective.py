"""What training minimises: the negative ELBO with free nats, and our semantic term."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hvaeood_cli.model.gaussian import log_ratio_elementwise
from hvaeood_cli.model.ladder import Descent, Ladder, Noise, Route
from hvaeood_cli.scoring.bounds import climb_means, follow
from hvaeood_cli.settings import TrainSettings


class Pressure(NamedTuple):
    """The schedules' values at one moment of a run."""

    beta: float  # KL warm-up: rises from 0 to 1
    free_nats: tuple[float, ...]  # lambda of z_1 ... z_L
    learning_rate: float  # as a factor of the setting's


class Terms(NamedTuple):
    """Means over the batch, in nats and detached, for the progress line and the curve."""

    log_px: Tensor  # ()
    kl: Tensor  # (L,)
    log_px_k: Tensor  # () in the pass of the semantic term; NaN without it
    kl_k: Tensor  # (L,) in that pass; 0 without it

    @property
    def elbo(self) -> Tensor:
        """L, a scalar, without beta or free nats."""
        return self.log_px - self.kl.sum()

    @property
    def semantic(self) -> Tensor:
        """L^{>k} for the k of this batch, a scalar; NaN without the semantic term."""
        return self.log_px_k - self.kl_k.sum()


def pressure_at(settings: TrainSettings, progress: float) -> Pressure:
    """The schedules at `progress`, 0 (start) to 1 (end of the run)."""
    beta = min(1.0, progress / settings.kl_warmup) if settings.kl_warmup else 1.0
    past = progress - settings.free_nats_constant
    if past <= 0:
        kept = 1.0
    elif settings.free_nats_anneal == 0:
        kept = 0.0
    else:
        kept = max(0.0, 1.0 - past / settings.free_nats_anneal)
    rate = 1.0
    if settings.schedule == "cosine":
        rate = 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * min(progress, 1.0)))))
    return Pressure(beta, tuple(kept * nats for nats in settings.free_nats), max(rate, 1e-3))


def free_kl(kl: Tensor, free_nats: float, per: str) -> Tensor:
    """What z_i costs after its free nats: the mean over the batch, a scalar in nats.

    kl: (B, C, H, W) or (B, C), log q - log p elementwise.
    per "layer": max(lambda, KL_i), where KL_i is averaged over the batch first (Kingma et al.,
    2016). per "element": each element of each image's latent has lambda / C free nats, C being the
    channels. The reference code does so; a 14x14x8 layer with lambda = 2 has 14 * 14 * 2 = 392.
    """
    if per == "element":
        return kl.clamp(min=free_nats / kl.shape[1]).flatten(1).sum(1).mean()
    return kl.flatten(1).sum(1).mean().clamp(min=free_nats)


class Objective(nn.Module):
    """The loss of one batch.

        loss = -L + alpha * (-L^{>k}),   k ~ Uniform{1 ... L - 1}, drawn anew for each batch

    The second term, `semantic_weight` = alpha, is ours and not the paper's (alpha = 0 there).
    With the ELBO alone nothing asks the upper latents to explain an image without help from
    below: L^{>k} is then loose on every image, in-distribution or not, and the looseness of the
    training images hides that of the others. Training L^{>k} as well makes the upper latents
    carry all that they can of the training distribution, so that L^{>k} is tight on images from
    it, while on others, which the narrow upper latents were never taught, it stays loose. Their
    difference LLR^{>k} then measures just what is foreign.
    """

    def __init__(self, ladder: Ladder, settings: TrainSettings) -> None:
        super().__init__()
        self.ladder = ladder
        self.settings = settings

    def forward(
        self, x: Tensor, noise: Noise, k: int | None, pressure: Pressure
    ) -> tuple[Tensor, Terms]:
        """The loss, a scalar in nats, and its terms.

        x: (B, C, H, W), observed. noise: by layer, (1, B, ...). k: of the semantic term, or None.
        """
        ladder, top = self.ladder, self.ladder.n_layers + 1
        means = climb_means(ladder, x, 1 if k is None else k + 1)
        elbo_route = Route(noise, 0, top, "sample")
        loss, log_px, kl = self._loss(x, follow(ladder, means, elbo_route), pressure)
        log_px_k, kl_k = torch.full_like(log_px, float("nan")), torch.zeros_like(kl)
        if k is not None:
            route = Route(noise, k, top, self.settings.semantic_proposal)
            loss_k, log_px_k, kl_k = self._loss(x, follow(ladder, means, route), pressure)
            loss = loss + self.settings.semantic_weight * loss_k
        return loss, Terms(*(term.detach() for term in (log_px, kl, log_px_k, kl_k)))

    def _loss(
        self, x: Tensor, descent: Descent, pressure: Pressure
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(-log p(x|z) + beta * sum_i free_kl_i, log p(x|z), KL by layer); means over the batch."""
        log_px = self.ladder.likelihood.log_prob(descent.parameters, x).mean()
        loss, kls = -log_px, []
        for i in range(1, self.ladder.n_layers + 1):
            if i not in descent.posteriors:
                kls.append(torch.zeros_like(log_px))
                continue
            kl = log_ratio_elementwise(descent.posteriors[i], descent.priors[i], descent.z[i])
            kls.append(kl.flatten(1).sum(1).mean())
            if self.settings.free_nats:
                nats = pressure.free_nats[i - 1]
                # without lambda the log-ratio is unclamped: one sample of it may be negative
                paid = free_kl(kl, nats, self.settings.free_nats_per) if nats > 0 else kls[-1]
            else:
                paid = kls[-1]
            loss = loss + pressure.beta * paid
        return loss, log_px, torch.stack(kls)
