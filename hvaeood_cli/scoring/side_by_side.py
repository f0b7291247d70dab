"""Work in several threads at once, whose results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int
) -> Iterator[Result]:
    """The function's results in the items' order, computed by n threads.

    At most n + 1 results wait to be taken, so that memory does not grow with the items. With no
    thread nothing is computed before it is asked for. Raises what the function raises, where its
    result would have come; what has not begun by then never does.
    """
    if n_threads == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="hvaeood")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > n_threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
