"""The training loop: deterministic, and resumable from every checkpoint.

Several processes share each batch, so that the weights are those of one process but for rounding.
Only process 0 writes files, and its clock is the one that counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hvaeood_cli.allocator import keep_memory
from hvaeood_cli.device import (
    one_thread_each,
    seeded_generator,
    threads,
    training_products,
)
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.initialisation import initialise_from_data, narrow_posteriors
from hvaeood_cli.model.ladder import Ladder, Noise
from hvaeood_cli.model.layers import fold_weight_norm
from hvaeood_cli.model.stages import ConvolutionalLadder
from hvaeood_cli.scoring.bounds import bits_per_dim, score
from hvaeood_cli.scoring.noise import normals, step_key, uniforms
from hvaeood_cli.scoring.side_by_side import side_by_side
from hvaeood_cli.settings import TrainSettings
from hvaeood_cli.training.checkpoint import Checkpoint, Checkpoints
from hvaeood_cli.training.learner import Learner, Share
from hvaeood_cli.training.objective import Objective, Terms, pressure_at
from hvaeood_cli.training.pixels import PixelRows

Pixels = NDArray[np.uint8]

CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 1.0
# How far ahead a device that is no CPU draws its noise: steps at most, and numbers at most, which
# bound its memory.
_STEPS_AHEAD, _NUMBERS_AHEAD = 64, 1 << 22


@dataclass(frozen=True)
class Progress:
    """What a progress line shows. ELBO and terms are means since the epoch began, in nats."""

    epoch: int
    fraction: float  # of the run, 0 to 1
    elbo: float
    log_px: float
    kl: list[float]
    skipped: int  # steps so far whose gradient was not used
    images_per_second: float
    seconds_left: float


@dataclass
class State:
    """Where a run stands, besides weights and optimiser. A checkpoint holds all of it."""

    step: int = 0
    seconds: float = 0.0  # spent training, over all sittings
    skipped: int = 0  # steps whose gradient was not used
    curve: list[dict[str, Any]] = field(default_factory=list)  # one entry for each epoch


@dataclass(frozen=True)
class Run:
    """A training run in memory, on its device and ready for the next step."""

    ladder: ConvolutionalLadder
    learner: Learner
    average: AveragedModel | None  # of the weights, where one is kept
    state: State

    @property
    def chosen(self) -> ConvolutionalLadder:
        """The ladder with the weights to keep: their average, or else the last ones."""
        return self.ladder if self.average is None else cast(Any, self.average.module)

    def save(self, checkpoints: Checkpoints) -> None:
        state = asdict(self.state) | {"learner": self.learner.state()}
        optimizer = self.learner.optimizer
        checkpoints.save(self.ladder, optimizer, self.average, state, self.state.step)

    def restored(self, saved: Checkpoint) -> Run:
        """This run as the checkpoint left it."""
        state = saved.restore(self.ladder, self.learner.optimizer, self.average)
        self.learner.restore(state.pop("learner"))
        return replace(self, state=State(**state))


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    ladder: Ladder  # on the device that it was trained on
    state: State
    n_parameters: int


def train(
    pixels: PixelRows | Pixels,
    validation: Pixels,
    config: ModelConfig,
    settings: TrainSettings,
    checkpoints: Checkpoints,
    fabric: Fabric,
    force: bool = False,
    compiled: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
    reserved_seconds: float = 0.0,
) -> Trained:
    """Train on `pixels`, (N, C, H, W) uint8, or continue where the last checkpoint stands.

    validation: images for the curve; they change nothing else. fabric: launched, with its device,
    precision and processes. force: remove the checkpoints of another run. compiled: compile the
    objective by torch.compile. checkpoint_seconds: how often to save. stop: called after every
    step; if it returns True, a checkpoint is saved and KeyboardInterrupt raised. report: called
    about once a second. reserved_seconds: of `settings.minutes`, what is needed for other work; at
    most half of it is given.

    The same arguments give the same weights, however often the run was interrupted and resumed,
    except under `settings.minutes`, where the clock decides. Raises TrainingError, and keeps the
    last checkpoint, when a term of the loss is not finite, or when no step has had a usable
    gradient for a while.
    """
    keep_memory()
    data = PixelRows.of(pixels)
    steps_an_epoch = math.ceil(len(data) / settings.batch_size)
    n_steps = settings.epochs * steps_an_epoch
    with training_products(fabric):
        saved = checkpoints.latest(force)
        run = begin(data, config, settings, fabric, saved, compiled)
        state = run.state
        started, resumed_seconds = time.monotonic(), state.seconds
        last_saved = last_reported = started
        means, stopping = _Means(fabric.world_size), False
        ahead = _Ahead.on(fabric.device, run.ladder, settings)
        first = fabric.is_global_zero

        budget = 60.0 * (settings.minutes or math.inf)
        budget -= min(reserved_seconds, 0.5 * budget)

        def fraction() -> float:
            return max(state.step / n_steps, state.seconds / budget)

        while state.step < n_steps and fraction() < 1.0:
            epoch, position = divmod(state.step, steps_an_epoch)
            start = position * settings.batch_size
            rows = _order(settings.seed, epoch, len(data))[start : start + settings.batch_size]
            mine = Share.of(len(rows), fabric)
            batch = torch.from_numpy(data[rows[mine.rows]]).to(fabric.device)
            x, noise, k = _draw(run.ladder, batch, settings, state.step, ahead, mine)
            pressure = pressure_at(settings, fraction())
            parts = list(mine.parts(x, noise, settings.accumulate))
            if run.learner.step(parts, k, pressure, state.step, means.add):
                if run.average is not None:
                    run.average.update_parameters(run.ladder)
            else:
                state.skipped += 1
            state.step += 1
            elapsed = resumed_seconds + time.monotonic() - started
            state.seconds, stopping = _agree(fabric, elapsed, stop())

            now = time.monotonic()
            done = state.step == n_steps or fraction() >= 1.0
            if now - last_reported > REPORT_SECONDS or done:
                last_reported = now
                report(means.progress(epoch + 1, fraction(), state))
            if position + 1 == steps_an_epoch or done:
                entry = {"epoch": epoch + 1, "step": state.step, "seconds": round(state.seconds, 1)}
                entry |= {"skipped": state.skipped} | means.entry()
                if first:
                    entry |= evaluate(run.chosen, validation, settings, fabric.device)
                state.curve.append(entry)
                means = _Means(fabric.world_size)
            if first and (now - last_saved > checkpoint_seconds or stopping or done):
                last_saved = now
                run.save(checkpoints)
            if stopping and not done:
                fabric.barrier()  # until process 0 has written the checkpoint
                raise KeyboardInterrupt

    final = run.chosen
    n_parameters = sum(p.numel() for p in final.parameters())
    fold_weight_norm(final)
    return Trained(final.eval(), state, n_parameters)


def begin(
    data: PixelRows,
    config: ModelConfig,
    settings: TrainSettings,
    fabric: Fabric,
    saved: Checkpoint | None = None,
    compiled: bool = False,
) -> Run:
    """A run before its first step, or as the checkpoint `saved` left it.

    Everything is put on its device before it is restored: an optimiser's moments follow their
    parameters only when they are loaded, and stay behind when the parameters move later.
    """
    ladder = build_seeded(config, settings.seed).to(
        device=fabric.device,
        memory_format=torch.channels_last,  # type: ignore[call-overload]
    )
    objective = Objective(ladder, settings)
    if saved is None:
        _initialise(ladder, objective, data, settings, fabric.device)
    average = _average(ladder, settings.ema)
    learner = Learner(fabric, objective, _optimizer(ladder, settings), settings, compiled)
    run = Run(ladder, learner, average, State())
    return run if saved is None else run.restored(saved)


def build_seeded(config: ModelConfig, seed: int) -> ConvolutionalLadder:
    """An untrained ladder with weights drawn by the seed; PyTorch's generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeded_generator(seed, "weights").initial_seed())
        return build_ladder(config)


