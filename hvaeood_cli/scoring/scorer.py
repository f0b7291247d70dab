"""The scorer: a model on its device, from the pixels of a batch to scores and reconstructions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvaeood_cli.allocator import keep_memory, keeping_large_blocks
from hvaeood_cli.device import (
    float32_products,
    one_thread_each,
    threads,
)
from hvaeood_cli.errors import UsageError
from hvaeood_cli.images.content import content_key
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.ladder import Descent, Ladder
from hvaeood_cli.scoring.bounds import Scores, Visit, lower_bound, score
from hvaeood_cli.scoring.evaluation import Evaluation
from hvaeood_cli.scoring.maps import maps
from hvaeood_cli.scoring.noise import image_key, normals, uniforms
from hvaeood_cli.scoring.side_by_side import side_by_side
from hvaeood_cli.scoring.statistics import measure
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.columns import Sizes

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]
Part = TypeVar("Part")

# The most images in one pass through the network, and the rows (importance samples x images) from
# which on it takes fewer images. On a CPU, many more rows fall out of its cache.
IMAGES_PER_PASS, ROWS_PER_PASS = 128, 512
# A CPU takes numbers by the vector, 32 at once at most, and rounds exp and log otherwise for the
# few that are left over. With so many images, or a multiple, none is; with one image, all are its.
_FULL_VECTORS = 32
# Any other device needs many to be busy, and its memory is the limit: 2^28 numbers, 1 GiB, in the
# largest tensor. Six or seven of it are alive at once (measured: docs/gpu.md).
IMAGES_ELSEWHERE, ROWS_ELSEWHERE, LARGEST_TENSOR = 1024, 8192, 2**28


class ImageNoise(NamedTuple):
    """All the randomness in one image's score, or only the key to draw it from."""

    key: bytes
    uniform: Tensor | None  # (C * H * W,) in [0, 1): binarisation
    normal: Tensor | None  # (S, n_latents)


class Pass(NamedTuple):
    """Images on their way through the network at once."""

    n: int  # how many of them are no padding
    x: Tensor  # (B, C, H, W), observed
    normal: Tensor  # (S, B, n_latents): the noise of all layers
    uniform: Tensor  # (B, C, H, W) in [0, 1): what is left of the noise that x was observed with
    pixels: Tensor  # (B, C, H, W) uint8: what was observed
    drawn: Tensor  # (B, C, H, W) in [0, 1): the noise that it was observed with


class Network(Protocol):
    """What computes a pass in PyTorch's place. Several threads may call it at once."""

    runtime: str  # as score files name it

    def __call__(self, one: Pass) -> Scores:
        """Every bound of a pass."""
        ...


class Reconstructions(NamedTuple):
    """What a model makes of N images. Pictures are on the scale 0 (black) to 1 (white)."""

    observed: Float  # (N, C, H, W): the x that was scored: binarised, or the image itself
    from_k: Float  # (L, N, C, H, W): E[x|z] by k, where z_{<=k} came from the prior
    maps: Float  # (L - 1, N, H, W) nats: what each pixel costs at k, smoothed: `scoring.maps`


