"""`hvaeood models`: list the models, or show what one is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hvaeood_cli.cli import console, deciding, options
from hvaeood_cli.errors import SourceError, UsageError
from hvaeood_cli.text import printable

if TYPE_CHECKING:
    from hvaeood_cli.model.bundle import Bundle


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|DIR]", help="Show this one.", show_default=False)
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Score these images on each runtime and show how far the scores differ.",
            show_default=False,
        ),
    ] = None,
    samples: options.Samples = None,
    data_root: options.DataRoot = None,
    json_: options.Json = False,
) -> None:
    """List the models there are, or show one.

    Example: **hvaeood models fashionmnist**

    Models that ship come first, then those in $HVAEOOD_MODELS or the user's data folder.

    Next: **hvaeood score FOLDER --model NAME**
    """
    from hvaeood_cli.model.bundle import find_bundle, list_bundles, model_folders

    if verify is not None:
        if name is None:
            raise UsageError("--verify needs a model", "hvaeood models NAME --verify SOURCE")
        differences = _differences(name, verify, samples, data_root)
        (console.emit_json if json_ else _show_differences)(differences)
        return
    if name is not None:
        bundle = find_bundle(name)
        if json_:
            console.emit_json(_facts(bundle) | {"training": bundle.training})
        else:
            _show(bundle)
        return
    bundles = list_bundles()
    if json_:
        console.emit_json([_facts(bundle) for bundle in bundles])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("model", "images", "L", "parameters", "where"):
        table.add_column(column)
    for bundle in bundles:
        facts = _facts(bundle)
        cells = [facts["name"], facts["images"], facts["n_layers"], facts["n_parameters"]]
        where = "ships" if bundle.folder.parent == model_folders()[0] else str(bundle.folder)
        table.add_row(*(Text(printable(str(cell))) for cell in [*cells, where]))
    console.show(table)
    console.say("hvaeood models NAME shows one; hvaeood train makes another")


def _differences(
    name: str, source: str, samples: int | None, data_root: Path | None
) -> dict[str, Any]:
    """How far OpenVINO's scores are from PyTorch's, and what becomes of it."""
    import numpy as np

    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.calibration.rules import decide
    from hvaeood_cli.images.sources import open_sources
    from hvaeood_cli.store.decision import Rule

    on_torch, on_openvino = (
        Assembly(name, n_importance_samples=samples, runtime=runtime)
        for runtime in ("torch", "openvino")
    )
    manifest = open_sources([source], data_root=data_root)
    here = on_openvino.run(manifest).in_memory()  # first: it may not be installed
    there = on_torch.run(manifest).in_memory()
    scored = there.scored
    if not scored.any():
        raise SourceError(f"none of the images of {source} can be read", "name others")
    found: dict[str, Any] = {
        "runtime": here.header.runtime,
        "images": int(scored.sum()),
        "S": here.header.n_importance_samples,
        "max_difference_llr": float(np.abs(here.llr - there.llr)[scored].max()),
        "max_difference_p": None,
        "other_decisions": None,
    }
    if (calibration := on_torch.calibration) is not None:
        one, two = (decide(calibration, scores, Rule("fpr", 0.01)) for scores in (there, here))
        found["max_difference_p"] = float(np.abs(one.p_combined - two.p_combined)[scored].max())
        found["other_decisions"] = int((one.flagged != two.flagged).sum())
    return found


def _show_differences(found: dict[str, Any]) -> None:
    rows = [
        f"{found['runtime']} against torch: {found['images']:,} images, S = {found['S']}",
        f"LLR differs by at most {found['max_difference_llr']:.2g} nats",
    ]
    if found["max_difference_p"] is None:
        rows.append("no calibration: there are no p-values to compare")
    else:
        n = found["other_decisions"]
        rows.append(f"p differs by at most {found['max_difference_p']:.2g}")
        rows.append(f"{n:,} {'decision' if n == 1 else 'decisions'} at an FPR of 0.01 differ")
    for row in rows:
        console.show(row)


def _facts(bundle: Bundle) -> dict[str, Any]:
    config = bundle.config
    kind = "grey" if config.image_channels == 1 else "colour"
    return {
        "name": bundle.name,
        "folder": str(bundle.folder),
        "sha256": bundle.sha256,
        "kind": config.kind,
        "images": f"{'tiles of ' * (config.fit == 'tile')}{config.image_size}x"
        f"{config.image_size} {kind}",
        "n_layers": config.n_layers,
        "n_parameters": bundle.training.get("n_parameters"),
    }


def _calibrations(bundle: Bundle) -> str:
    """The calibrations by which `score` decides, in words, one line each."""
    from hvaeood_cli.calibration.calibration import read_calibrations

    there, unreadable = read_calibrations(bundle.calibrations)
    lines = list(map(deciding.left_out, unreadable))
    for found in there:
        settings = found.settings
        lines.append(
            f"{found.id}: {len(found):,} images, S = {settings['n_importance_samples']} in L and "
            f"{settings['n_importance_samples_k']} in L>k, proposal {settings['proposal']}"
        )
    return "\n".join(lines) or f"none; hvaeood calibrate HELD-OUT-IMAGES --model {bundle.name}"


def _show(bundle: Bundle) -> None:
    from rich.table import Table
    from rich.text import Text

    from hvaeood_cli.images.preprocess import tiling_of

    training = bundle.training
    facts: dict[str, Any] = _facts(bundle)
    tiling = tiling_of(bundle.config)
    if tiling is not None:
        facts["tiles"] = str(tiling)
    for i in range(1, bundle.config.n_layers + 1):
        facts[f"z_{i}"] = "x".join(map(str, bundle.config.latent_shape(i)))
    if training:
        facts["trained on"] = (
            f"{training['n_trained_on']:,} images; {training['n_validation']:,} more for the "
            f"curve, {training.get('n_calibration', 0):,} to calibrate on"
        )
        facts["trained in"] = f"{training['minutes']} minutes, {training['steps']:,} steps"
        facts["finished"] = training["finished"]
        facts["command"] = " ".join(training["command"])
        if training["curve"] and "validation_bits_per_dim" in training["curve"][-1]:
            bits = training["curve"][-1]["validation_bits_per_dim"]
            facts["validation"] = ", ".join(
                f"L{f'>{k}' if k else ''} {value:.3f}" for k, value in enumerate(bits)
            )
            facts["validation"] += " bits/dim (S = 1)"
    facts["calibration"] = _calibrations(bundle)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key, Text("\n".join(map(printable, str(value).split("\n")))))
    console.show(table)
