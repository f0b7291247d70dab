"""A file that is wrong in one place, and what cutting and flipping makes of any file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """Something done to one of the files in a folder where all is well."""

    name: str
    spoil: Callable[[Path], None]
    file: str  # which one
    refused: bool = False  # whether every command that reads it must refuse it
    same: bool = False  # whether scores that are made of it must be those of a whole one


def truncated(file: str, seed: int, n: int) -> Iterator[Case]:
    """A file cut at each of its blocks, and at random."""

    def cut(at: int | float) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            data = (folder / file).read_bytes()
            at_byte = int(at * len(data)) if isinstance(at, float) else min(at, len(data) - 1)
            (folder / file).write_bytes(data[:at_byte])

        return spoil

    noise = random.Random(seed)
    for block in (0, 1, 7, 8, 48, 96, 512, 2048, 4096, 8192, 16384):
        yield Case(f"{file}: cut at {block}", cut(block), file)
    for _ in range(n):
        at = noise.random()
        yield Case(f"{file}: cut at {at:.4%}", cut(at), file)


def flipped(file: str, seed: int, n: int, same: bool = False) -> Iterator[Case]:
    """A file with some bytes changed: one bit, one byte, or a stretch of zeros."""

    def change(number: int) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            noise = random.Random(f"{seed} {number}")
            data = bytearray((folder / file).read_bytes())
            for _ in range(1 if number % 3 else 8):
                at = noise.randrange(len(data))
                if number % 5 == 0:
                    data[at : at + 64] = bytes(len(data[at : at + 64]))
                elif number % 2:
                    data[at] ^= 1 << noise.randrange(8)
                else:
                    data[at] = noise.randrange(256)
            (folder / file).write_bytes(data)

        return spoil

    for number in range(n):
        yield Case(f"{file}: flipped, {number}", change(number), file, same=same)
