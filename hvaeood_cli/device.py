"""Where the work runs: devices, threads, and reproducible generators."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from hvaeood_cli.errors import UsageError
from hvaeood_cli.settings import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def choose_device(name: str = "auto") -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there.

    Raises UsageError for a name that means nothing and for a device that is absent: asking for
    a GPU never falls back to the CPU in silence.
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


def make_fabric(
    device: torch.device, precision: Precision = "32-true", devices: int = 1, strategy: str = "auto"
) -> Fabric:
    """Where and how training runs: on `devices` of the device's kind, by Fabric's strategy.

    With "ddp", one process each: they are started here, run the same command, and share every
    batch. Raises UsageError for more devices than there are, a strategy that Fabric lacks, or a
    precision that the device lacks.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision as FabricPrecision

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of each process
    if devices > 1 and device.index is not None:
        raise UsageError(
            f"{device} is one device, and {devices} are asked for", f"--device {device.type}"
        )
    present = os.cpu_count() or 1
    if device.type == "cpu" and devices > present:
        raise UsageError(
            f"{devices} processes on {present} cores", f"--devices takes at most {present} here"
        )
    if precision in ("tf32", "16-mixed") and device.type != "cuda":
        raise UsageError(
            f"{precision} is not for {device.type}", "--precision bf16-mixed or 32-true"
        )
    plugin = FabricPrecision()  # nothing to convert; `float32_products` does the rest
    plugin.precision = "tf32"  # type: ignore[assignment]
    how: dict[str, Any] = {"plugins": plugin} if precision == "tf32" else {"precision": precision}
    count: int | list[int] = devices
    if device.index is not None and devices == 1:
        count = [device.index]
    try:
        fabric = Fabric(accelerator=device.type, devices=count, strategy=strategy, **how)
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(
            f"cannot train on {devices} x {device.type} by {strategy!r}: {reason}",
            "fewer --devices, or --strategy ddp",
        ) from None
    if strategy != "auto" or fabric.world_size > 1:
        fabric.launch()
    return fabric


def precision_of(fabric: Fabric) -> Precision:
    """What `make_fabric` was asked for."""
    return cast(Precision, fabric.strategy.precision.precision)


def training_products(fabric: Fabric) -> contextlib.AbstractContextManager[None]:
    """`float32_products` by the precision of training."""
    how: Literal["ieee", "tf32"] = "tf32" if precision_of(fabric) == "tf32" else "ieee"
    return float32_products(fabric.device, how)


@contextlib.contextmanager
def float32_products(device: torch.device, how: Literal["ieee", "tf32"]) -> Iterator[None]:
    """How convolutions and matrix products of float32 are made meanwhile.

    "ieee" is float32. "tf32", on NVIDIA alone, takes 10 of the 23 bits of each factor's mantissa;
    left alone, PyTorch does so in convolutions. Afterwards it is as the host process had it.
    """
    backends: Any = torch.backends
    switches: tuple[Any, ...] = ()
    if device.type == "cuda":
        switches = (backends.cuda.matmul, backends.cudnn.conv)
    elif device.type == "cpu":  # where a host may have asked for bfloat16
        switches = (backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = how
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def keep_memory() -> None:
    """Ask glibc's allocator to keep freed blocks instead of returning each to the system.

    A network's activations are megabytes, allocated and freed at every layer; by default each is
    mapped, cleared page by page and unmapped again. Keeping them is 1.2 to 1.4 times faster on a
    CPU (`python -m benchmarks.scoring`). Elsewhere than on glibc, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, 32 << 20)  # the most that glibc takes
        mallopt(m_trim_threshold, 1 << 30)


def seeded_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that is a function of its key alone, such as (seed, "noise", step).

    Nothing of it needs saving: a resumed run makes the same generator again.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
