"""The protocol of engines, which score the images of a manifest in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.store.journal import Batch


class Engine(Protocol):
    """Scores the images of a manifest, on one machine or on many.

    An engine may work in any order and on any number of machines; what it yields is in the
    manifest's order, without a gap, so that a journal can be continued where it ends. An image
    that cannot be read is a row with a status, never an exception.
    """

    @property
    def device(self) -> str:
        """The kind of device that it computes on, such as "cpu": a part of a run's identity."""
        ...

    @property
    def runtime(self) -> str:
        """What computes, such as "torch" or "openvino 2026.4.1": a part of a run's identity."""
        ...

    @property
    def note(self) -> str:
        """What a user should know of how it computes; usually nothing."""
        ...

    def score(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        """Yield the rows of the images from `start` on, batch by batch."""
        ...
