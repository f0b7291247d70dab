"""What several training processes must agree on before the first step.

A machine with other images, or without the folder that the first one writes to, would train another
model or wait forever. All processes find out together, so that all end with the same error.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hvaeood_cli.errors import TrainingError


def check_same_images(fabric: Fabric, sha256: str) -> None:
    """Raise TrainingError in every process unless all have pixels of this hash."""
    mine = torch.frombuffer(bytearray.fromhex(sha256), dtype=torch.uint8).to(fabric.device)
    every = cast(Tensor, fabric.all_gather(mine))  # (processes, 32)
    others = (every != every[0]).any(dim=1).nonzero().flatten().tolist()
    if others:
        raise TrainingError(
            f"process {others[0]} of {fabric.world_size} has read other images than process 0",
            "the same files must lie at the same place on every machine, unchanged meanwhile",
        )


def check_same_folder(fabric: Fabric, folder: Path) -> None:
    """Raise TrainingError in every process unless all see the folder that process 0 sees."""
    mark = folder / f".seen-{fabric.broadcast(secrets.token_hex(8))}"
    try:
        if fabric.is_global_zero:
            with contextlib.suppress(OSError):  # nobody sees it then
                mark.touch()
        fabric.barrier()
        seen = torch.tensor([float(mark.exists())], device=fabric.device)
        every = cast(Tensor, fabric.all_gather(seen)).flatten()
        fabric.barrier()
    finally:
        if fabric.is_global_zero:
            mark.unlink(missing_ok=True)
    blind = (every == 0.0).nonzero().flatten().tolist()
    if blind:
        raise TrainingError(
            f"process {blind[0]} of {fabric.world_size} does not see what process 0 writes into "
            f"{folder}",
            "name an --out on a file system that all machines share",
        )
