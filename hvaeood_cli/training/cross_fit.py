"""Cross-fitting: a model for each fold of a folder of images, trained on all the others.

No image is then scored by a model that has seen it, and none has to be set aside: it is the way to
look for odd images in the only folder there is. The folds train side by side, each in a process of
its own with its share of the processor's cores, and go on from their checkpoints like any training
run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hvaeood_cli.device import choose_device, make_fabric
from hvaeood_cli.errors import HvaeoodError, ModelError, TrainingError
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.bundle import CONFIG, Bundle, fold_folder, read_bundle, write_cross_fitted
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.scoring.folds import fold_of
from hvaeood_cli.settings import TrainSettings
from hvaeood_cli.training.budget import scoring_seconds
from hvaeood_cli.training.loop import Progress
from hvaeood_cli.training.pixel_cache import PixelCache
from hvaeood_cli.training.reading import about_how_many_tiles, read_pixels
from hvaeood_cli.training.run import TrainingRun

_LEAST_STEPS_AN_EPOCH = 4  # few images get small batches
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class CrossFit:
    """The folds to train, and where. `of` trains them.

    settings: of each fold; with `minutes`, which count from `started`, by time.monotonic(), and
    leave room for scoring all images afterwards, and reserved_seconds for what else is to come.
    out: the bundle's folder. command: the command line, which the bundle keeps for people.
    """

    config: ModelConfig
    settings: TrainSettings
    n_folds: int
    device: str
    out: Path
    name: str
    started: float
    reserved_seconds: float = 0.0
    command: Sequence[str] = ()

    def of(
        self,
        manifest: Manifest,
        force: bool = False,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[Sequence[Progress]], None] = lambda progress: None,
        cache: PixelCache | None = None,
        read: Callable[[], None] = lambda: None,
    ) -> Bundle:
        """Train every fold on the images of the others, and make them one bundle.

        An interrupted run goes on; a finished one is returned as it is, or with force made anew.
        cache: where the images' pixels are kept; None for in the memory of every fold. read: called
        before the first fold begins, to read them into the cache once for all. stop: if it returns
        True, every fold saves a checkpoint and KeyboardInterrupt is raised. report: called with how
        far each fold is. Raises TrainingError as `TrainingRun.of` does, and where `out` holds
        another model.
        """
        made_of = self._fingerprint(manifest)
        if (self.out / CONFIG).is_file():
            if not force:
                return self._finished(made_of)
            self._check_replaceable()
        device = choose_device(self.device)
        n_tiles = about_how_many_tiles(manifest, self.config)
        reserved = scoring_seconds(self.config, device, n_tiles)
        started = self.started - reserved - self.reserved_seconds
        if cache:
            read()
        kept = cache.folder if cache else None
        jobs = [Job(fold, self, manifest, started, force, kept) for fold in range(self.n_folds)]
        _train_side_by_side(jobs, stop, report)
        folds = [read_bundle(fold_folder(self.out, fold)) for fold in range(self.n_folds)]
        return write_cross_fitted(self.out, self.name, folds, self._provenance(folds, made_of))

    def _fingerprint(self, manifest: Manifest) -> dict[str, Any]:
        """What a finished bundle must share with what is asked for."""
        return {
            "model": self.config.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "folds": self.n_folds,
            "listing_sha256": manifest.listing_sha256(),
        }

    def _finished(self, made_of: dict[str, Any]) -> Bundle:
        bundle = read_bundle(self.out)
        if bundle.training.get("fingerprint") != made_of:
            raise TrainingError(
                f"{self.out} already holds a model, made from other images or settings",
                f"hvaeood score SOURCE --model {self.out} scores what is new with it; --force "
                "makes it anew",
            )
        return bundle

    def _check_replaceable(self) -> None:
        """Raise TrainingError for a model that is no cross-fitted one: its weights would stay."""
        with contextlib.suppress(ModelError):  # a broken one may go
            if not read_bundle(self.out).folds:
                raise TrainingError(
                    f"{self.out} holds a model of another kind", "choose another folder"
                )

    def _provenance(self, folds: Sequence[Bundle], made_of: dict[str, Any]) -> dict[str, Any]:
        trained = [fold.training for fold in folds]
        return {
            "command": list(self.command),
            "fingerprint": made_of,
            "conversions": _sum(one["conversions"] for one in trained),
            "n_images": trained[0]["n_images"],
            "n_trained_on": trained[0]["n_images"],
            "n_validation": 0,
            "n_calibration": 0,
            "n_parameters": sum(one["n_parameters"] or 0 for one in trained),
            "minutes": max(one["minutes"] for one in trained),
            "steps": sum(one["steps"] for one in trained),
            "device": trained[0]["device"],
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": trained[0]["versions"],
            "curve": [],
        }


class Job(NamedTuple):
    """What the process of one fold is to do."""

    fold: int
    cross_fit: CrossFit
    manifest: Manifest
    started: float  # when the minutes began, by time.monotonic(), had scoring come first
    force: bool
    kept: Path | None  # the folder of the cache's entry, if there is one


class _Ended(NamedTuple):
    """The last message of a fold's process: how it ended."""

    error: HvaeoodError | None = None
    interrupted: bool = False

    def __bool__(self) -> bool:
        return self.interrupted or self.error is not None


