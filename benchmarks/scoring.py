"""How fast scoring is, as ratios within one run.

    python -m benchmarks.scoring              # bounds: shared work against the naive way
    python -m benchmarks.scoring runtimes ... # a pass a core, OpenVINO; see benchmarks/runtimes.py
    python -m benchmarks.scoring end-to-end   # PNG files to score file, images/s
    python -m benchmarks.scoring profile      # where the network's time goes, S = 16
    python -m benchmarks.scoring memory       # peak memory, 10,000 against 100,000 images
    python -m benchmarks.scoring noise        # noise of an image, S = 16, against NumPy's own
    python -m benchmarks.scoring device NAME  # a device against a CPU, to the bit; its images/s

Nothing else should run meanwhile. Each pair is timed in turn, A B A B ..., and the median of the
pairwise ratios is printed.
"""

from __future__ import annotations

import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import runtimes
from benchmarks.naive import naive_scores
from hvaeood_cli.allocator import keep_memory
from hvaeood_cli.detector import Detector
from hvaeood_cli.device import choose_device
from hvaeood_cli.images.content import content_key
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.model.layers import fold_weight_norm
from hvaeood_cli.model.presets import PRESETS
from hvaeood_cli.scoring import scorer as scorer_module
from hvaeood_cli.scoring.bounds import score
from hvaeood_cli.scoring.noise import image_key, normals, uniforms
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings

PAIRS = 3
CPU = torch.device("cpu")


