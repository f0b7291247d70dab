"""Every device that a CPU can stand for, and those that are there.

    meta        shapes alone
    fake-cuda   shapes and devices: an operation that mixes two devices fails as it would on a GPU
    cpu, cuda, mps   the real ones, where present

The first two have no values. What a program asks of a value there ("is it finite?") is answered
with 1, which is also yes. On fake-cuda autograd's engine would ask for a driver: there a backward
pass gives every parameter a gradient of zeros, where the parameter is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

PRESENT = ["cpu"]
PRESENT += ["cuda"] if torch.cuda.is_available() else []
PRESENT += ["mps"] if torch.backends.mps.is_available() else []

real = unset_fake_temporarily
"""A context: inside it tensors have values, though a place without any is being worked in."""


class Place(NamedTuple):
    """A device, and whether tensors on it have values."""

    device: torch.device
    fake: bool

    @property
    def has_values(self) -> bool:
        return not self.fake and self.device.type != "meta"

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Work in this place. Models and checkpoints that come from outside are made real."""
        with contextlib.ExitStack() as stack:
            if self.fake:
                stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            if not self.has_values:
                stack.enter_context(_Yes())
            yield


class _Yes(TorchDispatchMode):
    """Whatever is asked of a value, it is 1."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].dtype.is_floating_point else 1
        return function(*args, **(kwargs or {}))


PLACES = {
    "meta": Place(torch.device("meta"), fake=False),
    "fake-cuda": Place(torch.device("cuda", 0), fake=True),
} | {name: Place(torch.device(name), fake=False) for name in PRESENT}