def evaluate(
    ladder: Ladder, pixels: Pixels, settings: TrainSettings, device: torch.device
) -> dict[str, Any]:
    """Mean bounds of held-out images with one sample, in nats and bits/dim, for the curve."""
    if len(pixels) == 0:
        return {}

    @torch.no_grad()
    def summed(start: int) -> NDArray[np.float64]:
        batch = torch.from_numpy(pixels[start : start + settings.batch_size]).to(device)
        x, noise, _ = _draw(ladder, batch, settings, step=-2 - start)
        lower = score(ladder, x, noise).lower_bound  # (B, L)
        total: NDArray[np.float64] = lower.cpu().double().sum(0).numpy()
        return total

    ladder.eval()
    starts = range(0, len(pixels), settings.batch_size)
    on_cpu = device.type == "cpu"
    n_threads = threads() if on_cpu else 0
    with one_thread_each() if on_cpu else nullcontext():
        sums = np.sum(list(side_by_side(summed, starts, n_threads)), axis=0)
    ladder.train()
    lower = sums / len(pixels)
    if not np.isfinite(lower).all():  # for which neither JSON nor a curve has a place
        return {}
    bits = bits_per_dim(lower, ladder.config.n_dims)
    return {
        "validation_lower_bound": [round(float(v), 3) for v in lower],
        "validation_bits_per_dim": [round(float(v), 4) for v in bits],
    }