def draw(ladder: Ladder, n_samples: int, n_images: int) -> list[torch.Tensor]:
    shapes = [ladder.latent_shape(i) for i in range(1, ladder.n_layers + 1)]
    return [torch.randn(n_samples, n_images, *shape) for shape in shapes]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, slow: Callable[[], object], fast: Callable[[], object], n: int) -> None:
    """Time two ways in turn and print images/s of each and the median ratio."""
    slow(), fast()
    pairs = [(seconds(slow), seconds(fast)) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    rates = [n / statistics.median(times) for times in zip(*pairs, strict=True)]
    print(f"{name:54} {rates[0]:8.1f} {rates[1]:8.1f} images/s  ratio {ratio:.2f}", flush=True)


@torch.inference_mode()
def bounds() -> None:
    """All LLR^{>k} of an image: one call against two full passes for each k, same weights."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{torch.backends.cpu.get_cpu_capability()}; naive, ours, ratio")
    for preset, n_images in (("paper-gray", 16), ("compact-gray", 32)):
        torch.manual_seed(0)
        plain = build_ladder(PRESETS[preset].model).eval()
        x = (torch.rand(n_images, 1, 28, 28) > 0.5).float()
        ours = build_ladder(PRESETS[preset].model).eval()
        ours.load_state_dict(plain.state_dict())
        fold_weight_norm(ours)
        same = build_ladder(PRESETS[preset].model).eval()
        same.load_state_dict(plain.state_dict())
        fold_weight_norm(same)
        ours.to(memory_format=torch.channels_last)
        x_last = x.contiguous(memory_format=torch.channels_last)
        for n_samples in (1, 16):
            noise = draw(plain, n_samples, n_images)
            compare(
                f"{preset}, float32, S = {n_samples}: sharing alone",
                lambda noise=noise: naive_scores(same, x, noise),
                lambda noise=noise: score(same, x, noise, n_samples),
                n_images,
            )
            compare(
                f"{preset}, float32, S = {n_samples}: and folded, channels last",
                lambda noise=noise: naive_scores(plain, x, noise),
                lambda noise=noise: score(ours, x_last, noise, n_samples),
                n_images,
            )
    matrix = torch.randn(512, 512)
    half = matrix.bfloat16()
    full, low = (
        2 * 512**3 * 10 / seconds(lambda m=m: [m @ m for _ in range(10)]) / 1e9
        for m in (matrix, half)
    )
    print(f"512 x 512 matrix product: float32 {full:.0f}, bf16 {low:.1f} GFLOP/s")


def make_folder(folder: Path, n: int) -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (n, 7, 7), np.uint8)
    for i, image in enumerate(coarse):
        Image.fromarray(image).resize((28, 28)).save(folder / f"{i:06d}.png")


def end_to_end() -> None:
    """`ScoringRun.to_file` with the model that ships: reading, scoring and writing."""
    n = 3000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder, n)
        for n_samples, runtime in product((1, 16), ("torch", "openvino")):
            if find_spec(runtime) is None:
                continue
            detector = Detector(n_importance_samples=n_samples, runtime=runtime)
            detector.score(np.zeros((1, 28, 28), np.uint8))  # load the model
            manifest = detector.manifest(str(folder))
            took = [
                seconds(
                    lambda d=detector, m=manifest: d.run(m).to_file(folder / "s.h5", force=True)
                )
                for _ in range(PAIRS)
            ]
            rate = n / statistics.median(took)
            print(
                f"PNG files to score file, S = {n_samples}, {runtime}: {rate:.0f} images/s",
                flush=True,
            )


def profile() -> None:
    """The share of each operation in scoring with the model that ships, S = 16."""
    images = np.random.default_rng(0).integers(0, 256, (128, 28, 28), np.uint8)
    detector = Detector(n_importance_samples=16)
    detector.score(images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        detector.score(images)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:8]:
        print(f"{event.self_cpu_time_total / total:6.1%}  {event.key}")


def noise() -> None:
    """One thread's noise of whole images: NumPy's ziggurat against ours, and ours by tensors."""
    torch.set_num_threads(1)
    n_images = 48
    keys = [image_key(bytes([i]) * 32, 0) for i in range(n_images)]
    for preset in ("compact-gray", "compact-rgb", "paper-rgb-code"):
        config = PRESETS[preset].model
        layers = range(1, config.n_layers + 1)
        n = 16 * sum(math.prod(config.latent_shape(i)) for i in layers)

        def ziggurat(key: bytes, n: int = n) -> None:
            bits = np.random.Philox(key=np.frombuffer(key, "<u8"))
            np.random.Generator(bits).standard_normal(n, dtype=np.float32)

        compare(
            f"{preset}, S = 16, {n:,} numbers an image",
            lambda: [ziggurat(key) for key in keys],
            lambda n=n: [normals([key], n, CPU) for key in keys],
            n_images,
        )


def device(name: str) -> None:
    """That a device's noise is the CPU's; how fast it draws and scores, and in what memory."""
    there = choose_device(name)
    keys = [image_key(bytes([i]) * 32, 0) for i in range(64)]
    for draw in (uniforms, normals):
        same = torch.equal(draw(keys, 100_001, there).cpu(), draw(keys, 100_001, CPU))
        print(f"{draw.__name__} on {there}: {'the same bits' if same else 'NOT the same bits'}")
    for preset in ("compact-gray", "compact-rgb", "paper-rgb-code"):
        ladder = build_ladder(PRESETS[preset].model)
        fold_weight_norm(ladder)
        scorer = Scorer.on(ladder, ScoreSettings(n_importance_samples=16), there)
        size, config = scorer.images_per_pass, ladder.config
        shape = (size, config.image_channels, config.image_size, config.image_size)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        noises = scorer.noises([content_key(image) for image in pixels])
        scorer.score(pixels, noises)
        drawing = [seconds(lambda: finish(scorer._noise_of(noises)[1])) for _ in range(PAIRS)]
        if there.type == "cuda":
            torch.cuda.reset_peak_memory_stats(there)
        scoring = [seconds(lambda: scorer.score(pixels, noises)) for _ in range(PAIRS)]
        rates = [size / statistics.median(took) for took in (drawing, scoring)]
        print(f"{preset}, S = 16: noise {rates[0]:.0f}, scores {rates[1]:.0f} images/s", flush=True)
        if there.type == "cuda":
            largest = 16 * size * scorer_module._largest_activation(ladder) / 2**18  # of float32
            peak = torch.cuda.max_memory_allocated(there) / 2**20
            print(
                f"    {size} images a pass: peak {peak:,.0f} MiB, largest tensor {largest:,.0f} MiB"
            )


def finish(tensor: torch.Tensor) -> None:
    """Wait for a device: its last number has to reach the CPU."""
    tensor.flatten()[-1].item()


def memory() -> None:
    """Peak resident memory of a whole scoring process, by the number of images."""
    for n in (10_000, 100_000):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scoring", "memory-of", str(n)],
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"{n:,} images: peak {int(done.stdout):,} MiB", flush=True)


def memory_of(n: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder, n)
        detector = Detector(n_importance_samples=1)
        detector.run(detector.manifest(str(folder))).to_file(folder / "s.h5")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    keep_memory()
    which = sys.argv[1] if len(sys.argv) > 1 else "bounds"
    if which == "memory-of":
        memory_of(int(sys.argv[2]))
    elif which == "device":
        device(sys.argv[2])
    elif which == "runtimes":
        runtimes.main(sys.argv[2:])
    else:
        commands = {"end-to-end": end_to_end, "profile": profile, "memory": memory, "noise": noise}
        commands.get(which, bounds)()
