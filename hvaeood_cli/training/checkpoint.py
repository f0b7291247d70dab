"""Checkpoints of a training run: each is a whole file, never written over an older one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from hvaeood_cli.errors import TrainingError
from hvaeood_cli.files import replacing
from hvaeood_cli.model.bundle import MAX_EPOCHS, Epoch
from hvaeood_cli.model.weights import read_weights_header
from hvaeood_cli.untrusted import parse_json, read_regular

_KEEP = 2  # checkpoints
_MAX_BYTES = 1 << 36  # of a checkpoint
_FORMAT = 2  # the version of a checkpoint's content, and of the noise of the run that goes on
_LONG = 60  # the most characters of a setting in a message


_Count = Annotated[int, Field(ge=0)]


class _Learner(BaseModel):
    """What a learner keeps; see `Learner.state`."""

    model_config = ConfigDict(extra="forbid")

    skipped_in_a_row: _Count
    scaler: dict[str, float | int] | None


class _State(BaseModel):
    """Where a run stands; see `State` of the loop."""

    model_config = ConfigDict(extra="forbid")

    step: _Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    skipped: _Count
    curve: Annotated[list[Epoch], Field(max_length=MAX_EPOCHS)]  # as the model will say it
    learner: _Learner


class _Fingerprint(BaseModel):
    """What identifies a run: whatever it says, it must be equal to the run's own."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read into memory."""

    path: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
    ) -> dict[str, Any]:
        """Load weights, their average and the optimiser's moments. Returns the run's state.

        The model and its average must be on their devices already: each moment goes where its
        parameter is. Raises TrainingError for tensors that are not theirs.
        """
        try:
            self._check(model, optimizer, average)
        except ValueError as error:
            raise _damaged(self.path, error) from None
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

    def _check(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
    ) -> None:
        """Raise ValueError unless the tensors are those of this model and optimiser."""
        expected = {f"model.{name}": value for name, value in model.state_dict().items()}
        if average is not None:
            expected |= {f"average.{name}": value for name, value in average.state_dict().items()}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        started = any(key.startswith("optimizer.") for key in self.tensors)
        for index, parameter in enumerate(parameters if started else ()):
            key = f"optimizer.{index}"
            if f"{key}.step" in self.tensors:  # not so where it never had a gradient
                expected[f"{key}.step"] = torch.zeros(())
                expected |= {f"{key}.exp_avg": parameter, f"{key}.exp_avg_sq": parameter}
        described = {key: (value.dtype, value.shape) for key, value in self.tensors.items()}
        wanted = {key: (value.dtype, value.shape) for key, value in expected.items()}
        for key in sorted(described.keys() | wanted.keys()):
            if described.get(key) != wanted.get(key):
                raise ValueError(f"{key[:80]} is not as the model has it")

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
        """Write step-N.safetensors whole, then drop all but two. Raises TrainingError."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        if average is not None:
            tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        path = self.folder / f"step-{step:09d}.safetensors"
        metadata = {"state": json.dumps(state), "fingerprint": json.dumps(self._identity)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write {path}: {getattr(error, 'strerror', None) or error}",
                "make room, then run the same command again: it goes on from the checkpoint before",
            ) from None
        for old in self._files()[:-_KEEP]:
            old.unlink(missing_ok=True)

    def latest(self, force: bool = False) -> Checkpoint | None:
        """The newest checkpoint that can be read; None at the start of a run.

        Raises TrainingError when it belongs to a run with other settings, and says which differ;
        and where there are checkpoints and none can be read. force: remove such checkpoints
        instead.
        """
        damaged = None
        for path in reversed(self._files()):
            try:
                found, fingerprint = _read(path)
            except (ValueError, OSError, SafetensorError) as error:
                damaged = damaged or _damaged(path, error)
                continue  # the one before it may be whole
            if force and fingerprint != self._identity:
                self.clear()
                return None
            self._check(fingerprint)
            return found
        if damaged and not force:
            raise damaged
        return None

    @property
    def exist(self) -> bool:
        """Whether the run has left any: it is not done before they are cleared."""
        return bool(self._files())

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


def _read(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint, and the fingerprint of its run.

    Raises ValueError, OSError and SafetensorError.
    """
    data = read_regular(path, _MAX_BYTES)
    header = read_weights_header(data, len(data))
    if not {"state", "fingerprint"} <= header.metadata.keys():
        raise ValueError("it says nothing of its run")
    fingerprint = parse_json(_Fingerprint, header.metadata["fingerprint"]).model_dump()
    state = parse_json(_State, header.metadata["state"]).model_dump(exclude_unset=True)
    if path.name != f"step-{state['step']:09d}.safetensors":
        raise ValueError(f"it is of step {state['step']}")
    return Checkpoint(path, load(data), state), fingerprint


def _damaged(path: Path, error: Exception) -> TrainingError:
    reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0][:200]
    return TrainingError(
        f"{path} is not a whole checkpoint: {reason}",
        "remove it to go on from the one before it, if there is one; or --force to start over",
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
