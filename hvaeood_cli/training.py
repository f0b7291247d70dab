"""Training a ladder: one loop, resumable at every checkpoint, deterministic for a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from hvaeood_cli.bounds import bits_per_dim, score
from hvaeood_cli.checkpoint import Checkpoints
from hvaeood_cli.errors import TrainingError
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.initialisation import initialise_from_data
from hvaeood_cli.model.ladder import Ladder, Noise
from hvaeood_cli.model.layers import fold_weight_norm
from hvaeood_cli.objective import Objective, Terms, pressure_at
from hvaeood_cli.runtime import keep_memory, seeded_generator
from hvaeood_cli.settings import Precision, TrainSettings

Pixels = NDArray[np.uint8]

CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """What a progress line shows; means over the steps since the epoch began, nats."""

    epoch: int
    fraction: float  # of the run, 0 to 1
    elbo: float
    log_px: float
    kl: list[float]
    images_per_second: float
    seconds_left: float


@dataclass
class State:
    """Where a run stands. Everything here is in the checkpoint, and nothing else is needed."""

    step: int = 0
    seconds: float = 0.0  # spent training, over all sittings
    curve: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    ladder: Ladder
    state: State
    n_parameters: int


def train(
    pixels: Pixels,
    validation: Pixels,
    config: ModelConfig,
    settings: TrainSettings,
    checkpoints: Checkpoints,
    device: torch.device,
    precision: Precision = "32-true",
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train on `pixels` (N, C, H, W) uint8, or continue where the last checkpoint stands.

    validation: images for the curve alone; no choice is made by them. The same arguments give
    the same weights, however often the run was cut and resumed, except under
    `settings.minutes`, where the clock has a say. force: drop the checkpoints of another run.
    stop: asked after every step; when it says yes, a checkpoint is saved and KeyboardInterrupt
    raised.
    Raises TrainingError when the loss or its gradient stops being finite, and says which term
    did: the last checkpoint stays.
    """
    keep_memory()
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
    torch.manual_seed(seeded_generator(settings.seed, "weights").initial_seed())
    ladder: Ladder = build_ladder(config).to(memory_format=torch.channels_last)
    data = torch.from_numpy(np.ascontiguousarray(pixels))
    steps_an_epoch = math.ceil(len(data) / settings.batch_size)
    n_steps = settings.epochs * steps_an_epoch

    objective = Objective(ladder, settings)
    optimizer = _optimizer(ladder, settings)
    state = State()
    saved = checkpoints.latest(force)
    if saved is not None:
        state = State(**saved.restore(ladder, optimizer))
    elif config.weight_norm:
        first = data[_order(settings.seed, 0, len(data))[: settings.batch_size]]
        x, noise, _ = _draw(ladder, first, settings, step=-1)
        initialise_from_data(ladder, lambda: objective(x, noise, 1, pressure_at(settings, 0.0)))
    wrapped, optimizer = fabric.setup(objective, optimizer)
    wrapped.train()

    started, resumed_seconds = time.monotonic(), state.seconds
    last_saved = last_reported = started
    means = _Means()

    def elapsed() -> float:
        return resumed_seconds + time.monotonic() - started

    def fraction() -> float:
        by_steps = state.step / n_steps
        if settings.minutes is None:
            return by_steps
        return max(by_steps, elapsed() / (60.0 * settings.minutes))

    while state.step < n_steps and fraction() < 1.0:
        epoch, position = divmod(state.step, steps_an_epoch)
        begin = position * settings.batch_size
        rows = _order(settings.seed, epoch, len(data))[begin : begin + settings.batch_size]
        x, noise, k = _draw(ladder, data[rows], settings, state.step)
        pressure = pressure_at(settings, fraction())
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * pressure.learning_rate

        loss, terms = wrapped(
            fabric.to_device(x), [fabric.to_device(eps) for eps in noise], k, pressure
        )
        _check_finite(loss, terms, state.step)
        optimizer.zero_grad()
        fabric.backward(loss)
        norm = fabric.clip_gradients(
            wrapped, optimizer, max_norm=settings.gradient_clip, error_if_nonfinite=False
        )
        if precision != "16-mixed":  # there the scaler skips such a step and lowers its scale
            _check_gradient(norm, state.step)
        optimizer.step()
        state.step += 1
        state.seconds = elapsed()
        means.add(terms, len(rows))

        now = time.monotonic()
        done = state.step == n_steps or fraction() >= 1.0
        if now - last_reported > REPORT_SECONDS or done:
            last_reported = now
            report(means.progress(epoch + 1, fraction(), state.seconds))
        if position + 1 == steps_an_epoch or done:
            state.curve.append(
                {"epoch": epoch + 1, "step": state.step, "seconds": round(state.seconds, 1)}
                | means.entry()
                | evaluate(ladder, validation, settings, device)
            )
            means = _Means()
        stopping = stop()
        if now - last_saved > CHECKPOINT_SECONDS or stopping:
            last_saved = now
            checkpoints.save(ladder, optimizer, asdict(state), state.step)
        if stopping and not done:
            raise KeyboardInterrupt

    n_parameters = sum(p.numel() for p in ladder.parameters())
    fold_weight_norm(ladder)
    return Trained(ladder.cpu().eval(), state, n_parameters)


