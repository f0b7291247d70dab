"""A pass as one graph, from x and noise to every bound, that OpenVINO computes on a CPU.

The noise stays outside, so that every runtime sees the same numbers. A graph is exported from
`bounds.score` itself and held against PyTorch before it is used: it is refused if it differs by
more than `tolerance`.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hvaeood_cli.device import one_thread_each, threads
from hvaeood_cli.errors import UsageError
from hvaeood_cli.kept import keep, kept
from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.scoring.bounds import Scores, score
from hvaeood_cli.scoring.scorer import Pass, Scorer
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.version import __version__

INSTALL = "pip install 'hvaeood[openvino]', or --runtime torch"
_CODE = Path(__file__).parents[1]


def runtime_name() -> str:
    """What score files call it, such as "openvino 2026.4.1". Raises UsageError where it is not."""
    try:
        return f"openvino {version('openvino')}"
    except PackageNotFoundError:
        raise UsageError("OpenVINO is not installed", INSTALL) from None


class Graph:
    """A compiled graph: a `Network`, which several threads may call at once."""

    def __init__(self, compiled: Any) -> None:
        self.runtime = runtime_name()
        self._compiled = compiled
        self._here = threading.local()  # requests hold memory: each thread has its own

    def __call__(self, one: Pass) -> Scores:
        """Every bound of a pass."""
        if not hasattr(self._here, "request"):
            self._here.request = self._compiled.create_infer_request()
        inputs = [tensor.contiguous().numpy() for tensor in (one.x, one.normal, one.uniform)]
        results = self._here.request.infer(inputs, share_inputs=True)
        return Scores(*(torch.from_numpy(results[i].copy()) for i in range(len(Scores._fields))))


def graph_of(scorer: Scorer, model_sha256: str) -> Graph:
    """The graph of a scorer's passes, from the cache if it is there.

    Raises UsageError where there is no OpenVINO, or it cannot compute this model as PyTorch does.
    """
    _check_suits(scorer)
    runtime_name()
    with _errors():
        import openvino

        core = openvino.Core()
        configuration = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": threads(),  # a pass a core, one thread inside each
            "INFERENCE_NUM_THREADS": threads(),
            "ENABLE_CPU_PINNING": False,
        }
        known = _identity(scorer, model_sha256)
        blob = kept("graphs", known)
        if blob is not None:
            return Graph(core.import_model(io.BytesIO(blob), "CPU", configuration))
        compiled = core.compile_model(_exported(scorer), "CPU", configuration)
        graph = Graph(compiled)
        _check_same(scorer, graph)
        keep("graphs", known, compiled.export_model().getvalue())
        return graph


def _check_suits(scorer: Scorer) -> None:
    """Raise UsageError for what OpenVINO is not asked to compute."""
    kind, precision = scorer.device.type, scorer.settings.precision
    if kind != "cpu":
        raise UsageError(f"OpenVINO is for the CPU, not for {kind}", "--runtime torch")
    if precision != "float32":
        raise UsageError(f"OpenVINO scores in float32, not in {precision}", "--runtime torch")


@contextmanager
def _errors() -> Iterator[None]:
    """Raise UsageError for whatever export, conversion and OpenVINO's own code raise."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UsageError(
            f"OpenVINO cannot compute this model here: {reason}", "--runtime torch"
        ) from None


def tolerance(bound: NDArray[np.float32]) -> NDArray[np.float64]:
    """The most that a bound, in nats, may differ from PyTorch's: rounding, and no more."""
    return 0.005 + 1e-5 * np.abs(bound, dtype=np.float64)


def _identity(scorer: Scorer, model_sha256: str) -> dict[str, Any]:
    """All that a graph depends on. Of another processor, it is another."""
    import openvino

    core, code = openvino.Core(), hashlib.sha256()
    for path in sorted([*_CODE.glob("model/*.py"), *_CODE.glob("scoring/*.py")]):
        code.update(path.read_bytes())
    return {
        "model_sha256": model_sha256,
        **scorer.settings.model_dump(exclude={"seed", "statistics"}),
        "images_per_pass": scorer.images_per_pass,
        "versions": [__version__, torch.__version__, version("openvino")],
        "code": code.hexdigest(),
        "processor": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "features": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "vector": torch.backends.cpu.get_cpu_capability(),
    }


class _Pass(nn.Module):
    """`bounds.score` with its settings, as a module that can be exported."""

    def __init__(self, ladder: Ladder, settings: ScoreSettings) -> None:
        super().__init__()
        self.ladder, self.settings = ladder, settings

    def forward(self, x: Tensor, normal: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        settings, noise = self.settings, self.ladder.by_layer(normal)
        n_samples, n_k = settings.n_importance_samples, settings.n_importance_samples_k
        return tuple(
            score(self.ladder, x, noise, n_samples, n_k, settings.proposal, uniform=uniform)
        )


def _exported(scorer: Scorer) -> Any:
    """The graph of one pass, as OpenVINO's model of fixed shapes."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    ladder = copy.deepcopy(scorer.ladder).to(memory_format=torch.contiguous_format)
    pixels = _noise_pixels(scorer)
    one = next(scorer.passes(pixels))
    example = tuple(tensor.contiguous() for tensor in (one.x, one.normal, one.uniform))
    with _silence(), one_thread_each(), torch.no_grad():
        exported = torch.export.export(_Pass(ladder, scorer.settings), example, strict=False)
        decoder = TorchFXPythonDecoder.from_exported_program(exported, dynamic_shapes=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        # not by openvino.convert_model, which reports its use to Intel
        model = frontend.convert(frontend.load(decoder))
    model.reshape({i: list(tensor.shape) for i, tensor in enumerate(example)})
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Inside the `with` block, libraries neither warn nor log about their own tables."""
    before, root, nowhere = logging.root.manager.disable, logging.getLogger(), logging.NullHandler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        root.addHandler(nowhere)  # else the first message would set up the host's logging
        try:
            yield
        finally:
            root.removeHandler(nowhere)
            logging.disable(before)


def _check_same(scorer: Scorer, graph: Graph) -> None:
    """Raise UsageError where the graph's bounds are not PyTorch's."""
    one = next(scorer.passes(_noise_pixels(scorer)))
    with scorer.computing():
        there = scorer.bounds(one)
    here = graph(one)
    for name in ("lower_bound", "log_px"):
        bound = getattr(there, name).numpy()
        difference = np.abs(getattr(here, name).numpy() - bound)
        if not (difference <= tolerance(bound)).all():
            raise UsageError(
                f"OpenVINO's {name} differs from PyTorch's by {np.nanmax(difference):.3g} nats",
                "--runtime torch",
            )


def _noise_pixels(scorer: Scorer) -> NDArray[np.uint8]:
    """A pass of images: half of them smooth, half of them noise."""
    config, random = scorer.config, np.random.Generator(np.random.Philox(key=0))
    shape = (scorer.images_per_pass, config.image_channels, config.image_size, config.image_size)
    pixels = random.integers(0, 256, shape, np.uint8)
    ramp = np.linspace(0, 255, config.image_size)
    pixels[::2] = (ramp[:, None] * ramp[None, :] / 255.0).astype(np.uint8)
    return pixels
