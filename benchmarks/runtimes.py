"""How fast a pass is: as before, the naive way, a pass a core, and by OpenVINO; idle and beside
other work.

    python -m benchmarks.scoring runtimes compact-gray cifar10 [--samples 1 16] [--competitor]

compact-gray and cifar10 are the models that ship, others are presets with untrained weights. All
ways score the same pass, in turns, and the median of the ratios to the first is printed beside
images/s. --competitor: a process for each core works for half of the time, 50 ms in 100.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.naive import naive_scores
from benchmarks.onnx_runtime import onnx_pass
from hvaeood_cli.allocator import keeping_large_blocks
from hvaeood_cli.detector import Detector
from hvaeood_cli.device import one_thread_each, threads
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.layers import fold_weight_norm
from hvaeood_cli.model.presets import PRESETS
from hvaeood_cli.scoring.graph import graph_of
from hvaeood_cli.scoring.scorer import Pass, Scorer
from hvaeood_cli.settings import ScoreSettings

SHIPPED = {"compact-gray": "fashionmnist", "cifar10": "cifar10"}
BUSY = """
import time
while True:
    began = time.perf_counter()
    while time.perf_counter() - began < 0.05:
        pass
    time.sleep(0.05)
"""

_NAIVE = "the naive way"

Work = Callable[[], object]


def rate(work: Work, n_images: int, seconds: float, n_side_by_side: int = 1) -> float:
    """Images/s of threads that repeat work for some seconds; each pass counts by its own time."""
    rates = [0.0] * n_side_by_side
    began = time.perf_counter()

    def repeat(i: int) -> None:
        n = 0
        with ExitStack() as stack:
            if n_side_by_side > 1:
                stack.enter_context(one_thread_each())
            while time.perf_counter() - began < seconds or not n:
                work()
                n += n_images
            rates[i] = n / (time.perf_counter() - began)

    if n_side_by_side == 1:
        repeat(0)
        return rates[0]
    workers = [threading.Thread(target=repeat, args=(i,)) for i in range(n_side_by_side)]
    with one_thread_each():
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return sum(rates)


def scorer_of(name: str, n_samples: int) -> tuple[Scorer, str]:
    """A scorer and a name for its weights."""
    settings = ScoreSettings(n_importance_samples=n_samples)
    if name in SHIPPED:
        bundle = Detector(SHIPPED[name]).bundle
        return Scorer.on(bundle.load_ladder(), settings, torch.device("cpu")), bundle.sha256
    torch.manual_seed(0)
    ladder = build_ladder(PRESETS[name].model)
    fold_weight_norm(ladder)
    return Scorer.on(ladder, settings, torch.device("cpu")), f"untrained {name}"


def pass_of(scorer: Scorer) -> Pass:
    config, random = scorer.config, np.random.default_rng(0)
    shape = (scorer.images_per_pass, config.image_channels, *[config.image_size] * 2)
    return next(scorer.passes(random.integers(0, 256, shape, np.uint8)))


def compare(name: str, n_samples: int, seconds: float, rounds: int, naive: bool) -> None:
    scorer, weights = scorer_of(name, n_samples)
    one, cores = pass_of(scorer), threads()
    n = scorer.images_per_pass
    fewer = max(1, n // 8)  # the naive way takes long
    noise = scorer.ladder.by_layer(one.normal[:, :fewer])
    ways: dict[str, Callable[[], float]] = {
        f"before: a pass over {cores} threads": lambda: rate(lambda: scorer.bounds(one), n, seconds)
    }
    call = torch.inference_mode()(lambda: naive_scores(scorer.ladder, one.x[:fewer], noise))
    if naive:
        ways[_NAIVE] = lambda: rate(call, fewer, seconds)
    ways["a pass a core, torch"] = lambda: rate(lambda: scorer.bounds(one), n, seconds, cores)
    graph = graph_of(scorer, weights)
    by_graph = replace(scorer, network=graph)
    assert by_graph.runtime == graph.runtime
    ways["a pass a core, OpenVINO"] = lambda: rate(lambda: graph(one), n, seconds, cores)
    if find_spec("onnxruntime"):
        by_onnx = onnx_pass(scorer, one)
        ways["a pass a core, ONNX Runtime"] = lambda: rate(by_onnx, n, seconds, cores)
    with keeping_large_blocks():  # as where a run computes
        for way in ways.values():
            way()
        measured = [[way() for way in ways.values()] for _ in range(rounds)]
    shared = operations(lambda: scorer.bounds(one)) / n
    for way, rates in zip(ways, zip(*measured, strict=True), strict=True):
        before = [row[0] for row in measured]
        ratio = statistics.median(a / b for a, b in zip(rates, before, strict=True))
        median = statistics.median(rates)
        each = operations(call) / fewer if way == _NAIVE else shared
        print(
            f"{name}, S = {n_samples}: {way:32} {median:8.1f} images/s  ratio {ratio:5.2f}  "
            f"{median * each / 1e9:5.0f} GFLOP/s, {each / shared:.2f} times the operations",
            flush=True,
        )


def operations(work: Work) -> int:
    """The floating-point operations of its convolutions and products of matrices."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def roofline(seconds: float) -> None:
    """What all cores multiply together, one thread each: the most that a network could reach."""
    cores, matrix = threads(), torch.randn(512, 512)
    out = [torch.empty(512, 512) for _ in range(cores)]
    places = iter(range(10**9))
    per_call = 2 * 512**3 / 1e9
    reached = rate(
        lambda: torch.mm(matrix, matrix, out=out[next(places) % cores]), 1, seconds, cores
    )
    print(f"512 x 512 matrix products, {cores} side by side: {reached * per_call:.0f} GFLOP/s")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scoring runtimes", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(SHIPPED))
    parser.add_argument("--samples", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--naive", action="store_true")
    parser.add_argument("--competitor", action="store_true")
    options = parser.parse_args(arguments)
    beside = "beside a competitor" if options.competitor else "nothing else runs"
    print(f"torch {torch.__version__}, {threads()} cores, ", end="")
    print(f"{torch.backends.cpu.get_cpu_capability()}; {beside}")
    roofline(1.0)
    for name in options.models:  # exported before anything competes
        for n_samples in options.samples:
            graph_of(*scorer_of(name, n_samples))
    competitors = [
        subprocess.Popen([sys.executable, "-c", BUSY])
        for _ in range(threads() if options.competitor else 0)
    ]
    try:
        for name in options.models:
            for n_samples in options.samples:
                compare(name, n_samples, options.seconds, options.rounds, options.naive)
    finally:
        for one in competitors:
            one.kill()
