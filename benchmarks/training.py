"""How fast a training step is, as a ratio within one run.

    python -m benchmarks.training compact-rgb compact-gray
    python -m benchmarks.training --each compact-rgb
    python -m benchmarks.training --profile compact-gray    # where the time of a step goes

Images/s of the step that `hvaeood train` takes, and of a plain eager float32 loop over the same
model: contiguous memory format, plain Adam, and the mixture likelihood as it is usually written,
differentiated by autograd. With --each, what every measure brings alone, those included that
`hvaeood train` does not take by itself. Nothing else should run meanwhile. Each pair is timed in
turn, A B A B ..., and the median of the pairwise ratios is printed; beside it the GFLOP/s of the
convolutions, there and back, and first what the machine reaches in products of matrices.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.runtimes import roofline
from hvaeood_cli.allocator import keep_memory
from hvaeood_cli.model import logistics
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.likelihoods import DiscretizedLogistics
from hvaeood_cli.model.presets import PRESETS, Preset, get_preset
from hvaeood_cli.training.objective import Objective, pressure_at

PAIRS, STEPS, WARM_UP = 5, 4, 2

Step = Callable[[], float]


@dataclass(frozen=True)
class Measures:
    """What can be done about a step. None of it: the plain loop."""

    channels_last: bool = False
    likelihood_by_hand: bool = False
    fused_adam: bool = False
    bfloat16: bool = False
    compiled: bool = False


PLAIN = Measures()
OURS = Measures(channels_last=True, likelihood_by_hand=True)


class Textbook(DiscretizedLogistics):
    """The mixture as PixelCNN++'s code has it: the same function, to rounding, by autograd."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.stride).unflatten(1, (self.channels, -1))
        raw = parameters.float().unflatten(1, (self.n_parameters, -1))  # (B, P, r^2, H / r, W / r)
        n, at_zero = self.channels, logistics.mixture(torch.zeros_like(raw[:1]), self.channels)
        blocks = raw.unflatten(1, (-1, logistics.N_COMPONENTS))
        logits, means, log_sharpness = blocks[:, : 1 + 2 * n].split((1, n, n), dim=1)
        sharpness = (log_sharpness + at_zero.log_sharpness).clamp(-2.0, 7.0).exp()
        located = [*(means + at_zero.means).unbind(1)]  # C times (B, K, ...)
        if n == 3:
            before = x.split(1, dim=1)
            a, b, c = blocks[:, 1 + 2 * n :].tanh().unbind(1)
            located[1] = located[1] + a * before[0]
            located[2] = located[2] + b * before[0] + c * before[1]
        centred = x.unsqueeze(2) - torch.stack(located, dim=1)  # (B, C, K, ...)
        upper = (centred + 1.0 / 255.0) * sharpness
        lower = (centred - 1.0 / 255.0) * sharpness
        inside = (torch.sigmoid(upper) - torch.sigmoid(lower)).clamp(min=1e-12).log()
        value = x.unsqueeze(2)
        log_p = torch.where(value < -0.999, upper - F.softplus(upper), inside)
        log_p = torch.where(value > 0.999, -F.softplus(lower), log_p)
        joint = log_p.sum(1) + logits.squeeze(1).log_softmax(1)  # (B, K, ...)
        return joint.logsumexp(1).flatten(1).sum(1)


def make_step(preset: Preset, measures: Measures) -> Step:
    """One training step on random images; k of the semantic term changes from step to step."""
    torch.manual_seed(0)
    config, settings = preset.model, preset.train
    n = settings.batch_size
    ladder = build_ladder(config)
    if config.likelihood == "logistics" and not measures.likelihood_by_hand:
        ladder.likelihood = Textbook(config.image_channels, config.stem_stride)
    pixels = torch.randint(0, 256, (n, config.image_channels, *[config.image_size] * 2)).byte()
    x = ladder.likelihood.observe(pixels, torch.rand(()))
    if measures.channels_last:
        ladder = ladder.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    fused = True if measures.fused_adam else None
    optimizer = kinds[settings.optimizer](
        ladder.parameters(), lr=settings.learning_rate, fused=fused
    )
    objective = Objective(ladder, settings)
    call = torch.compile(objective) if measures.compiled else objective
    shapes = [ladder.latent_shape(i) for i in range(1, config.n_layers + 1)]
    pressure, n_steps = pressure_at(settings, 0.5), 0
    cast = torch.autocast("cpu", torch.bfloat16) if measures.bfloat16 else contextlib.nullcontext()

    def step() -> float:
        nonlocal n_steps
        n_steps += 1
        k = 1 + n_steps % (config.n_layers - 1) if settings.semantic_weight else None
        noise = [torch.randn(1, n, *shape) for shape in shapes]
        with cast:
            loss, _ = call(x, noise, k, pressure)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ladder.parameters(), settings.gradient_clip)
        optimizer.step()
        return float(loss.detach())

    return step


def seconds(step: Step, n_steps: int) -> float:
    started = time.perf_counter()
    for _ in range(n_steps):
        step()
    return time.perf_counter() - started


def compare(label: str, preset: Preset, measures: Measures) -> None:
    """Time both loops of one preset and print them."""
    plain, ours = (make_step(preset, each) for each in (PLAIN, measures))
    first = [step() for step in (plain, ours)]
    assert abs(first[0] - first[1]) < 0.02 * abs(first[0]), "the same model, the same loss"
    for step in (plain, ours) * WARM_UP:
        step()
    with FlopCounterMode(display=False) as counter:
        ours()
    flops = counter.get_total_flops() / preset.train.batch_size
    n_steps = STEPS * max(1, 64 // preset.train.batch_size)
    pairs = [(seconds(plain, n_steps), seconds(ours, n_steps)) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    n_images = n_steps * preset.train.batch_size
    rates = [n_images / statistics.median(times) for times in zip(*pairs, strict=True)]
    print(
        f"{label:32} {rates[0]:8.1f} {rates[1]:8.1f} images/s  ratio {ratio:.2f}  "
        f"{rates[1] * flops / 1e9:.0f} GFLOP/s",
        flush=True,
    )


def profile(preset: Preset) -> None:
    """The shares of the operations that take most of a step's time."""
    step = make_step(preset, OURS)
    seconds(step, WARM_UP)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        seconds(step, STEPS)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:12]:
        print(f"{event.self_cpu_time_total / total:6.1%}  {event.key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    compact = [name for name in PRESETS if name.startswith("compact")]
    parser.add_argument("presets", nargs="*", default=compact)
    parser.add_argument("--each", action="store_true", help="every measure alone")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    options = parser.parse_args()
    keep_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{torch.backends.cpu.get_cpu_capability()}; plain, ours, ratio")
    roofline(2.0)
    for name in options.presets:
        preset = get_preset(name)
        if options.profile:
            profile(preset)
            continue
        if not options.each:
            compare(name, preset, OURS)
            compare(f"{name}, bf16", preset, replace(OURS, bfloat16=True))
            continue
        for measure in Measures.__dataclass_fields__:
            compare(f"{name}, {measure}", preset, replace(PLAIN, **{measure: True}))


if __name__ == "__main__":
    main()
