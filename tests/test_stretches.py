"""Stretches that workers score out of order, and with deaths: batches come in order, each once."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.scoring.engines.stretches import AHEAD, AT_ONCE, MOST_DEATHS, Answer, in_order
from hvaeood_cli.store.columns import Sizes, blank_rows
from hvaeood_cli.store.journal import Batch


class Fake:
    """A pool whose workers answer in a random order, and die where `dies` says so."""

    def __init__(self, n_workers: int, dies: Callable[[int, int], bool] = lambda *_: False) -> None:
        self.n_workers, self.dies = n_workers, dies
        self.has: dict[int, deque[tuple[int, range]]] = {}
        self.beginning = set(range(n_workers))
        self.scored: Counter[int] = Counter()
        self.most_ahead = 0
        self.random = random.Random(0)

    def begin(self, worker: int) -> None:
        self.beginning.add(worker)

    def give(self, worker: int, number: int, stretch: range) -> None:
        assert len(self.has[worker]) < AT_ONCE
        self.has[worker].append((number, stretch))

    def wait(self) -> Answer:
        busy = [worker for worker, has in self.has.items() if has]
        worker = self.random.choice(sorted(self.beginning) + busy)
        if worker in self.beginning:
            self.beginning.remove(worker)
            if self.dies(worker, -1):
                return Answer(worker, lost="no such module")
            self.has[worker] = deque()
            return Answer(worker)
        number, stretch = self.has[worker].popleft()
        if self.dies(worker, number):
            del self.has[worker]
            return Answer(worker, lost="killed")
        self.scored[number] += 1
        half = len(stretch) // 2
        parts = [stretch[:half], stretch[half:]]
        sizes = Sizes(3)
        rows = [Batch(part.start, blank_rows(len(part), sizes), {}) for part in parts if part]
        return Answer(worker, number, rows)


def places(batches: Iterator[Batch]) -> list[int]:
    return [batch.first + i for batch in batches for i in range(len(batch.rows))]


STRETCHES = [range(i, min(i + 7, 300)) for i in range(5, 300, 7)]


@pytest.mark.parametrize("n_workers", [1, 2, 50])
def test_batches_come_in_order(n_workers):
    pool = Fake(n_workers)
    assert places(in_order(STRETCHES, pool)) == list(range(5, 300))
    assert set(pool.scored.values()) == {1}


def test_what_a_lost_worker_had_is_scored_again():
    luck = np.random.default_rng(1)
    pool = Fake(3, lambda *_: luck.random() < 0.2)
    assert places(in_order(STRETCHES, pool)) == list(range(5, 300))


def test_a_slow_stretch_does_not_fill_memory():
    """The others go no further than `AHEAD` stretches for each worker."""
    pool, gave = Fake(2), []

    def others_first(workers: list[int]) -> int:
        """The worker that has stretch 0 is heard only when no other has anything to say."""
        slow = [w for w in workers if pool.has.get(w) and pool.has[w][0][0] == 0]
        return next((w for w in workers if w not in slow), workers[0])

    def noted(worker: int, number: int, stretch: range) -> None:
        gave.append((number, pool.scored[0]))
        Fake.give(pool, worker, number, stretch)

    pool.random.choice, pool.give = others_first, noted
    assert places(in_order(STRETCHES, pool)) == list(range(5, 300))
    before = [number for number, is_back in gave if not is_back]
    assert max(before) == AHEAD * 2 - 1 < len(STRETCHES) - 1


def test_an_image_that_kills_workers_ends_the_run_with_its_place():
    pool = Fake(2, lambda _, number: number == 4)
    batches, seen = in_order(STRETCHES, pool), []
    with pytest.raises(HvaeoodError, match=f"{MOST_DEATHS} workers died over images 33 to 39"):
        seen.extend(iter_places(batches))
    assert seen == list(range(5, 33)), "what comes before it is not lost"


def iter_places(batches: Iterator[Batch]) -> Iterator[int]:
    for batch in batches:
        yield from range(batch.first, batch.first + len(batch.rows))


def test_workers_that_never_begin_end_the_run():
    pool = Fake(2, lambda _, number: number == -1)
    with pytest.raises(HvaeoodError, match="as they began: no such module"):
        list(in_order(STRETCHES, pool))
