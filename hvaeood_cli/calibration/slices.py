"""Many rows, a slice at a time: what is computed of them takes little memory, and every core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_ROWS = 1 << 14


def slices(n: int) -> Iterator[slice]:
    """Slices of n rows, in order."""
    return (slice(first, min(first + _ROWS, n)) for first in range(0, n, _ROWS))


def for_slices(n: int, do: Callable[[slice], None]) -> None:
    """Call `do` for every slice of n rows, several at a time."""
    if n <= _ROWS:
        do(slice(0, n))
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(do, slices(n)))


def in_slices(n: int, of: Callable[[slice], NDArray[np.float64]]) -> NDArray[np.float64]:
    """What `of` gives for each row of a slice, for all n rows: (n,)."""
    found = np.empty(n)

    def fill(part: slice) -> None:
        found[part] = of(part)

    for_slices(n, fill)
    return found
