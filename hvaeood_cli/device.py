"""Devices: choosing one, how precisely it multiplies, and generators that are reproducible."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch

from hvaeood_cli.errors import UsageError
from hvaeood_cli.settings import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_WAITING = timedelta(hours=12)  # that training processes wait for one another


def choose_device(name: str = "auto") -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` names.

    Raises UsageError for an unknown name and for a device that this machine lacks: asking for a
    GPU never falls back to the CPU in silence.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UsageError(f"no device is called {name!r}", "devices: auto, cpu, cuda, cuda:N, mps")
    present = {
        "cpu": not index,
        "cuda": torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available() and not index,
    }
    if not present[kind]:
        raise UsageError(f"device {name} is not on this machine", "use --device auto or cpu")
    return torch.device(name)


class Launch(NamedTuple):
    """How a launcher has started this process, beside others that run the same command."""

    by: str
    here: int  # processes on this machine
    machines: int


def launch() -> Launch | None:
    """Who started this process as one of several: torchrun or Slurm's srun; None if nobody did."""
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        everywhere, here = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
        return Launch("torchrun", here, everywhere // here) if everywhere > 1 else None
    if _number("SLURM_STEP_NUM_TASKS") > 1:  # a job without srun has SLURM_NTASKS alone
        here = _number("SLURM_NTASKS_PER_NODE", _number("SLURM_STEP_NUM_TASKS"))
        return Launch("srun", here, _number("SLURM_NNODES"))
    return None


def _number(name: str, otherwise: int = 1) -> int:
    """A launcher's variable. Raises UsageError for one that is no number from 1 on."""
    value = os.environ.get(name, str(otherwise))
    if not value.isdigit() or not int(value):
        raise UsageError(f"{name}={value} is not a number of processes", "torchrun or srun sets it")
    return int(value)


def make_fabric(
    device: torch.device, precision: Precision = "32-true", devices: int = 1, strategy: str = "auto"
) -> Fabric:
    """Set up Lightning Fabric to train on `devices` devices of this kind, on each machine.

    strategy: how the devices share the work, by Fabric's name. With "ddp" each device has a
    process of its own: a launcher has started them, or else this call does; they run the same
    command, and they share every batch. Raises UsageError for more devices than there are, or
    others than the launcher has processes, a strategy that Fabric lacks, or a precision that the
    device lacks.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.plugins import Precision as FabricPrecision
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs each process
    started = launch()
    if started and devices not in (1, started.here):
        raise UsageError(
            f"--devices {devices}, but {started.by} has started {started.here} processes here",
            "leave --devices out",
        )
    devices = started.here if started else devices
    if devices > 1 and device.index is not None:
        raise UsageError(
            f"{device} is one device, and {devices} are asked for", f"--device {device.type}"
        )
    present = os.cpu_count() or 1
    if device.type == "cpu" and devices > present:
        raise UsageError(
            f"{devices} processes are more than the {present} cores here", f"--devices {present}"
        )
    if precision in ("tf32", "16-mixed") and device.type != "cuda":
        raise UsageError(
            f"{precision} is not for {device.type}", "--precision bf16-mixed or 32-true"
        )
    plugin = FabricPrecision()
    if precision in ("bf16-mixed", "16-mixed"):
        plugin = MixedPrecision(cast(Any, precision), device.type)
    # It converts nothing: `float32_products` turns TF32 on, and autocast rounds what a product
    # takes. A pixel in 8 bits of mantissa would be another pixel, and its noise another noise.
    plugin.precision = precision  # type: ignore[assignment]
    plugin.convert_input = lambda data: data  # type: ignore[method-assign]
    # Without a launcher this call starts the processes, whatever a batch system's variables say.
    plugins: list[Any] = [plugin] if started else [plugin, LightningEnvironment()]
    count: int | list[int] = devices
    if device.index is not None and devices == 1:
        count = [device.index]
    machines = started.machines if started else 1
    several = devices * machines > 1
    how: Any = strategy
    if several and strategy in ("auto", "ddp"):  # one process may read images much longer
        how = DDPStrategy(timeout=_WAITING)
    try:
        fabric = Fabric(
            accelerator=device.type,
            devices=count,
            num_nodes=machines,
            strategy=how,
            plugins=plugins,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(
            f"cannot train on {devices} x {device.type} by {strategy!r}: {reason}",
            "fewer --devices, or --strategy ddp",
        ) from None
    if strategy != "auto" or several:
        fabric.launch()
    return fabric


def precision_of(fabric: Fabric) -> Precision:
    """The precision that `make_fabric` was asked for."""
    return cast(Precision, fabric.strategy.precision.precision)


def training_products(fabric: Fabric) -> contextlib.AbstractContextManager[None]:
    """`float32_products` in the precision of training: "tf32" where that was asked for."""
    how: Literal["ieee", "tf32"] = "tf32" if precision_of(fabric) == "tf32" else "ieee"
    return float32_products(fabric.device, how)


@contextlib.contextmanager
def float32_products(device: torch.device, how: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Choose how convolutions and matrix products of float32 are computed inside a `with` block.

    "ieee" is full float32. "tf32", on NVIDIA alone, takes 10 of the 23 bits of each factor's
    mantissa, which is PyTorch's own choice in convolutions. Either way cuDNN takes only algorithms
    that give the same bits each time: by itself it takes some that do not, and a score would be
    another the second time. On leaving the block, the settings of the host process are restored.
    """
    backends: Any = torch.backends
    switches: tuple[Any, ...] = ()
    if device.type == "cuda":
        switches = (backends.cuda.matmul, backends.cudnn.conv)
    elif device.type == "cpu":  # where the host process may have asked for bfloat16
        switches = (backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    cudnn = backends.cudnn.deterministic, backends.cudnn.benchmark
    try:
        for switch in switches:
            switch.fp32_precision = how
        if device.type == "cuda":
            backends.cudnn.deterministic, backends.cudnn.benchmark = True, False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
        if device.type == "cuda":
            backends.cudnn.deterministic, backends.cudnn.benchmark = cudnn


class _Threads(threading.local):
    """How many threads an operator takes that is called from here; None where nobody changed it."""

    usual: int | None = None


_here = _Threads()
_changing = threading.Lock()
_n_inside = 0


def threads() -> int:
    """How many threads PyTorch takes for an operator on this CPU: its cores, or OMP_NUM_THREADS."""
    return _here.usual or torch.get_num_threads()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside a `with` block, a CPU's operators run in the thread that calls them and no other.

    So an operator never waits for the slower of two cores, and sums are in one order whatever the
    machine's number of cores. Several threads may be inside at once. PyTorch has one such number
    for OpenMP, which belongs to the calling thread, and one for MKL, which belongs to the process:
    whoever leaves last puts them back.
    """
    global _n_inside  # noqa: PLW0603  it is the process's, as MKL's number is
    with _changing:
        _n_inside += 1
        _here.usual = usual = threads()
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _changing:
            _n_inside -= 1
            if not _n_inside:
                torch.set_num_threads(usual)
                _here.usual = None


def seeded_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on its key alone, such as (seed, "noise", step).

    A checkpoint need not save it: a resumed run makes the same generator again.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