def _train_side_by_side(
    jobs: Sequence[Job],
    stop: Callable[[], bool],
    report: Callable[[Sequence[Progress]], None],
) -> None:
    """Train each fold in a process of its own. Raises the first error of any, or KeyboardInterrupt.

    Where one fails, the others are stopped; their checkpoints stay.
    """
    stopping, running = _start(jobs)
    progress: dict[int, Progress] = {}
    ends: list[_Ended] = []
    try:
        while running:
            if stop():
                stopping.set()
            for ready in wait(list(running), timeout=_POLL_SECONDS):
                assert isinstance(ready, Connection)
                job, process = running[ready]
                said = _received(ready, job, process)
                if isinstance(said, _Ended):
                    ends.append(said)
                    del running[ready]
                else:
                    progress[job.fold] = said
            if any(ends):  # with an error, or interrupted
                stopping.set()
            if progress:
                report([progress[fold] for fold in sorted(progress)])
    finally:
        stopping.set()
        for _, one in running.values():
            one.join()
    for end in ends:
        if end.error:
            raise end.error
    if any(ends):
        raise KeyboardInterrupt


def _start(jobs: Sequence[Job]) -> tuple[Event, dict[Connection, tuple[Job, BaseProcess]]]:
    """Start a process for each job. Returns what asks them to stop, and where they report."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    stopping = context.Event()
    running: dict[Connection, tuple[Job, BaseProcess]] = {}
    for job in jobs:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_train_fold, args=(job, len(jobs), theirs, stopping))
        process.start()
        theirs.close()
        running[ours] = job, process
    return stopping, running


def _received(connection: Connection, job: Job, process: BaseProcess) -> Progress | _Ended:
    """The next message of a fold's process; of one that died without a word, that it did."""
    try:
        said: Progress | _Ended = connection.recv()
        return said
    except EOFError:
        process.join()
        return _Ended(
            TrainingError(
                f"the process that trained fold {job.fold} ended with {process.exitcode}",
                "run the same command again: it goes on from the last checkpoint",
            )
        )


def _train_fold(job: Job, n_side_by_side: int, to: Connection, stopping: Event) -> None:
    """Train one fold: what its process runs."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the first process gets it too, and asks to stop
    warnings.simplefilter("ignore")
    cross_fit, parent = job.cross_fit, os.getppid()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // n_side_by_side))
    try:
        cache = PixelCache(job.kept) if job.kept else None
        read = read_pixels(job.manifest, cross_fit.config, cache)
        folds = [fold_of(content, cross_fit.n_folds) for content in read.images.contents]
        chosen = np.flatnonzero(np.array(folds) != job.fold)
        others = read.pixels.pick(read.images.rows_of(chosen))
        images = read.images.of(chosen)
        out = fold_folder(cross_fit.out, job.fold)
        out.mkdir(parents=True, exist_ok=True)
        run = TrainingRun(
            config=cross_fit.config,
            settings=_settings_for(cross_fit.settings, len(others)),
            fabric=make_fabric(choose_device(cross_fit.device)),
            out=out,
            name=f"{cross_fit.name}-{out.name}",
            conversions=read.conversions,
            started=job.started,
        )
        run.of(
            others,
            job.force,
            stop=lambda: stopping.is_set() or os.getppid() != parent,
            report=to.send,
            images=images,
        )
        to.send(_Ended())
    except KeyboardInterrupt:
        to.send(_Ended(interrupted=True))
    except HvaeoodError as error:
        to.send(_Ended(error))


def _settings_for(settings: TrainSettings, n_images: int) -> TrainSettings:
    """Of few images, smaller batches; and none is set aside."""
    largest = max(1, n_images // _LEAST_STEPS_AN_EPOCH)
    changes = {"validation": 0, "calibration": 0}
    changes["batch_size"] = min(settings.batch_size, largest)
    return settings.model_copy(update=changes)


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
