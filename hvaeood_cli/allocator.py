"""The C library's allocator: whether memory that is freed is kept, or goes back to the system.

It is the process's. On a system without glibc, nothing here happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_USUAL_MMAP_MAX = 65536
_MOST_MMAP_THRESHOLD = 32 << 20
_RETURNED = 4 << 20  # bytes of a block that goes back to the system after `return_memory`

_changing = threading.Lock()
_n_keeping = 0


def keep_memory() -> None:
    """Ask glibc's allocator to keep freed blocks instead of returning each to the system.

    A network's activations are megabytes, allocated and freed at every layer; by default each is
    mapped, cleared page by page and unmapped again. Keeping them is 1.2 to 1.4 times faster on a
    CPU (`python -m benchmarks.scoring`).
    """
    _mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
    _mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def return_memory() -> None:
    """Give back what `keep_memory` has kept, and no longer keep as much: no network computes now.

    Not glibc's 128 KiB: those it raises by itself to what a program frees, until it is told any
    number. With each block of 128 KiB mapped, deciding and ranking take nearly three times as long.
    """
    _mallopt(_M_MMAP_THRESHOLD, _RETURNED)
    _mallopt(_M_TRIM_THRESHOLD, 2 * _RETURNED)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def keeping_large_blocks() -> Iterator[None]:
    """Inside a `with` block, `keep_memory` is true of blocks above 32 MiB, too.

    What the host process allocates elsewhere goes back to the system when it is freed. Several
    threads may be inside at once.
    """
    global _n_keeping  # noqa: PLW0603  it is the process's, as its allocator is
    with _changing:
        _n_keeping += 1
        _mallopt(_M_MMAP_MAX, 0)
    try:
        yield
    finally:
        with _changing:
            _n_keeping -= 1
            if not _n_keeping:
                _mallopt(_M_MMAP_MAX, _USUAL_MMAP_MAX)


def _mallopt(what: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(what, value)