@torch.no_grad()
def evaluate(
    ladder: Ladder, pixels: Pixels, settings: TrainSettings, device: torch.device
) -> dict[str, Any]:
    """The bounds of held-out images with one sample, means in nats, for the curve."""
    if len(pixels) == 0:
        return {}
    ladder.eval()
    sums = np.zeros(ladder.n_layers)
    for begin in range(0, len(pixels), settings.batch_size):
        batch = torch.from_numpy(pixels[begin : begin + settings.batch_size])
        x, noise, _ = _draw(ladder, batch, settings, step=-2 - begin)
        scores = score(ladder, x.to(device), [eps.to(device) for eps in noise])
        sums += scores.lower_bound.double().sum(0).cpu().numpy()
    ladder.train()
    lower = sums / len(pixels)
    bits = bits_per_dim(lower, ladder.config.n_dims)
    return {
        "validation_lower_bound": [round(float(v), 3) for v in lower],
        "validation_bits_per_dim": [round(float(v), 4) for v in bits],
    }


def _order(seed: int, epoch: int, n: int) -> Tensor:
    """The shuffle of one epoch, a function of the seed and the epoch alone."""
    return torch.randperm(n, generator=seeded_generator(seed, "order", epoch))


def _draw(
    ladder: Ladder, pixels: Tensor, settings: TrainSettings, step: int
) -> tuple[Tensor, Noise, int | None]:
    """A batch observed anew, its latents' noise, and k of the semantic term; keyed by the step."""
    generator = seeded_generator(settings.seed, "step", step)
    uniform = torch.rand(pixels.shape, generator=generator)
    x = ladder.likelihood.observe(pixels, uniform).contiguous(memory_format=torch.channels_last)
    n = len(pixels)
    layers = range(1, ladder.n_layers + 1)
    noise = [torch.randn(1, n, *ladder.latent_shape(i), generator=generator) for i in layers]
    if settings.semantic_weight == 0.0:
        return x, noise, None
    return x, noise, int(torch.randint(1, ladder.n_layers, (), generator=generator))


def _optimizer(ladder: Ladder, settings: TrainSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(ladder.parameters(), lr=settings.learning_rate)
    return torch.optim.AdamW(
        ladder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def _check_finite(loss: Tensor, terms: Terms, step: int) -> None:
    if torch.isfinite(loss):
        return
    named = {"log p(x|z)": terms.log_px}
    named |= {f"KL of z_{i}": kl for i, kl in enumerate(terms.kl, start=1)}
    bad = [name for name, value in named.items() if not torch.isfinite(value)]
    raise _diverged("the loss", step, " and ".join(bad) or "the semantic term L^{>k}")


def _check_gradient(norm: Tensor | None, step: int) -> None:
    if norm is not None and not torch.isfinite(norm):
        raise _diverged("the gradient", step, "the loss is still finite")


def _diverged(what: str, step: int, where: str) -> TrainingError:
    return TrainingError(
        f"{what} is not finite at step {step}: {where}",
        "the last checkpoint is kept; try a lower --learning-rate",
    )


class _Means:
    """Running means of the terms since the epoch began."""

    def __init__(self) -> None:
        self.sums: Terms | None = None
        self.n = self.images = 0
        self.started = time.monotonic()

    def add(self, terms: Terms, n_images: int) -> None:
        if self.sums is None:
            self.sums = terms
        else:
            self.sums = Terms(*(a + b for a, b in zip(self.sums, terms, strict=True)))
        self.n += 1
        self.images += n_images

    def entry(self) -> dict[str, Any]:
        """For the curve."""
        if self.sums is None:
            return {}
        elbo, log_px, kl, semantic = (term.cpu() / self.n for term in self.sums)
        entry = {
            "elbo": round(float(elbo), 3),
            "log_px": round(float(log_px), 3),
            "kl": [round(float(v), 3) for v in kl],
        }
        if torch.isfinite(semantic):
            entry["semantic"] = round(float(semantic), 3)
        return entry

    def progress(self, epoch: int, fraction: float, seconds: float) -> Progress:
        entry = self.entry()
        return Progress(
            epoch=epoch,
            fraction=min(fraction, 1.0),
            elbo=entry["elbo"],
            log_px=entry["log_px"],
            kl=entry["kl"],
            images_per_second=self.images / max(time.monotonic() - self.started, 1e-9),
            seconds_left=seconds / max(fraction, 1e-9) * max(0.0, 1.0 - fraction),
        )
