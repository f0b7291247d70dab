"""Stretches: consecutive images of a manifest, which workers score out of order and with deaths.

stretches  ->  a few for each worker  ->  results as they come  ->  batches, in order
by position    (`AT_ONCE`)                a lost one is given       (at most `AHEAD` a worker
                                          again                     wait for an earlier one)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.store.journal import Batch

AT_ONCE = 2  # stretches that a worker has, so that it never waits for the next
AHEAD = 8  # stretches for each worker from the first that is lacking to the last that is given
MOST_DEATHS = 3  # of workers, over one stretch or one after the other as they begin


class Answer(NamedTuple):
    """What became of a worker, or of a stretch that it had."""

    worker: int
    stretch: int | None = None  # its number; None: of the worker itself, which has begun or is lost
    batches: Sequence[Batch] = ()
    lost: str = ""  # why the worker is no more, with all that it had


class Pool(Protocol):
    """Workers, by number. Each scores what it is given, one stretch after the other."""

    @property
    def n_workers(self) -> int: ...

    def begin(self, worker: int) -> None:
        """Start a worker, in the place of a lost one if there was one. `wait` says when it has."""
        ...

    def give(self, worker: int, number: int, stretch: range) -> None:
        """Let a worker that has begun score a stretch."""
        ...

    def wait(self) -> Answer:
        """The next answer of any worker."""
        ...


def in_order(stretches: Sequence[range], pool: Pool) -> Iterator[Batch]:
    """The batches of all stretches in order, whatever order workers give them back in.

    A lost worker is replaced, and what it had is scored again: that gives the same scores. Raises
    HvaeoodError for a stretch over which `MOST_DEATHS` workers died, and where as many die one
    after the other before they have begun.
    """
    given: dict[int, deque[int]] = {}  # of each worker that has begun; it works on the first
    again: list[int] = []  # a heap
    back: dict[int, Sequence[Batch]] = {}
    deaths: Counter[int] = Counter()
    stillborn = lacking = fresh = 0
    while lacking < len(stretches):
        end = min(len(stretches), lacking + AHEAD * pool.n_workers)
        while (again or fresh < end) and (worker := _with_room(given)) is not None:
            number = heappop(again) if again else fresh
            fresh = max(fresh, number + 1)
            given[worker].append(number)
            pool.give(worker, number, stretches[number])
        answer = pool.wait()
        if answer.lost:
            had = given.pop(answer.worker, None)
            if had is None:
                stillborn += 1
                if stillborn >= MOST_DEATHS:
                    raise _never_began(answer.lost)
            elif had:
                deaths[had[0]] += 1
                if deaths[had[0]] >= MOST_DEATHS:
                    raise _deadly(stretches[had[0]], answer.lost)
            for number in had or ():
                heappush(again, number)
            pool.begin(answer.worker)
        elif answer.stretch is None:
            given[answer.worker], stillborn = deque(), 0
        else:
            given[answer.worker].remove(answer.stretch)
            back[answer.stretch] = answer.batches
            while lacking in back:
                yield from back.pop(lacking)
                lacking += 1


def _with_room(given: dict[int, deque[int]]) -> int | None:
    """The worker that has least to do, if it may have more."""
    least = min(given, key=lambda worker: len(given[worker]), default=None)
    return None if least is None or len(given[least]) >= AT_ONCE else least


def _deadly(stretch: range, why: str) -> HvaeoodError:
    return HvaeoodError(
        f"{MOST_DEATHS} workers died over images {stretch.start:,} to {stretch.stop - 1:,} of "
        f"those that are left: {why}",
        "what was scored is kept; score that part with --engine local, or with smaller images or "
        "more memory a worker",
    )


def _never_began(why: str) -> HvaeoodError:
    return HvaeoodError(
        f"{MOST_DEATHS} workers died one after the other as they began: {why}",
        "install the same hvaeood on every node of the cluster",
    )
