"""How fast a training step is, as a ratio within one run.

    python -m benchmarks.training compact-rgb compact-gray

Images/s of the step that `hvaeood train` takes, and of a plain eager float32 loop over the same
model: contiguous memory format, weight normalisation kept, plain Adam. Nothing else should run
meanwhile. Each pair is timed in turn, A B A B ..., and the median of the pairwise ratios is
printed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.presets import PRESETS, get_preset
from hvaeood_cli.objective import Objective, pressure_at
from hvaeood_cli.runtime import keep_memory
from hvaeood_cli.settings import TrainSettings

PAIRS, STEPS, WARM_UP, BATCH = 5, 4, 2, 64

Step = Callable[[], None]


def make_step(config: ModelConfig, settings: TrainSettings, ours: bool) -> Step:
    """One training step on random images; k of the semantic term changes from step to step."""
    torch.manual_seed(0)
    ladder = build_ladder(config)
    x = ladder.likelihood.observe(
        torch.randint(0, 256, (BATCH, config.image_channels, *[config.image_size] * 2)).byte(),
        torch.rand(()),
    )
    if ours:
        ladder = ladder.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[settings.optimizer](ladder.parameters(), lr=settings.learning_rate)
    else:
        optimizer = torch.optim.Adam(ladder.parameters(), lr=settings.learning_rate)
    objective = Objective(ladder, settings)
    shapes = [ladder.latent_shape(i) for i in range(1, config.n_layers + 1)]
    pressure, n_steps = pressure_at(settings, 0.5), 0

    def step() -> None:
        nonlocal n_steps
        n_steps += 1
        k = 1 + n_steps % (config.n_layers - 1) if settings.semantic_weight else None
        noise = [torch.randn(1, BATCH, *shape) for shape in shapes]
        loss, _ = objective(x, noise, k, pressure)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ladder.parameters(), settings.gradient_clip)
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    return time.perf_counter() - started


def compare(name: str) -> None:
    """Time both loops of one preset and print them."""
    preset = get_preset(name)
    plain, ours = (make_step(preset.model, preset.train, ours) for ours in (False, True))
    for step in (plain, ours) * WARM_UP:
        step()
    pairs = [(seconds(plain), seconds(ours)) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    rates = [STEPS * BATCH / statistics.median(times) for times in zip(*pairs, strict=True)]
    print(f"{name:20} {rates[0]:8.1f} {rates[1]:8.1f} images/s  ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    keep_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{torch.backends.cpu.get_cpu_capability()}, batches of {BATCH}; plain, ours, ratio")
    for preset_name in sys.argv[1:] or [name for name in PRESETS if name.startswith("compact")]:
        compare(preset_name)
