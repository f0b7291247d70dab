"""What `score` and `calibrate` share: the output file, the progress bar, and the remarks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.cli import console
from hvaeood_cli.errors import CalibrationError, ExitCode, HvaeoodError, ModelError, StoreError
from hvaeood_cli.store.conversions import conversions_in_words, done_to_most

if TYPE_CHECKING:
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.images.sources import Manifest
    from hvaeood_cli.model.bundle import Bundle
    from hvaeood_cli.model.config import ModelConfig
    from hvaeood_cli.scoring.run import Decide, ScoringRun, Tell
    from hvaeood_cli.store.score_file import ScoreFile


def output_for(sources: list[str], manifest: Manifest) -> Path:
    """SOURCE.scores.h5 in the current folder, named after the first source."""
    return Path(f"{_stem(sources[0], manifest)}.scores.h5")


def parts_for(sources: list[str], manifest: Manifest) -> Path:
    """SOURCE.parts in the current folder: where the parts of its shards are."""
    return Path(f"{_stem(sources[0], manifest)}.parts")


def scratch_for(sources: list[str], assembly: Assembly, manifest: Manifest) -> Path:
    """Where calibrate keeps scores until it is done: other settings have another file."""
    settings = {"seed": assembly.seed, **assembly.wanted_settings}
    known = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return Path(f"{_stem(sources[0], manifest)}.calibration-{known}.scores.h5")


def _stem(source: str, manifest: Manifest) -> str:
    """What a score file is called after its first source. A list has a name by what it lists."""
    if source == "-":
        listed = manifest.sources[0]
        names = b"\0".join(listed.name(i) for i in range(len(listed)))
        return f"list-{hashlib.sha256(names).hexdigest()[:6]}"
    first = source.rstrip("/").replace(":", "-").replace("#", "-")
    name = Path(first).resolve().name if first in (".", "..") else Path(first).name
    return name or "images"


def score_into(
    run: ScoringRun,
    out: Path,
    decide: Decide,
    force: bool,
    talk: bool,
    tell: Tell = lambda _: None,
) -> tuple[ScoreFile, bool]:
    """Score into a file, with a progress bar on a terminal; the rest is as `ScoringRun.to_file`."""
    remark = console.warn if talk else lambda _: None
    with progress_of("scoring", talk) as progress:
        try:
            return run.to_file(out, decide, force, progress, remark, tell)
        except KeyboardInterrupt:
            error = HvaeoodError(
                "interrupted", "run the same command again: it goes on where it was"
            )
            error.exit_code = ExitCode.INTERRUPTED
            raise error from None


def keep_usual_maps(
    assembly: Assembly,
    scores: ScoreFile,
    calibration: Path,
    data_root: Path | None,
    remote: bool,
    anew: bool,
    warn: Callable[[str], None],
) -> Path | None:
    """Keep what is usual of a map beside a calibration, made of these images, read again.

    remote: whether images behind addresses are fetched. anew: even if it is there. Returns its
    file, or None where too few images can be read. Raises StoreError where it cannot be written.
    """
    from hvaeood_cli.calibration.calibration import settings_of
    from hvaeood_cli.calibration.usual_maps import UsualMaps, place_of
    from hvaeood_cli.images.reader import ImageReader
    from hvaeood_cli.scoring.maps import rule_of
    from hvaeood_cli.scoring.usual import usual_maps_of

    place = place_of(calibration)
    with contextlib.suppress(CalibrationError):
        wanted = settings_of(scores.header) | {"map": rule_of(assembly.bundle.config)}
        if not anew and UsualMaps.load(place).fits(wanted):
            return place
    try:
        reader = ImageReader(data_root, beside=scores.path, remote=remote)
        usual_maps_of(assembly.scorer, scores, reader).save(calibration)
    except CalibrationError as error:
        warn(f"maps stay in nats: {error.message}")
        return None
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error.strerror}", "make room there") from None
    return place


def place(scores: ScoreFile) -> str:
    """Where scores were computed, in words: "cpu", or "cpu by openvino 2026.4.1"."""
    header = scores.header
    return header.device if header.runtime == "torch" else f"{header.device} by {header.runtime}"


def remarks(assembly: Assembly, scores: ScoreFile) -> Iterator[str]:
    """What the user must know before believing the scores."""
    config = assembly.bundle.config
    done = scores.conversion_counts
    said = conversions_in_words(scores.n_scored, done, config.image_size)
    if said:
        yield said
    telling = {"resized", "greyed", "coloured"} - _usual_conversions(assembly)
    foreign = max((done.get(name, 0) for name in telling), default=0)
    if scores.n_scored and foreign > scores.n_scored / 2:
        kind = "grey" if config.image_channels == 1 else "colour"
        yield (
            f"the model {assembly.bundle.name} was trained on {_size(config)} {kind} images; most "
            "of these are not, which alone may make their scores high or low. hvaeood train makes "
            "a model of your own images"
        )
    if seen := seen_in_training(assembly.bundle, scores):
        yield seen


def seen_in_training(bundle: Bundle, scores: ScoreFile) -> str:
    """What it means for p that the model was trained on some of these images; empty if on none."""
    try:
        n = int(bundle.trained_on(scores.content).sum())
    except ModelError as error:
        return f"nobody knows whether the model was trained on these images: {error.message}"
    if not n:
        return ""
    return (
        f"the model {bundle.name} was trained on {n:,} of these {scores.n_scored:,} images: what "
        "is odd in them it may have learnt as usual, and then it is not flagged. hvaeood find "
        "scores each image by a model that has not seen it"
    )


def _size(config: ModelConfig) -> str:
    """The size of a model's images, in words that stand before them."""
    if config.fit == "tile":
        return "tiles of"
    return f"{config.image_size}x{config.image_size}"


def _usual_conversions(assembly: Assembly) -> set[str]:
    """What was done to most of the images that the model was trained on, as far as it is known."""
    training = assembly.bundle.training
    return set(done_to_most(training.get("conversions", {}), training.get("n_images", 0)))


@contextlib.contextmanager
def progress_of(what: str, talk: bool) -> Iterator[Callable[[int, int], None]]:
    """The progress of scoring: how many images of all, how fast, and the time left."""
    with console.progress(what, talk) as show:
        began: tuple[float, int] | None = None  # the time, and how many were done before

        def draw(done: int, total: int) -> None:
            nonlocal began
            if began is None:
                began = time.monotonic(), done
            seconds, here = time.monotonic() - began[0], done - began[1]
            rate = here / seconds if seconds > 0 else 0.0
            left = (total - done) / rate if rate else math.inf
            show(done / total, f"{done:,}/{total:,} images, {rate:.0f} images/s", left)

        yield draw
