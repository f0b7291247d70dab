"""What fewer bits cost: how far scores move where some of a network computes in bfloat16.

    python -m benchmarks.precision fashionmnist train-images-idx3-ubyte.gz#55000:56024 [-S 1]

MODEL and IMAGES. Likelihood and KL stay in float32, as do all sums that a layer makes; what a layer
multiplies, its input and its weights, is rounded to bfloat16: first in one layer after the other,
then in all, and in the middle, which is all but the first and the last layer and those to and from
z. Noise is the same. Printed are the largest and the mean change of LLR^{>k} over all k, the
largest of L^{>k}, how many images come to lie on the other side of the highest 1 % of any LLR^{>k},
and the speed of a pass, in turns with float32, as a ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hvaeood_cli.detector import Detector
from hvaeood_cli.device import one_thread_each
from hvaeood_cli.model.layers import WEIGHTED, FromLatent, ToGaussian
from hvaeood_cli.scoring.scorer import Pass, Scorer
from hvaeood_cli.settings import ScoreSettings

Layers = dict[str, nn.Module]


@contextmanager
def fewer_bits(layers: Collection[nn.Module]) -> Iterator[None]:
    """Inside the `with` block these layers multiply in bfloat16, and sum in float32."""
    backend = torch.backends.mkldnn

    def call(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def rounded(x: Tensor) -> Tensor:
            backend.conv.fp32_precision = backend.matmul.fp32_precision = "bf16"
            try:
                return forward(x)
            finally:
                backend.conv.fp32_precision = backend.matmul.fp32_precision = "ieee"

        return rounded

    for layer in layers:
        layer.forward = call(layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def groups(scorer: Scorer) -> dict[str, Layers]:
    """Each layer by name, and then several at once."""
    ladder = scorer.ladder
    every = {name: layer for name, layer in ladder.named_modules() if isinstance(layer, WEIGHTED)}
    ends = {
        f"{name}.project"
        for name, module in ladder.named_modules()
        if isinstance(module, FromLatent | ToGaussian)
    }
    ends |= {next(iter(every)), next(reversed(every))}
    middle = {name: layer for name, layer in every.items() if name not in ends}
    return {name: {name: layer} for name, layer in every.items()} | {"middle": middle, "all": every}


def bounds(scorer: Scorer, passes: list[Pass]) -> NDArray[np.float64]:
    """L^{>k} of every image, (N, L) nats."""
    parts = [scorer.bounds(one).lower_bound[: one.n] for one in passes]
    return torch.cat(parts).double().numpy()


def llr(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    return lower[:, :1] - lower[:, 1:]


def seconds(scorer: Scorer, one: Pass) -> float:
    began = time.perf_counter()
    scorer.bounds(one)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("-S", "--samples", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    detector = Detector(given.model, device="cpu", n_importance_samples=given.samples)
    pixels = detector.pixels(detector.manifest(given.images))
    settings = ScoreSettings(n_importance_samples=given.samples)
    scorer = Scorer.on(detector.bundle.load_ladder(), settings, torch.device("cpu"))
    with one_thread_each():
        passes = list(scorer.passes(pixels))
        usual = bounds(scorer, passes)
        alone = np.quantile(llr(usual), 0.99, axis=0)  # of each k: about 1 % are above
        print(
            f"{len(pixels)} images, S = {given.samples}, one thread, "
            f"{torch.backends.cpu.get_cpu_capability()}; nats"
        )
        print(f"{'in bfloat16':22} {'LLR: most':>10} {'mean':>8} {'L: most':>8}  decided  speed")
        for name, layers in groups(scorer).items():
            with fewer_bits(layers.values()):
                now = bounds(scorer, passes)
            moved, shifted = np.abs(llr(now) - llr(usual)), np.abs(now - usual)
            others = ((llr(now) > alone) != (llr(usual) > alone)).any(axis=1).sum()
            said = f"{name:22} {moved.max():10.3f} {moved.mean():8.4f} {shifted.max():8.3f}"
            said += f"  {others:7}"
            if len(layers) > 1:
                pairs = []
                for _ in range(given.rounds):
                    before = seconds(scorer, passes[0])
                    with fewer_bits(layers.values()):
                        pairs.append(before / seconds(scorer, passes[0]))
                said += f"  {statistics.median(pairs):.2f}"
            print(said, flush=True)


if __name__ == "__main__":
    main()
