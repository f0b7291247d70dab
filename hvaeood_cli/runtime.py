"""Where the work runs: devices, threads, and reproducible generators."""

from __future__ import annotations

import hashlib

import torch

from hvaeood_cli.errors import UsageError


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


def seeded_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that is a function of its key alone, such as (seed, "noise", step).

    Nothing of it needs saving: a resumed run makes the same generator again.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
