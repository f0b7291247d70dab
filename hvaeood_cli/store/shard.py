"""Shards: a manifest is cut into so many, by position, and each can be scored on its own."""

from __future__ import annotations

from typing import NamedTuple


class Shard(NamedTuple):
    """Shard `number` of `of` shards, counted from 1. No two differ by more than an image."""

    number: int
    of: int

    def places(self, n_images: int) -> range:
        """The places of its images among n; none where there are more shards than images."""
        first, last = (n_images * i // self.of for i in (self.number - 1, self.number))
        return range(first, last)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
