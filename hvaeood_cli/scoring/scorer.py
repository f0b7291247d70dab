"""Pixels -> scores and reconstructions, for a batch that is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvaeood_cli.device import keep_memory
from hvaeood_cli.model.ladder import Descent, Ladder
from hvaeood_cli.scoring.bounds import Scores, lower_bound, score
from hvaeood_cli.scoring.noise import ImageNoise, image_noise
from hvaeood_cli.scoring.statistics import Evaluation, measure
from hvaeood_cli.settings import ScoreSettings

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]

# Images in one pass through the network, and rows (importance samples x images). Fewer leave the
# processor idle between layers; many more fall out of its cache.
IMAGES_PER_PASS, ROWS_PER_PASS = 128, 512


class Reconstructions(NamedTuple):
    """What the model makes of N images, on the scale 0 to 1."""

    observed: Float  # (N, C, H, W): the x that was scored: binarised, or the image itself
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
    def images_per_pass(self) -> int:
        """The shape of every pass. It depends on S and S' alone: kernels sum in another order for
        another shape, but not for another place in the same one, so an image's score is the same
        to the last bit in whatever batch it comes.
        """
        samples = max(self.settings.n_importance_samples, self.settings.n_importance_samples_k)
        return min(IMAGES_PER_PASS, max(1, ROWS_PER_PASS // samples))

    def noise(self, pixels: Pixels) -> ImageNoise:
        """All the randomness that one image's score needs. pixels: (C, H, W)."""
        settings = self.settings
        n_samples = max(settings.n_importance_samples, settings.n_importance_samples_k)
        n_latents = sum(math.prod(shape) for shape in self._latent_shapes())
        return image_noise(pixels, settings.seed, n_samples, n_latents)

    def score(self, pixels: Pixels, noises: list[ImageNoise] | None = None) -> dict[str, Float]:
        """Every score of (N, C, H, W) 8-bit images, by its name in the column table: (N, ...).

        noises: of each, if already drawn.
        """
        passes = [
            measure(Evaluation(self.ladder, x, scores))
            for x, scores, _ in self._passes(pixels, noises)
        ]
        return {name: np.concatenate([part[name] for part in passes]) for name in passes[0]}

    def reconstruct(self, pixels: Pixels) -> Reconstructions:
        """Each image as seen from k = 0 ... L - 1: the paper's Figure 1, from the scored passes."""
        size = min(self.images_per_pass, len(pixels))  # a picture need not be exact to the last bit
        passes = self._passes(pixels, size=size)
        observed, means = zip(
            *((self.ladder.likelihood.shown(x), means) for x, _, means in passes), strict=True
        )
        return Reconstructions(
            torch.cat(observed).cpu().numpy(), torch.cat(means, dim=1).cpu().numpy()
        )

    @torch.inference_mode()
    def ratio(self, pixels: Pixels, k: int, l: int | None = None) -> Float:
        """LLR^{>k}, or with l LLR_{<l}^{>k} (eq. 21), of (N, C, H, W) 8-bit images: (N,) nats.

        Raises ValueError for a k or l that the ladder does not have.
        """
        n_samples, n_k = self.settings.n_importance_samples, self.settings.n_importance_samples_k
        parts = []
        for n, x, noise in self._padded(pixels):
            upper, lower = ([eps[:size] for eps in noise] for size in (n_samples, n_k))
            with self._precision():
                above = lower_bound(self.ladder, x, upper, l=l, proposal=self.settings.proposal)
                below = lower_bound(self.ladder, x, lower, k, proposal=self.settings.proposal)
            parts.append((above.lower_bound - below.lower_bound)[:n])
        return torch.cat(parts).cpu().numpy()

    @torch.inference_mode()
    def _passes(
        self,
        pixels: Pixels,
        noises: list[ImageNoise] | None = None,
        size: int | None = None,
    ) -> Iterator[tuple[Tensor, Scores, Tensor]]:
        """The images a pass at a time: x (B, C, H, W), its scores, E[x|z] by k (L, B, C, H, W)."""
        settings = self.settings
        for n, x, noise in self._padded(pixels, noises, size):
            means: list[Tensor] = []

            def keep(k: int, descent: Descent, x: Tensor = x, means: list[Tensor] = means) -> None:
                first_sample = descent.parameters[: len(x)]
                means.append(self.ladder.likelihood.mean(first_sample))

            with self._precision():
                scores = score(
                    self.ladder,
                    x,
                    noise,
                    settings.n_importance_samples,
                    settings.n_importance_samples_k,
                    settings.proposal,
                    visit=keep,
                )
            yield x[:n], Scores(*(part[:n] for part in scores)), torch.stack(means)[:, :n]

    def _padded(
        self,
        pixels: Pixels,
        noises: list[ImageNoise] | None = None,
        size: int | None = None,
    ) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """Passes of one shape: how many rows count, x (B, C, H, W) observed, noise by layer."""
        noises = noises or [self.noise(image) for image in pixels]
        size = size or self.images_per_pass
        for first in range(0, len(pixels), size):
            n = min(size, len(pixels) - first)
            rows = [first + i if i < n else first for i in range(size)]  # the last is padded
            uniform = torch.from_numpy(np.stack([noises[row].uniform for row in rows]))
            normal = torch.from_numpy(np.stack([noises[row].normal for row in rows], axis=1))
            x = self.ladder.likelihood.observe(torch.from_numpy(pixels[rows]), uniform)
            x = x.to(self.device).contiguous(memory_format=torch.channels_last)
            yield n, x, self._by_layer(normal)

    def _precision(self) -> torch.autocast:
        """Runs the network in bfloat16 where the settings say so."""
        bfloat16 = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

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
