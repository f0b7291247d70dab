"""An album keeps the pictures that were shown last, so that going back to one takes no time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from hvaeood_cli.errors import HvaeoodError

T = TypeVar("T")


class Album(Generic[T]):
    """Keeps the last `size` results. Failures are not kept, since files may be mended."""

    def __init__(self, make: Callable[[int], T | HvaeoodError], size: int = 64) -> None:
        self._make = make
        self._size = size
        self._kept: OrderedDict[int, T] = OrderedDict()

    def kept(self, row: int) -> T | None:
        """The result for a row, if it is kept; else None."""
        if row in self._kept:
            self._kept.move_to_end(row)
        return self._kept.get(row)

    def make(self, row: int) -> T | HvaeoodError:
        """Make the result for a row: slow, so call it in a thread. Returns errors, raises none."""
        try:
            return self._make(row)
        except HvaeoodError as error:
            return error
        except Exception as error:  # a model or a decoder may raise anything; the screen goes on
            return HvaeoodError(f"{type(error).__name__}: {error}", "")

    def keep(self, row: int, found: T) -> None:
        self._kept[row] = found
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
