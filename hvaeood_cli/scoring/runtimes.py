"""Which runtime computes a run's passes: PyTorch, or on a CPU OpenVINO where that pays."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from hvaeood_cli.device import threads
from hvaeood_cli.errors import UsageError
from hvaeood_cli.model.bundle import Bundle
from hvaeood_cli.scoring.folds import FoldScorer
from hvaeood_cli.scoring.graph import graph_of, is_cached, runtime_name
from hvaeood_cli.scoring.scorer import Scorer

# How many passes a core a run must have for `auto` to take OpenVINO. Loading a graph takes a
# second, exporting one ten; a pass of the model that ships saves about a fiftieth of a second.
PASSES_TO_LOAD, PASSES_TO_EXPORT = 50, 500

_FASTER = "scored by torch; pip install 'hvaeood[openvino]' makes long runs on a CPU faster"


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
    """A PyTorch scorer on a runtime, and what the user should know of the choice.

    runtime: as `named_runtime` returns it; empty: chosen by the number of images. Raises
    UsageError where a runtime that was named cannot compute this model.
    """
    if runtime:
        return scorer if runtime == "torch" else _on_openvino(scorer, bundle), ""
    n_passes = n_images / (scorer.images_per_pass * threads() * len(_parts(scorer, bundle)))
    long, very_long = n_passes >= PASSES_TO_LOAD, n_passes >= PASSES_TO_EXPORT
    if not (long and _suits(scorer)):
        return scorer, ""
    if not find_spec("openvino"):
        return scorer, _FASTER if very_long else ""
    try:
        pays = very_long or _all_cached(scorer, bundle)
        return _on_openvino(scorer, bundle) if pays else scorer, ""
    except UsageError as error:
        return scorer, f"scored by torch: {error.message}"


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


def _all_cached(scorer: Scorer | FoldScorer, bundle: Bundle) -> bool:
    return all(is_cached(one, of.sha256) for one, of in _parts(scorer, bundle))