@dataclass(frozen=True)
class Scorer:
    """A ladder on its device, with the settings that can change a score."""

    ladder: Ladder
    settings: ScoreSettings
    device: torch.device
    network: Network | None = None  # of the same passes; None: PyTorch runs the ladder

    @classmethod
    def on(cls, ladder: Ladder, settings: ScoreSettings, device: torch.device) -> Scorer:
        """Move a ladder to a device for inference, channels last: 1.3 to 1.9 times faster on a CPU.

        Raises UsageError for the precision tf32 on a device that has none.
        """
        if settings.precision == "tf32" and device.type != "cuda":
            raise UsageError(f"tf32 is not for {device.type}", "--precision float32 or bfloat16")
        ladder = ladder.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(ladder.eval(), settings, device)

    @property
    def config(self) -> ModelConfig:
        return self.ladder.config

    @property
    def sizes(self) -> Sizes:
        """What the shapes of its scores depend on."""
        return Sizes(self.config.n_layers, self.config.n_channels, self.settings.asked)

    @property
    def runtime(self) -> str:
        """What computes the passes: "torch", or another and its version."""
        return self.network.runtime if self.network else "torch"

    @property
    def images_per_pass(self) -> int:
        """The number of images in every pass.

        It depends on the model, S, S' and the kind of device alone. Kernels sum in another order
        for another shape, but not for another place in the same shape, if its vectors are full: so
        an image's score is the same to the last bit, whatever batch it is in.
        """
        if self.device.type == "cpu":
            return _images_per_pass(self._n_samples)
        rows = min(ROWS_ELSEWHERE, LARGEST_TENSOR // _largest_activation(self.ladder))
        return min(IMAGES_ELSEWHERE, max(1, rows // self._n_samples))

    @property
    def images_per_batch(self) -> int:
        """The number of images that an engine does well to read and score together."""
        return self.images_per_pass

    def noises(self, contents: Sequence[bytes]) -> list[ImageNoise]:
        """The noise of several images, which threads can prepare ahead of their pass.

        For a CPU all of it is drawn; any other device draws it later, from the keys alone.
        contents: each image's `content_key`.
        """
        keys = [image_key(content, self.settings.seed) for content in contents]
        if self.device.type != "cpu" or not keys:
            return [ImageNoise(key, None, None) for key in keys]
        uniform, normal = self._draw(keys)
        return [ImageNoise(key, uniform[i], normal[:, i]) for i, key in enumerate(keys)]

    def score(self, pixels: Pixels, noises: list[ImageNoise] | None = None) -> dict[str, Float]:
        """Every score of (N, C, H, W) 8-bit images, by its name in the column table: (N, ...).

        noises: the noise of each image, if it has been prepared. On a CPU, threads may score at
        once: each call is the work of the thread that makes it.
        """
        parts = []
        with self.computing():
            for one in self.passes(pixels, noises):
                measured = measure(self._evaluated(one), self.settings.asked)
                parts.append({name: values[: one.n] for name, values in measured.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def reconstruct(self, pixels: Pixels) -> Reconstructions:
        """Each image's reconstructions from k = 0 ... L - 1 (Figure 1), by the scoring passes.

        And its maps, by `scoring.maps`.
        """
        likelihood = self.ladder.likelihood

        def of(one: Pass) -> tuple[Tensor, Tensor, Tensor]:
            means: list[Tensor] = []  # E[x|z] by k, (B, C, H, W), of the first sample

            def keep(k: int, descent: Descent) -> None:
                means.append(likelihood.mean(descent.parameters[: len(one.x)]))

            bounds = self.bounds(one, keep)
            by_k = bounds.log_px_of_pixels.float().transpose(0, 1)  # (L, B, H, W)
            shown = likelihood.shown(one.x[: one.n])
            return shown, torch.stack(means)[:, : one.n], maps(by_k[:, : one.n], self.config)

        share = -(-len(pixels) // threads())  # a picture need not be exact to the last bit
        size = min(self.images_per_pass, max(1, share))
        parts = [
            [part.cpu().numpy() for part in parts] for parts in self._side_by_side(of, pixels, size)
        ]
        observed, from_k, costs = zip(*parts, strict=True)
        return Reconstructions(
            np.concatenate(observed), np.concatenate(from_k, 1), np.concatenate(costs, 1)
        )

    def _evaluated(self, one: Pass) -> Evaluation:
        """A pass with its bounds. What is measured beside them runs PyTorch on one sample."""
        bounds = (self.network or self.bounds)(one)
        noise = [eps[:1] for eps in self.ladder.by_layer(one.normal)]
        return Evaluation(self.ladder, one.x, bounds, one.pixels, one.drawn, noise)

    @property
    def of_one_sample(self) -> Scorer:
        """The same, with one sample of each bound and in full precision: for pictures."""
        plain: dict[str, object] = {"n_importance_samples": 1, "n_importance_samples_k": 1}
        plain |= {"precision": "float32", "statistics": ""}
        return replace(self, settings=self.settings.model_copy(update=plain))

    def ratio(self, pixels: Pixels, k: int, l: int | None = None) -> Float:
        """LLR^{>k}, or with l LLR_{<l}^{>k} (eq. 21), of (N, C, H, W) 8-bit images: (N,) nats.

        Raises ValueError for a k or l that the ladder does not have.
        """
        settings = self.settings
        n_samples, n_k = settings.n_importance_samples, settings.n_importance_samples_k

        @torch.inference_mode()
        def of(one: Pass) -> Tensor:
            noise = self.ladder.by_layer(one.normal)
            upper, lower = ([eps[:size] for eps in noise] for size in (n_samples, n_k))
            with self._precision():
                above = lower_bound(self.ladder, one.x, upper, l=l, proposal=settings.proposal)
                below = lower_bound(self.ladder, one.x, lower, k, proposal=settings.proposal)
            return (above.lower_bound - below.lower_bound)[: one.n]

        return torch.cat(self._side_by_side(of, pixels)).cpu().numpy()

    @torch.inference_mode()
    def bounds(self, one: Pass, visit: Visit | None = None) -> Scores:
        """Every bound of a pass, by PyTorch, as `bounds.score`."""
        settings = self.settings
        with self._precision():
            return score(
                self.ladder,
                one.x,
                self.ladder.by_layer(one.normal),
                settings.n_importance_samples,
                settings.n_importance_samples_k,
                settings.proposal,
                visit,
                one.uniform,
            )

    def _side_by_side(
        self, function: Callable[[Pass], Part], pixels: Pixels, size: int | None = None
    ) -> list[Part]:
        """What a function makes of each pass; on a CPU, of as many passes at once as it has cores.

        size: of the passes, if another will do.
        """
        step = size or self.images_per_pass

        def of(first: int) -> Part:
            with self.computing():
                return function(next(self.passes(pixels[first : first + step], size=step)))

        n_threads = threads() if self.device.type == "cpu" else 0
        with self.computing():
            return list(side_by_side(of, range(0, len(pixels), step), n_threads))

    def passes(
        self,
        pixels: Pixels,
        noises: list[ImageNoise] | None = None,
        size: int | None = None,
    ) -> Iterator[Pass]:
        """Passes of one shape, in order."""
        noises = noises or self.noises([content_key(image) for image in pixels])
        size = size or self.images_per_pass
        for first in range(0, len(pixels), size):
            n = min(size, len(pixels) - first)
            rows = [first + i if i < n else first for i in range(size)]  # the last pass is padded
            uniform, normal = self._noise_of([noises[row] for row in rows])
            batch = torch.from_numpy(pixels[rows]).to(self.device)
            uniform, likelihood = uniform.view(batch.shape), self.ladder.likelihood
            x = likelihood.observe(batch, uniform).contiguous(memory_format=torch.channels_last)
            left = likelihood.remainder(batch, uniform)
            yield Pass(n, x, normal, left, batch, uniform)

    def _noise_of(self, noises: list[ImageNoise]) -> tuple[Tensor, Tensor]:
        """(B, C * H * W) uniform and (S, B, n_latents) normal, on the device."""
        uniform = [noise.uniform for noise in noises if noise.uniform is not None]
        normal = [noise.normal for noise in noises if noise.normal is not None]
        if uniform and normal:
            return torch.stack(uniform), torch.stack(normal, dim=1)
        return self._draw([noise.key for noise in noises])

    def _draw(self, keys: list[bytes]) -> tuple[Tensor, Tensor]:
        uniform = uniforms(keys, self.ladder.config.n_dims, self.device)
        normal = normals(keys, self._n_samples * self.ladder.n_latents, self.device)
        return uniform, normal.unflatten(1, (self._n_samples, -1)).transpose(0, 1)

    @property
    def _n_samples(self) -> int:
        return max(self.settings.n_importance_samples, self.settings.n_importance_samples_k)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the `with` block, the settings of the whole process are as every pass needs them.

        Threads that score at once are inside together, and one that began them around them all.
        """
        with contextlib.ExitStack() as stack:
            if self.device.type == "cpu":
                keep_memory()
                stack.enter_context(one_thread_each())
                stack.enter_context(keeping_large_blocks())
            tf32 = self.settings.precision == "tf32"
            stack.enter_context(float32_products(self.device, "tf32" if tf32 else "ieee"))
            yield

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        """Inside the `with` block, this thread runs the network in the settings' precision."""
        kind, bfloat16 = self.device.type, self.settings.precision == "bfloat16"
        if torch.amp.is_autocast_available(kind):  # switched off, too, if the host has it on
            return torch.autocast(kind, torch.bfloat16, enabled=bfloat16)
        return contextlib.nullcontext()


def _images_per_pass(n_samples: int) -> int:
    """On a CPU: 128, 64 or 32 images, or a single one where the samples are very many."""
    images = IMAGES_PER_PASS
    while images > _FULL_VECTORS and images * n_samples > ROWS_PER_PASS:
        images //= 2
    return images if images * n_samples <= 2 * ROWS_PER_PASS else 1


def _largest_activation(ladder: Ladder) -> int:
    """Numbers in the largest tensor of one row's pass: features, or p(x|z)'s parameters."""
    config = ladder.config
    channels = [config.layers[0].channels, *(layer.channels for layer in config.layers)]
    features = [n * config.feature_size(i) ** 2 for i, n in enumerate(channels)]
    return max(*features, ladder.likelihood.n_parameters * config.image_size**2)
