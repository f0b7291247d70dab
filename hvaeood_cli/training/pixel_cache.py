"""Pixels as a model takes them, in the user's cache folder: images are decoded once.

What was read of a source is an entry, a folder under a hash of all that it depends on: the names
and stamps of the images, how they are taken, and by which versions. An entry has parts, a file for
some images in a row, so that what was read before an interruption stands, and several processes
read a share each. A file is written whole or not at all, and checked when it is read; a damaged one
counts as none. The pixels are mapped from it, so that they need not fit in memory.

    {"format": ..., "entry": ..., "part": 3, "sha256": ...}     of all that follows
    {"shape": [1024, 3, 32, 32], "places": [...], ...}          what was read: `About`
    the pixels, uint8, row after row

The files hold the user's images: nobody else may read them. They may be deleted at any time, also
while they are in use.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow_version
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hvaeood_cli.files import replacing
from hvaeood_cli.images.preprocess import rules_of
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.untrusted import open_regular, parse_json
from hvaeood_cli.user_cache import cache_folder, most_bytes
from hvaeood_cli.version import __version__

Pixels = NDArray[np.uint8]

_FORMAT = "hvaeood-pixels 1"
_MAX_LINE = 1 << 24  # bytes of each of a file's first two lines
_BLOCK = 1 << 22  # bytes that are hashed at a time

_Count = Annotated[int, Field(ge=0)]


class About(BaseModel):
    """What is known of some images in a row, of which the pixels are n rows."""

    model_config = ConfigDict(extra="forbid")

    shape: tuple[_Count, _Count, _Count, _Count]  # (n, C, H, W)
    places: list[_Count]  # in the manifest, of the m images that can be used
    contents: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]  # their `content_key`, (m,)
    n_rows: list[_Count]  # how many rows each has here, (m,)
    n_tiles: list[_Count]  # by how many each is scored, (m,)
    unusable: list[str]  # names of the other images, and why they cannot be used
    may_pass: bool  # whether one of them could not be read for a reason that may pass
    conversions: dict[str, _Count]  # how many images had each `Conversion`, by its name
    n_coloured: _Count  # how many images have more than shades of grey

    @model_validator(mode="after")
    def _check(self) -> Self:
        lengths = {len(self.places), len(self.contents), len(self.n_rows), len(self.n_tiles)}
        if len(lengths) > 1 or sum(self.n_rows) != self.shape[0]:
            raise ValueError("it says different things of how many images there are")
        return self


class Part(NamedTuple):
    """What was read of some images in a row."""

    pixels: Pixels  # (n, C, H, W)
    about: About


@dataclass(frozen=True)
class PixelCache:
    """The parts of one entry. `remark` is told, once, why one could not be kept."""

    folder: Path
    remark: Callable[[str], None] = lambda _: None

    @classmethod
    def of(
        cls, manifest: Manifest, config: ModelConfig, remark: Callable[[str], None] = lambda _: None
    ) -> PixelCache:
        """The entry of these images for a model.

        Raises UsageError where HVAEOOD_CACHE_GB is no number, before anything is read.
        """
        most_bytes()
        identity = {
            "format": _FORMAT,
            "listing": manifest.listing_sha256(),
            "folder": str(Path.cwd()),  # relative names are of files below it
            "rules": rules_of(config),
            "size": config.image_size,
            "channels": config.image_channels,
            "stride": config.stride,  # smaller images cannot be used
            "versions": [__version__, pillow_version],
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        return cls(cache_folder("pixels") / name, remark)

    def load(self, number: int) -> Part | None:
        """A part, its pixels mapped from the file; None if it is not there or damaged."""
        try:
            with open_regular(self._place(number)) as file:
                head, about = file.readline(_MAX_LINE), file.readline(_MAX_LINE)
                known = parse_json(About, about)
                if os.fstat(file.fileno()).st_size != file.tell() + math.prod(known.shape):
                    return None
                pixels = _mapped(file, known.shape)
        except (OSError, ValueError):
            return None
        return Part(pixels, known) if head == self._head(number, about, pixels) else None

    def keep(self, number: int, part: Part) -> Part:
        """Write a part, and map its pixels from the file.

        Where it cannot be written it is returned as it is, and `remark` is told so.
        """
        about = part.about.model_dump_json().encode() + b"\n"
        pixels = np.ascontiguousarray(part.pixels)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self._place(number)) as temporary, temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(self._head(number, about, pixels))
                file.write(about)
                file.write(pixels.data)
        except OSError as error:
            self.remark(
                f"pixels cannot be kept in {self.folder.parent}: {error.strerror or error}; they "
                "are held in memory"
            )
            return part
        return self.load(number) or part

    def _place(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}"

    def _head(self, number: int, about: bytes, pixels: Pixels) -> bytes:
        """The first line of a part's file."""
        digest = hashlib.sha256(about)
        content = pixels.reshape(-1)
        for start in range(0, len(content), _BLOCK):  # so that no more of a file is in memory
            digest.update(content[start : start + _BLOCK].data)
        head = {"format": _FORMAT, "entry": self.folder.name, "part": number}
        return json.dumps(head | {"sha256": digest.hexdigest()}).encode() + b"\n"


def _mapped(file: BinaryIO, shape: tuple[int, ...]) -> Pixels:
    """What lies in a file from its position on."""
    if math.prod(shape) == 0:
        return np.empty(shape, np.uint8)
    return np.memmap(file, np.uint8, mode="r", offset=file.tell(), shape=shape)
