"""The engine of many machines, on Ray: workers read and score images, and this process writes.

    this process                          workers, one a core or a GPU
    model, settings  ------------------>  load the model once
    names of images  ------------------>  fetch them once
    a stretch: from, to  -------------->  read, score
    rows, in order  <-------------------  rows

Pixels never travel: every node reads the images itself, from storage that all of them share. The
model travels by content, so that no node needs a copy of it, or could have another one.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hvaeood_cli.errors import HvaeoodError, SourceError, UsageError
from hvaeood_cli.images.content import stamp_key
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.scoring.engines.stretches import Answer, in_order
from hvaeood_cli.scoring.engines.worker import Place, Work, Worker, versions
from hvaeood_cli.store.journal import Batch

LOWEST = (2, 54)
BEGIN_SECONDS = 300.0  # to wait for the first worker of a busy cluster

_INSTALL = "pip install 'hvaeood[ray]'"
_NO_CLUSTER = (
    "ray start --head begins one here, and --address local needs none; one that asks for a token "
    "takes RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
)


def check_ray() -> None:
    """Raise UsageError where Ray is not installed, or is too old."""
    try:
        found = version("ray")
    except PackageNotFoundError:
        raise UsageError("Ray is not installed", _INSTALL) from None
    if tuple(int(part) for part in found.split(".")[:2]) < LOWEST:
        lowest = ".".join(map(str, LOWEST))
        raise UsageError(f"Ray {found} is installed, and {lowest} is the lowest", _INSTALL)


@dataclass
class RayEngine:
    """Scores on a cluster. address: "auto", "local" to start one here, or HOST:PORT.

    workers: None for one a core of the cluster, or one a GPU if it has any and `work.device` is not
    "cpu". Raises HvaeoodError where the cluster cannot be reached, lacks what is asked of it, or
    has nodes that would give other scores.
    """

    work: Work
    address: str = "auto"
    workers: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_ray()

    @property
    def device(self) -> str:
        return self._pool.place.device

    @property
    def runtime(self) -> str:
        return self._pool.place.runtime

    @cached_property
    def _pool(self) -> RayPool:
        return RayPool(self.work, self.address, self.workers)

    def score(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        """Yield the rows of the images from `start` on, in order."""
        pool = self._pool
        try:
            pool.share(manifest)
            stretches = _cut(start, len(manifest), pool.place, pool.n_workers)
            for batch in in_order(stretches, pool):
                _check_seen(batch, manifest)
                yield batch
        finally:
            del self._pool
            pool.close()


class RayPool:
    """Workers on a cluster, a `Pool`. Its making waits until the first of them has begun."""

    def __init__(self, work: Work, address: str, workers: int | None) -> None:
        self._ray, self._is_mine = _connected(address, workers)
        self._pending: dict[Any, tuple[int, int | None]] = {}  # reference -> worker, stretch
        self._ready: deque[Any] = deque()
        self._actors: dict[int, Any] = {}
        self._manifest: list[Any] = []
        try:
            options, self.n_workers = _resources(self._ray, work.device, workers)
            self._make = self._ray.remote(**options, max_restarts=0, scheduling_strategy="SPREAD")(
                Worker
            )
            self._work = self._ray.put(work)
            for worker in range(self.n_workers):
                self.begin(worker)
            self.place = self._first_place()
        except BaseException:
            self.close()
            raise

    def _first_place(self) -> Place:
        begun, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=BEGIN_SECONDS)
        if not begun:
            raise HvaeoodError(
                f"no worker has begun within {BEGIN_SECONDS:.0f} s: the cluster is busy",
                "ray status shows with what",
            )
        try:
            place: Place = self._get(begun[0])
        except self._ray.exceptions.RayError as error:
            raise HvaeoodError(
                f"a worker died as it began: {_reason(error)}",
                "install the same hvaeood on every node of the cluster",
            ) from None
        self._check(place, place)
        return place

    def share(self, manifest: Manifest) -> None:
        """Let workers know the names of the images: once for each node."""
        self._manifest = [self._ray.put(manifest)]

    def begin(self, worker: int) -> None:
        if worker in self._actors:
            self._ray.kill(self._actors[worker])
            self._pending = {ref: of for ref, of in self._pending.items() if of[0] != worker}
            self._ready = deque(ref for ref in self._ready if ref in self._pending)
        self._actors[worker] = self._make.remote()
        self._pending[self._actors[worker].begin.remote(self._work)] = worker, None

    def give(self, worker: int, number: int, stretch: range) -> None:
        reference = self._actors[worker].score.remote(self._manifest, stretch.start, stretch.stop)
        self._pending[reference] = worker, number

    def wait(self) -> Answer:
        if not self._ready:
            self._ray.wait(list(self._pending), num_returns=1)
            n = len(self._pending)
            ready, _ = self._ray.wait(list(self._pending), num_returns=n, timeout=0)
            self._ready.extend(ready)  # as many as there are: to wait takes time for each pending
        reference = self._ready.popleft()
        worker, stretch = self._pending.pop(reference)
        try:
            found = self._get(reference)
        except self._ray.exceptions.RayError as error:
            return Answer(worker, lost=_reason(error))
        if stretch is None:
            self._check(found, self.place)
            return Answer(worker)
        return Answer(worker, stretch, found)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._is_mine:
            self._ray.shutdown()

    def _get(self, reference: Any) -> Any:
        """A result. Raises RayError for a lost worker, and what a worker itself raised."""
        failed = self._ray.exceptions.RayTaskError
        try:
            return self._ray.get(reference)
        except failed as error:
            if isinstance(error.cause, HvaeoodError):
                raise error.cause from None
            raise RuntimeError(_reason(error)) from None  # a bug: the same again on any worker

    def _check(self, place: Place, first: Place) -> None:
        """Raise HvaeoodError for a node whose scores would be others."""
        differing = [
            f"{name} {there} and not {here}"
            for (name, there), (_, here) in zip(place.versions, versions(), strict=True)
            if there != here
        ]
        if place.kind != first.kind:
            differing.append(f"{' by '.join(place.kind)} and not {' by '.join(first.kind)}")
        if differing:
            raise HvaeoodError(
                f"node {place.node} has {', '.join(differing)}: its scores would be others",
                "install the same on every node, and name one --device and one --runtime",
            )


def check_travels(manifest: Manifest) -> None:
    """Raise SourceError for images that are in this process's memory: only names travel."""
    for source in manifest.sources:
        images = getattr(source, "images", None)  # of arrays and lists
        if images is not None and not hasattr(images, "path"):
            raise SourceError(
                f"{os.fsdecode(source.name(0))} is in memory, and Ray's workers read files",
                "give a folder, an archive or an .npy file, whose rows are read from the disk; "
                "or --engine local",
            )


