"""One step of training: gradients over parts and processes, clipped, or skipped if unusable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from hvaeood_cli.device import precision_of
from hvaeood_cli.errors import TrainingError
from hvaeood_cli.model.ladder import Noise
from hvaeood_cli.settings import TrainSettings
from hvaeood_cli.training.objective import Objective, Pressure, Terms

_START_OVER = (
    "a lower --learning-rate, with --force or another --out; until then the last checkpoint is kept"
)
_MOST_SKIPPED = 20  # more steps in a row without a usable gradient: the run has diverged


class Part(NamedTuple):
    """A part of the images that one process takes of a step's batch."""

    x: Tensor  # (B, C, H, W), observed
    noise: Noise  # by layer, (1, B, ...)
    weight: float  # of the part's mean loss in the mean loss of the whole batch


@dataclass(frozen=True)
class Share:
    """The images that one of several processes takes of a batch.

    A process without an image takes the first one with weight 0.
    """

    of_batch: int  # images of the whole batch
    rows: slice  # which of them this process takes
    n_mine: int  # how many of them count
    n_processes: int

    @classmethod
    def of(cls, n_images: int, fabric: Fabric) -> Share:
        rows = slice(fabric.global_rank, None, fabric.world_size)
        n_mine = len(range(n_images)[rows])
        return cls(n_images, rows if n_mine else slice(0, 1), n_mine, fabric.world_size)

    def parts(self, x: Tensor, noise: Noise, n_parts: int) -> Iterator[Part]:
        """These images in up to n_parts parts. x, noise: of these alone.

        With their weights, the parts' losses, summed over parts and averaged over processes, are
        the mean over the whole batch, even if it does not divide evenly.
        """
        n_parts = min(n_parts, max(self.n_mine, 1))
        by_part = [eps.tensor_split(n_parts, dim=1) for eps in noise]
        for share, *of_share in zip(x.tensor_split(n_parts), *by_part, strict=True):
            weight = self.n_processes * min(len(share), self.n_mine) / self.of_batch
            yield Part(share.contiguous(memory_format=torch.channels_last), of_share, weight)


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
        model = cast(nn.Module, torch.compile(objective)) if compiled else objective
        # The model is on its device; moving it now would leave the optimiser's tensors behind.
        self.objective, self.optimizer = fabric.setup(model, optimizer, move_to_device=False)
        self.objective.train()
        self.fabric, self.settings = fabric, settings
        self._precision = precision_of(fabric)
        self._skipped_in_a_row = 0

    def step(
        self,
        parts: list[Part],
        k: int | None,
        pressure: Pressure,
        number: int,
        seen: Callable[[Terms, int], None],
    ) -> bool:
        """Take one step on a whole batch; returns False if its gradient was not used.

        A gradient is not used if its norm is above `gradient_skip` or, in mixed precision, not
        finite. parts: this process's share. k: of the semantic term, None without it. number: the
        step's, for messages. seen: called with the terms and the number of images of each part.
        Raises TrainingError if the loss or, in full precision, its gradient is not finite, and if
        too many steps in a row are skipped.

        Processes may have different numbers of parts, so they speak to each other once a step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * pressure.learning_rate
        self.optimizer.zero_grad()
        finite = []
        for i, part in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.objective, enabled=i < len(parts)):
                loss, terms = self.objective(part.x, part.noise, k, pressure)
                self.fabric.backward(loss * part.weight)
            finite.append(_finite(loss, terms, k))
            seen(terms, len(part.x))
        self._check_finite(torch.stack(finite).amin(0), k, number)
        norm = self.fabric.clip_gradients(
            self.objective,
            self.optimizer,
            max_norm=self.settings.gradient_clip,
            error_if_nonfinite=False,
        )
        usable = self._usable(norm)
        self._skipped_in_a_row = 0 if usable else self._skipped_in_a_row + 1
        finite_norm = norm is None or bool(torch.isfinite(norm))
        if self._skipped_in_a_row > (_MOST_SKIPPED if finite_norm or self._mixed else 0):
            if finite_norm:
                raise _too_long(self.settings.gradient_skip, number)
            raise _diverged("the gradient", number, self._bad_weights(parts[-1], k, pressure))
        if usable or self._precision == "16-mixed":  # its scaler skips the step, and adapts
            self.optimizer.step()
        return usable

    def state(self) -> dict[str, Any]:
        """What a resumed run must know besides the optimiser's own state, as JSON."""
        scaler = self._scaler
        return {
            "skipped_in_a_row": self._skipped_in_a_row,
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self._skipped_in_a_row = state["skipped_in_a_row"]
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """The loss scaler of 16-mixed precision, which adapts to overflows; None in any other."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    @property
    def _mixed(self) -> bool:
        """Whether a gradient may overflow now and then in a sound run."""
        return self._precision not in ("32-true", "tf32")

    def _usable(self, norm: Tensor | None) -> bool:
        limit = self.settings.gradient_skip or math.inf
        return norm is None or (bool(torch.isfinite(norm)) and float(norm) <= limit)

    def _check_finite(self, finite: Tensor, k: int | None, number: int) -> None:
        """Raise TrainingError in every process if a term is not finite in any of them.

        finite: 1 for each term that is finite, else 0, in the order of `_finite`.
        """
        if self.fabric.world_size > 1:
            finite = cast(Tensor, self.fabric.all_reduce(finite, reduce_op="min"))
        if finite.all():
            return
        n_layers = len(finite) // 2 - 1
        passes = ("", "" if k is None else f" in L^{{>{k}}}")
        names = [
            f"{term}{which}"
            for which in passes
            for term in ("log p(x|z)", *(f"KL of z_{i}" for i in range(1, n_layers + 1)))
        ]
        bad = [name for name, good in zip(names, finite, strict=False) if not good]
        raise _diverged("the loss", number, " and ".join(bad) or "the sum of its terms")

    def _bad_weights(self, part: Part, k: int | None, pressure: Pressure) -> str:
        """The weights whose gradient is not finite.

        The part is run once more, since clipping has spoilt all gradients.
        """
        self.optimizer.zero_grad()
        loss, _ = self.objective(part.x, part.noise, k, pressure)
        self.fabric.backward(loss)
        names = [
            name.rpartition("ladder.")[2]
            for name, weight in self.objective.named_parameters()
            if weight.grad is not None and not torch.isfinite(weight.grad).all()
        ]
        return ", ".join(names[:3]) or "in many steps in a row"


def _finite(loss: Tensor, terms: Terms, k: int | None) -> Tensor:
    """1 for each term that is finite, else 0, (2 (L + 1) + 1,).

    The terms are log p(x|z) and the KLs of the ELBO's pass, those of the semantic term's, the loss.
    """
    log_px_k = torch.zeros_like(terms.log_px) if k is None else terms.log_px_k
    every = (terms.log_px[None], terms.kl, log_px_k[None], terms.kl_k, loss.detach()[None])
    return torch.isfinite(torch.cat(every)).float()


def _diverged(what: str, number: int, where: str) -> TrainingError:
    return TrainingError(f"{what} is not finite at step {number}: {where}", _START_OVER)


def _too_long(limit: float | None, number: int) -> TrainingError:
    return TrainingError(
        f"every gradient of the last {_MOST_SKIPPED + 1} steps, up to step {number}, is longer "
        f"than gradient_skip = {limit:g}",
        "a larger --set gradient_skip=N; " + _START_OVER,
    )
