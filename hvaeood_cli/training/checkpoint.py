"""Checkpoints of a training run: each is a whole file, never written over an older one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hvaeood_cli.errors import TrainingError
from hvaeood_cli.files import replacing

_KEEP = 2  # checkpoints
_FORMAT = 2  # the version of a checkpoint's content, and of the noise of the run that goes on
_LONG = 60  # the most characters of a setting in a message


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read into memory."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
    ) -> dict[str, Any]:
        """Load weights, their average and the optimiser's moments. Returns the run's state.

        The model and its average must be on their devices already: each moment goes where its
        parameter is.
        """
        model.load_state_dict(self._under("model."))
        if average is not None:
            average.load_state_dict(self._under("average."))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            if key.startswith("optimizer."):
                index, name = int(key.split(".")[1]), key.split(".")[2]
                if value.shape == parameters[index].shape:  # in the parameter's memory format
                    moment = torch.empty_like(parameters[index]).detach().copy_(value)
                else:
                    moment = value
                moments.setdefault(index, {})[name] = moment
        skeleton = optimizer.state_dict()
        skeleton["state"] = moments
        optimizer.load_state_dict(skeleton)
        return dict(self.state)

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in a folder. A run with another `fingerprint` is another run."""

    folder: Path
    fingerprint: dict[str, Any]

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None,
        state: dict[str, Any],
        step: int,
    ) -> None:
        """Write step-N.safetensors whole, then drop all but the newest two."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        if average is not None:
            tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"step-{step:09d}.safetensors") as temporary:
            metadata = {"state": json.dumps(state), "fingerprint": json.dumps(self._identity)}
            save_file(tensors, temporary, metadata=metadata)
        for old in self._files()[:-_KEEP]:
            old.unlink(missing_ok=True)

    def latest(self, force: bool = False) -> Checkpoint | None:
        """The newest checkpoint that can be read; None at the start of a run.

        Raises TrainingError when it belongs to a run with other settings, and says which differ.
        force: remove such checkpoints instead.
        """
        for path in reversed(self._files()):
            try:
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata()
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError):
                continue  # a torn file; the one before it is whole
            found = json.loads(metadata["fingerprint"])
            if force and found != self._identity:
                self.clear()
                return None
            self._check(found)
            return Checkpoint(tensors, json.loads(metadata["state"]))
        return None

    def clear(self) -> None:
        """Remove all checkpoints, and half-written files that a kill may have left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    @property
    def _identity(self) -> dict[str, Any]:
        """The fingerprint as it reads back from a file, and the format."""
        identity: dict[str, Any] = json.loads(json.dumps(self.fingerprint))
        return identity | {"checkpoint_format": _FORMAT}

    def _check(self, found: dict[str, Any]) -> None:
        current = self._identity
        if found.get("checkpoint_format") != current["checkpoint_format"]:
            raise TrainingError(
                f"{self.folder.parent} holds a run that another version of this program began",
                "finish it with that version, give another --out, or --force to start over",
            )
        keys = sorted(found.keys() | current.keys())
        differing = [key for key in keys if found.get(key) != current.get(key)]
        if differing:
            raise TrainingError(
                f"{self.folder.parent} holds a run with other settings: "
                + ", ".join(
                    line for key in differing for line in _differences(key, found, current)
                ),
                "give the same settings to continue it, another --out, or --force to start over",
            )


def _differences(key: str, found: dict[str, Any], current: dict[str, Any]) -> Iterator[str]:
    """What differs under a key, with both values; in a group of settings, each that differs."""
    there, here = found.get(key), current.get(key)
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                yield from _differences(name, there, here)
    else:
        yield f"{key}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONG else text[:_LONG] + "..."