def _initialise(
    ladder: ConvolutionalLadder,
    objective: Objective,
    data: PixelRows,
    settings: TrainSettings,
    device: torch.device,
) -> None:
    """Set weights and biases before the first step, where their layers' own choice is not kept."""
    if ladder.config.weight_norm:
        batch = data[_order(settings.seed, 0, len(data))[: settings.batch_size]]
        x, noise, _ = _draw(ladder, torch.from_numpy(batch).to(device), settings, step=-1)
        initialise_from_data(ladder, lambda: objective(x, noise, 1, pressure_at(settings, 0.0)))
    narrow_posteriors(ladder, settings.posterior_scale)


@lru_cache(maxsize=1)  # every step of the epoch asks for it
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The shuffle of one epoch, a function of the seed and the epoch alone."""
    return torch.randperm(n, generator=seeded_generator(seed, "order", epoch)).numpy()


@dataclass
class _Ahead:
    """The numbers of one step after another; on a device that is no CPU, of several steps at once.

    There a draw is hundreds of kernels, most of them shorter than their launch. Each step has a key
    of its own, so that its numbers are the same whatever is drawn beside them.
    """

    seed: int
    sizes: tuple[int, int]  # of a whole batch: uniform and normal numbers
    device: torch.device
    n_steps: int  # to draw at once
    steps: range = range(0)  # that have been drawn
    drawn: tuple[Tensor, Tensor] | None = None  # (steps, n) uniform and (steps, m) normal

    @classmethod
    def on(cls, device: torch.device, ladder: Ladder, settings: TrainSettings) -> _Ahead:
        sizes = (settings.batch_size * ladder.config.n_dims, settings.batch_size * ladder.n_latents)
        few = max(1, min(_STEPS_AHEAD, _NUMBERS_AHEAD // sum(sizes)))
        return cls(settings.seed, sizes, device, 1 if device.type == "cpu" else few)

    def of(self, step: int) -> tuple[Tensor, Tensor]:
        """Uniform and normal numbers of a step, as many as a whole batch takes."""
        if self.drawn is None or step not in self.steps:
            self.steps = range(step, step + self.n_steps)
            keys = [step_key(self.seed, each) for each in self.steps]
            n_uniform, n_normal = self.sizes
            self.drawn = None  # its memory is for those to come
            self.drawn = (
                uniforms(keys, n_uniform, self.device),
                normals(keys, n_normal, self.device),
            )
        uniform, normal = self.drawn
        return uniform[step - self.steps.start], normal[step - self.steps.start]


def _draw(
    ladder: Ladder,
    pixels: Tensor,
    settings: TrainSettings,
    step: int,
    ahead: _Ahead | None = None,
    share: Share | None = None,
) -> tuple[Tensor, Noise, int | None]:
    """A batch observed anew, its latents' noise, and k of the semantic term; keyed by the step.

    pixels: (B, C, H, W) uint8, on the device that makes the noise. It is the same on every device.
    ahead: what draws for several steps at once; None where no step follows. A smaller batch takes
    the first numbers of a whole one. share: which images of the batch these are; None for all. Each
    gets the numbers of its place in the batch, whoever draws them.
    """
    n, rows = (len(pixels), slice(None)) if share is None else (share.of_batch, share.rows)
    sizes = (n * pixels[0].numel(), n * ladder.n_latents)
    numbers = ahead or _Ahead(settings.seed, sizes, pixels.device, 1)
    uniform, normal = (row[:n] for row, n in zip(numbers.of(step), sizes, strict=True))
    uniform = uniform.view(n, *pixels.shape[1:])[rows]
    x = ladder.likelihood.observe(pixels, uniform).contiguous(memory_format=torch.channels_last)
    noise = ladder.by_layer(normal.view(1, n, -1)[:, rows])
    if settings.semantic_weight == 0.0:
        return x, noise, None
    generator = seeded_generator(settings.seed, "k", step)
    return x, noise, int(torch.randint(1, ladder.n_layers, (), generator=generator))


def _agree(fabric: Fabric, seconds: float, stop: bool) -> tuple[float, bool]:
    """Give every process the seconds of process 0, and its answer whether to stop."""
    if fabric.world_size == 1:
        return seconds, stop
    seconds, stop = fabric.broadcast((seconds, stop))
    return seconds, stop


def _average(ladder: Ladder, decay: float) -> AveragedModel | None:
    """A copy that will keep an exponential moving average of the weights; None without a decay."""
    if decay == 0.0:
        return None
    return AveragedModel(ladder, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _optimizer(ladder: Ladder, settings: TrainSettings) -> Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(ladder.parameters(), lr=settings.learning_rate)
    return torch.optim.AdamW(
        ladder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


class _Means:
    """Running means of the terms since the epoch began, over this process's images."""

    def __init__(self, n_processes: int) -> None:
        self.n_processes = n_processes
        self.sums: Terms | None = None
        self.n = self.images = 0
        self.started = time.monotonic()

    def add(self, terms: Terms, n_images: int) -> None:
        if self.sums is None:
            self.sums = terms
        else:
            self.sums = Terms(*(a + b for a, b in zip(self.sums, terms, strict=True)))
        self.n += 1
        self.images += n_images * self.n_processes

    def entry(self) -> dict[str, Any]:
        """The means as an entry of the curve."""
        if self.sums is None:
            return {}
        means = Terms(*(term.cpu() / self.n for term in self.sums))
        entry = {
            "elbo": round(float(means.elbo), 3),
            "log_px": round(float(means.log_px), 3),
            "kl": [round(float(v), 3) for v in means.kl],
        }
        if torch.isfinite(means.semantic):
            entry["semantic"] = round(float(means.semantic), 3)
        return entry

    def progress(self, epoch: int, fraction: float, state: State) -> Progress:
        entry = self.entry()
        return Progress(
            epoch=epoch,
            fraction=min(fraction, 1.0),
            elbo=entry["elbo"],
            log_px=entry["log_px"],
            kl=entry["kl"],
            skipped=state.skipped,
            images_per_second=self.images / max(time.monotonic() - self.started, 1e-9),
            seconds_left=state.seconds / max(fraction, 1e-9) * max(0.0, 1.0 - fraction),
        )
