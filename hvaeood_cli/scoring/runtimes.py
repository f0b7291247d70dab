"""Which runtime computes a run's passes: PyTorch, or OpenVINO where that is asked for."""

from __future__ import annotations

from dataclasses import replace

from hvaeood_cli.device import threads
from hvaeood_cli.errors import StoreError, UsageError
from hvaeood_cli.model.bundle import Bundle
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.graph import graph_of, runtime_name
from hvaeood_cli.scoring.scorer import Scorer

LONG = 500  # passes a core of a run, from which exporting a graph pays

_FASTER = "scored by torch; --runtime openvino makes long runs on a CPU faster"


def named_runtime(name: str) -> str:
    """The runtime as score files name it: "torch" or "openvino VERSION"; of "auto" nothing.

    Raises UsageError for a name that is none, and for one that is not installed.
    """
    if name not in ("auto", "torch", "openvino"):
        raise UsageError(f"no runtime is called {name!r}", "runtimes: auto, torch, openvino")
    if name == "openvino":
        return runtime_name()
    return "" if name == "auto" else name


def on_runtime(
    runtime: str, scorer: Scorer | FoldScorer, bundle: Bundle, n_images: int
) -> tuple[Scorer | FoldScorer, str]:
    """A PyTorch scorer on a runtime, and what the user should know of it.

    runtime: as `named_runtime` returns it; empty: PyTorch, however many images there are, since
    the same image must not have one score in a small run and another in a large one. Raises
    UsageError where a runtime that was named cannot compute this model, and StoreError for one that
    is not here, which only a run that was begun elsewhere goes on with.
    """
    if runtime and runtime != "torch":
        if runtime != (here := runtime_name()):
            raise StoreError(
                f"the run that was begun is by {runtime}, and {here} is installed here",
                "choose another -o, or --force to start over",
            )
        return _on_openvino(scorer, bundle), ""
    n_passes = n_images / (scorer.images_per_pass * threads() * len(_parts(scorer, bundle)))
    return scorer, _FASTER if not runtime and n_passes >= LONG and _suits(scorer) else ""


def _on_openvino(scorer: Scorer | FoldScorer, bundle: Bundle) -> Scorer | FoldScorer:
    made = [replace(one, network=graph_of(one, of.sha256)) for one, of in _parts(scorer, bundle)]
    return FoldScorer(made) if isinstance(scorer, FoldScorer) else made[0]


def _parts(scorer: Scorer | FoldScorer, bundle: Bundle) -> list[tuple[Scorer, Bundle]]:
    """Each scorer of one network, and the bundle that it was loaded from."""
    if isinstance(scorer, Scorer):
        return [(scorer, bundle)]
    return list(zip(scorer.scorers, bundle.folds, strict=True))


def _suits(scorer: Scorer | FoldScorer) -> bool:
    one = scorer if isinstance(scorer, Scorer) else scorer.scorers[0]
    return one.device.type == "cpu" and one.settings.precision == "float32"
