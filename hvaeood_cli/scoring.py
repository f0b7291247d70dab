"""Pixels -> scores and reconstructions, for a batch that is in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvaeood_cli.bounds import score
from hvaeood_cli.model.ladder import Descent, Ladder
from hvaeood_cli.noise import ImageNoise, image_noise
from hvaeood_cli.runtime import keep_memory
from hvaeood_cli.settings import ScoreSettings

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]

# Rows (importance samples x images) in one pass through the network. Fewer leave the processor
# idle between layers; many more fall out of its cache: `python -m benchmarks.scoring` shows it.
ROWS_PER_PASS = 256


class BatchScores(NamedTuple):
    """Scores of N images, float32, nats; columns as in the score file."""

    lower_bound: Float  # (N, L)
    llr: Float  # (N, L - 1)
    kl: Float  # (N, L)
    log_px: Float  # (N, L)
    bits_per_dim: Float  # (N,)


class Reconstructions(NamedTuple):
    """What the model makes of N images, on the scale 0 to 1."""

    observed: Float  # (N, C, H, W): the x that was scored (binarised, for a Bernoulli model)
    from_k: Float  # (L, N, C, H, W): E[x|z] where z_{<=k} came from the prior; 0 is the usual one


@dataclass(frozen=True)
class Scorer:
    """A ladder, on its device, with the settings that decide a score."""

    ladder: Ladder
    settings: ScoreSettings
    device: torch.device

    @classmethod
    def on(cls, ladder: Ladder, settings: ScoreSettings, device: torch.device) -> Scorer:
        """Move a ladder to a device, ready for inference (channels last: 1.3 to 1.9 x on CPU)."""
        keep_memory()
        ladder = ladder.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(ladder.eval(), settings, device)

    @property
    def default_batch_size(self) -> int:
        """Images in a pass, so that samples x images is about ROWS_PER_PASS."""
        return max(1, ROWS_PER_PASS // self.settings.n_importance_samples)

    def noise(self, pixels: Pixels) -> ImageNoise:
        """All the randomness that one image's score needs. pixels: (C, H, W)."""
        settings = self.settings
        n_samples = max(settings.n_importance_samples, settings.n_importance_samples_k)
        n_latents = sum(math.prod(shape) for shape in self._latent_shapes())
        return image_noise(pixels, settings.seed, n_samples, n_latents)

    def score(self, pixels: Pixels, noises: list[ImageNoise] | None = None) -> BatchScores:
        """Scores of (N, C, H, W) 8-bit images; N >= 1. noises: of each, if already drawn."""
        _, scores = self._run(pixels, noises)
        lower = scores[0]
        bits = -lower[:, 0] / np.float32(self.ladder.config.n_dims * math.log(2.0))
        return BatchScores(lower, lower[:, :1] - lower[:, 1:], scores[1], scores[2], bits)

    def reconstruct(self, pixels: Pixels) -> Reconstructions:
        """Each image as seen from k = 0 ... L - 1: the paper's Figure 1, from the scored passes."""
        means: list[Tensor] = []
        x, _ = self._run(pixels, means=means)
        return Reconstructions(x.numpy(), torch.stack(means).cpu().numpy())

    @torch.inference_mode()
    def _run(
        self,
        pixels: Pixels,
        noises: list[ImageNoise] | None = None,
        means: list[Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Float, Float, Float]]:
        noises = noises or [self.noise(image) for image in pixels]
        uniform = torch.from_numpy(np.stack([noise.uniform for noise in noises]))
        normal = torch.from_numpy(np.stack([noise.normal for noise in noises], axis=1))  # (S, B, .)
        x = self.ladder.likelihood.observe(torch.from_numpy(pixels), uniform)  # (B, C, H, W)
        on_device = x.to(self.device).contiguous(memory_format=torch.channels_last)

        def keep(k: int, descent: Descent) -> None:
            if means is not None:
                first_sample = descent.parameters[: len(x)]
                means.append(self.ladder.likelihood.mean(first_sample))

        n_elbo, n_k = self.settings.n_importance_samples, self.settings.n_importance_samples_k
        scores = score(
            self.ladder,
            on_device,
            self._by_layer(normal),
            n_elbo,
            n_k,
            self.settings.proposal,
            visit=keep,
        )
        lower, kl, log_px = (
            part.float().cpu().numpy() for part in (scores.lower_bound, scores.kl, scores.log_px)
        )
        return x, (lower, kl, log_px)

    def _by_layer(self, normal: Tensor) -> list[Tensor]:
        """(S, B, all latents) -> (S, B, *latent_shape(i)) for each layer, on the device.

        A spatial layer's numbers lie channels last, as the network's own do.
        """
        shapes = self._latent_shapes()
        parts = normal.to(self.device).split([math.prod(shape) for shape in shapes], dim=2)
        return [
            part.unflatten(2, (*shape[1:], shape[0])).movedim(-1, 2) if len(shape) > 1 else part
            for part, shape in zip(parts, shapes, strict=True)
        ]

    def _latent_shapes(self) -> list[tuple[int, ...]]:
        return [self.ladder.latent_shape(i) for i in range(1, self.ladder.n_layers + 1)]
