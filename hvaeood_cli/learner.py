"""From a batch to a step: gradients over parts and processes, clipped, skipped where unusable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from hvaeood_cli.errors import TrainingError
from hvaeood_cli.model.ladder import Noise
from hvaeood_cli.objective import Objective, Pressure, Terms
from hvaeood_cli.settings import TrainSettings

_MOST_SKIPPED = 20  # steps in a row without a usable gradient are a run that has diverged


class Part(NamedTuple):
    """Some of one process's share of a step's images."""

    x: Tensor  # (B, C, H, W), observed
    noise: Noise  # by layer, (1, B, ...)
    weight: float  # of its mean loss in the whole batch's


def shares(x: Tensor, noise: Noise, n_parts: int, fabric: Fabric) -> Iterator[Part]:
    """This process's share of a batch, in up to n_parts parts, on its device.

    Weights make the sum over parts, averaged over processes, the mean over the whole batch, even
    where it does not divide evenly. A process without an image takes the first with weight 0.
    """
    mine = torch.arange(len(x))[fabric.global_rank :: fabric.world_size]
    rows = mine if len(mine) else torch.zeros(1, dtype=torch.long)
    for part in rows.tensor_split(min(n_parts, len(rows))):
        weight = fabric.world_size * min(len(part), len(mine)) / len(x)
        share = x[part].contiguous(memory_format=torch.channels_last)
        yield Part(
            fabric.to_device(share), [fabric.to_device(eps[:, part]) for eps in noise], weight
        )


class Learner:
    """An objective and its optimiser, set up by Fabric."""

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        optimizer: Optimizer,
        settings: TrainSettings,
        compiled: bool,
    ) -> None:
        model = torch.compile(objective) if compiled else objective
        self.objective, self.optimizer = fabric.setup(model, optimizer)
        self.objective.train()
        self.fabric, self.settings = fabric, settings
        self._precision: str = fabric.strategy.precision.precision
        self._skipped_in_a_row = 0

    def step(
        self,
        parts: list[Part],
        k: int | None,
        pressure: Pressure,
        number: int,
        seen: Callable[[Terms, int], None],
    ) -> bool:
        """One step on a whole batch; False where its gradient was not used.

        That is where its norm is above `gradient_skip`, or in mixed precision not finite. seen:
        called with the terms and the number of images of each part. Raises TrainingError where
        the loss, or in full precision its gradient, is not finite, and where too many steps in a
        row are skipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * pressure.learning_rate
        self.optimizer.zero_grad()
        for i, part in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.objective, enabled=i < len(parts)):
                loss, terms = self.objective(part.x, part.noise, k, pressure)
                self._check_finite(loss, terms, number)
                self.fabric.backward(loss * part.weight)
            seen(terms, len(part.x))
        norm = self.fabric.clip_gradients(
            self.objective,
            self.optimizer,
            max_norm=self.settings.gradient_clip,
            error_if_nonfinite=False,
        )
        usable = self._usable(norm)
        self._skipped_in_a_row = 0 if usable else self._skipped_in_a_row + 1
        if self._skipped_in_a_row > self._patience(norm):
            raise _diverged("the gradient", number, self._bad_weights(parts[-1], k, pressure))
        if usable or self._precision == "16-mixed":  # there its scaler skips, and learns from it
            self.optimizer.step()
        return usable

    def _usable(self, norm: Tensor | None) -> bool:
        limit = self.settings.gradient_skip or math.inf
        return norm is None or (bool(torch.isfinite(norm)) and float(norm) <= limit)

    def _patience(self, norm: Tensor | None) -> int:
        """How many steps in a row may be skipped: none for what is not finite in full precision."""
        finite = norm is None or bool(torch.isfinite(norm))
        return _MOST_SKIPPED if finite or self._precision != "32-true" else 0

    def _check_finite(self, loss: Tensor, terms: Terms, number: int) -> None:
        """Raise TrainingError, in every process, where any process's loss is not finite."""
        finite = torch.isfinite(loss.detach()).float()
        if self.fabric.world_size > 1:
            finite = self.fabric.all_reduce(finite, reduce_op="min")
        if finite:
            return
        named = {"log p(x|z)": terms.log_px}
        named |= {f"KL of z_{i}": kl for i, kl in enumerate(terms.kl, start=1)}
        bad = [name for name, value in named.items() if not torch.isfinite(value)]
        where = "in another process" if torch.isfinite(loss) else "the semantic term L^{>k}"
        raise _diverged("the loss", number, " and ".join(bad) or where)

    def _bad_weights(self, part: Part, k: int | None, pressure: Pressure) -> str:
        """Whose gradient is not finite: the part once more, for clipping has spoilt them all."""
        self.optimizer.zero_grad()
        loss, _ = self.objective(part.x, part.noise, k, pressure)
        self.fabric.backward(loss)
        names = [
            name.rpartition("ladder.")[2]
            for name, weight in self.objective.named_parameters()
            if weight.grad is not None and not torch.isfinite(weight.grad).all()
        ]
        return ", ".join(names[:3]) or "or is too long, in many steps in a row"


def _diverged(what: str, number: int, where: str) -> TrainingError:
    return TrainingError(
        f"{what} is not finite at step {number}: {where}",
        "the last checkpoint is kept; try a lower --learning-rate",
    )
