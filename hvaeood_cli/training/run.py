"""From images to a bundle: read, set some aside, train, score those, write it all down."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from hvaeood_cli.calibration.reference import to_json
from hvaeood_cli.device import precision_of
from hvaeood_cli.errors import ImageError, TrainingError, UsageError
from hvaeood_cli.images.content import short_key
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.bundle import CONFIG, Bundle, read_bundle, write_bundle
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.ladder import Ladder
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings, TrainSettings
from hvaeood_cli.training.checkpoint import Checkpoints
from hvaeood_cli.training.loop import CHECKPOINT_SECONDS, Progress, train
from hvaeood_cli.version import __version__

Pixels = NDArray[np.uint8]

# Reading may meet a few bad files; a folder of them is a mistake that training must not hide.
_MAX_UNUSABLE = 0.1


class Read(NamedTuple):
    """Images to train on, as the model takes them."""

    pixels: Pixels  # (N, C, H, W) uint8
    unusable: list[str]  # the others: name and reason
    conversions: Counter[str]  # what was done to how many, by `Conversion`'s names
    n_coloured: int  # that are not shades of grey


def read_pixels(manifest: Manifest, config: ModelConfig) -> Read:
    """Every image of a manifest that can be read and is not smaller than the model's stride.

    Raises TrainingError when that leaves out more than a tenth.
    """
    images, unusable, conversions, n_coloured = [], list[str](), Counter[str](), 0
    for i in range(len(manifest)):
        try:
            image, _ = manifest.read(i)
            height, width = image.pixels.shape[:2]
            if min(height, width) < config.stride:
                raise ImageError(
                    "too_small",
                    f"{width}x{height} pixels, where one latent spans {config.stride} each way",
                )
        except ImageError as error:
            unusable.append(f"{manifest.name(i).decode('utf-8', 'backslashreplace')}: {error}")
            continue
        pixels, done = preprocess(image, config.image_channels, config.image_size)
        images.append(pixels)
        conversions.update((one.name or "").lower() for one in done)
        n_coloured += image.pixels.ndim == 3 and bool(np.ptp(image.pixels, axis=2).any())
    if len(unusable) > _MAX_UNUSABLE * len(manifest):
        raise TrainingError(
            f"{len(unusable)} of {len(manifest)} images cannot be used; {unusable[0]}",
            "remove or mend them first; hvaeood score lists those that cannot be read",
        )
    return Read(np.stack(images), unusable, conversions, n_coloured)


def check_channels(read: Read, config: ModelConfig) -> None:
    """Raise UsageError where most images are in colour and the model's are grey, or none is and
    the model's are in colour: right for some, and then said by --channels."""
    if config.image_channels == 1 and read.n_coloured > len(read.pixels) / 2:
        raise UsageError(
            "most of these images are in colour, and the preset is for grey ones",
            "take an RGB preset, or --channels 1: they are then made grey",
        )
    if config.image_channels == 3 and read.n_coloured == 0:
        raise UsageError(
            "all of these images are grey, and the preset is for colour",
            "take a grey preset, or --channels 3: grey is then repeated into three channels",
        )


def fit_bundle(
    pixels: Pixels,
    out: Path,
    name: str,
    config: ModelConfig,
    settings: TrainSettings,
    fabric: Fabric,
    command: Sequence[str] = (),
    force: bool = False,
    compiled: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Bundle:
    """Train on (N, C, H, W) 8-bit images and write the bundle to `out`.

    An interrupted run is continued from its last checkpoint; a finished one is returned as it is,
    or with force trained anew: the model that is there stays until the new one is written.
    fabric, compiled, checkpoint_seconds, stop: see `train`. Raises UsageError for settings that do
    not fit the model; TrainingError for too few images, other settings than the run in `out` had,
    a loss that is not finite.
    """
    for key in ("free_nats", "posterior_scale"):
        n_values = len(getattr(settings, key))
        if n_values not in (0, config.n_layers):
            raise UsageError(
                f"{key} has {n_values} values for {config.n_layers} layers",
                "give one for each layer, z_1 first, or [] for none",
            )
    precision = precision_of(fabric)
    if precision == "16-mixed" and settings.gradient_skip:
        raise UsageError(
            "gradient_skip is not for 16-mixed, whose scaler skips what overflows and must see all",
            "--precision bf16-mixed or 32-true",
        )
    fingerprint = {
        "model": config.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "precision": precision,
        "images_sha256": hashlib.sha256(pixels.data).hexdigest(),
    }
    if (out / CONFIG).is_file() and not force:
        return _finished(out, fingerprint)
    n_validation = settings.validation
    if len(pixels) - n_validation < settings.batch_size:
        raise TrainingError(
            f"{len(pixels)} images are too few: {n_validation} are set aside for validation and "
            f"a batch takes {settings.batch_size}",
            "give more images, or lower --validation and --batch-size",
        )
    # Which images are set aside is a function of the seed, so a resumed run sets aside the same.
    order = np.random.Generator(np.random.Philox(key=settings.seed)).permutation(len(pixels))
    aside, used = np.sort(order[:n_validation]), np.sort(order[n_validation:])
    checkpoints = Checkpoints(out / "checkpoints", fingerprint)
    trained = train(
        pixels[used],
        pixels[aside],
        config,
        settings,
        checkpoints,
        fabric,
        force,
        compiled,
        checkpoint_seconds,
        stop,
        report,
    )
    reference = _reference(trained.ladder, pixels[aside], fabric)
    if not fabric.is_global_zero:
        fabric.barrier()  # process 0 writes the bundle
        return read_bundle(out)
    hashes = np.array([short_key(image) for image in pixels[used]], np.uint64)
    provenance = {
        "command": list(command),
        "fingerprint": fingerprint,
        "n_images": len(pixels),
        "n_trained_on": len(used),
        "n_validation": len(aside),
        "n_parameters": trained.n_parameters,
        "minutes": round(trained.state.seconds / 60.0, 2),
        "steps": trained.state.step,
        "device": str(fabric.device),
        "n_processes": fabric.world_size,
        "precision": precision,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "hvaeood": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": f"{sys.platform} {platform.machine()}",
        },
        "curve": trained.state.curve,
    }
    bundle = write_bundle(out, name, config, trained.ladder, provenance, reference, hashes)
    checkpoints.clear()
    fabric.barrier()
    return bundle


def _finished(out: Path, fingerprint: dict[str, Any]) -> Bundle:
    bundle = read_bundle(out)
    made_by = bundle.training.get("fingerprint")
    if made_by != fingerprint:
        raise TrainingError(
            f"{out} already holds a model, made from other images or settings",
            "choose another --out, or --force to replace it",
        )
    return bundle


def _reference(ladder: Ladder, aside: Pixels, fabric: Fabric) -> dict[str, Any]:
    """LLR^{>k} of the images set aside, with the settings that `score` uses by default.

    Each process scores its share on its own device, so that none waits for another for long.
    """
    if not len(aside):
        return {}
    settings = ScoreSettings()
    scorer = Scorer.on(ladder, settings, fabric.device)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    llr = np.zeros((len(aside), ladder.n_layers - 1), np.float32)
    if len(aside[mine]):
        llr[mine] = scorer.score(aside[mine])["llr"]
    if fabric.world_size > 1:
        total = fabric.all_reduce(torch.from_numpy(llr).to(fabric.device), reduce_op="sum")
        llr = cast(torch.Tensor, total).cpu().numpy()
    return to_json(llr, settings.model_dump(mode="json"))