def _connected(address: str, workers: int | None) -> tuple[Any, bool]:
    """Ray, and whether it was connected here. Raises HvaeoodError where nothing answers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before it is imported
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # which would upload the current folder
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it prints a warning
    if address not in ("auto", "local"):
        _check_answers(address)
    import ray

    if ray.is_initialized():  # by the program that this is a part of
        return ray, False
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        how |= {"include_dashboard": False, "num_cpus": workers}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=address, **how)
    except (Exception, SystemExit) as error:  # of many kinds
        raise HvaeoodError(f"no Ray at {address}: {_reason(error)}", _NO_CLUSTER) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray's would end the program in its own way
    return ray, True


def _check_answers(address: str) -> None:
    """Raise for an address that is none, and where nothing answers: Ray itself waits minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(
            f"--address {address!r} is none", "auto, local, or HOST:PORT as ray start prints it"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise HvaeoodError(f"nothing answers at {address}: {error}", _NO_CLUSTER) from None


def _resources(ray: Any, device: str, workers: int | None) -> tuple[dict[str, Any], int]:
    """What Ray is to keep for each worker, and how many workers there are."""
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    on_gpu = device != "cpu" and gpus > 0
    most = gpus if on_gpu else cpus
    n = most if workers is None else workers
    if not 1 <= n <= most:
        raise UsageError(
            f"{n} workers are asked for, and the cluster has {most} {'GPUs' if on_gpu else 'CPUs'}",
            "fewer --workers, or another --device",
        )
    return {"num_cpus": 1, "num_gpus": int(on_gpu)}, n


def _cut(start: int, stop: int, place: Place, n_workers: int) -> list[range]:
    """The places from start on, in stretches of whole passes; of few images shorter ones."""
    share = -(-(stop - start) // n_workers)
    size = -(-min(place.images_per_stretch, share) // place.images_per_pass)
    size *= place.images_per_pass
    return [range(i, min(i + size, stop)) for i in range(start, stop, max(1, size))]


def _check_seen(batch: Batch, manifest: Manifest) -> None:
    """Raise SourceError for an image that a worker could not read, and that is another one here.

    A node without the shared storage would make a row "missing" of every image.
    """
    for i in batch.errors:
        if batch.rows["stamp"][i - batch.first] != stamp_key(manifest.stamp(i)):
            name = os.fsdecode(manifest.name(i))
            raise SourceError(
                f"{name}: a worker sees another file than is here ({batch.errors[i]})",
                "every node must see the images under the same name, on storage that they share",
            )


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
