"""The file of a calibration, as an archive: its members are checked before they are unpacked.

`calibration.npz` is a zip of NumPy arrays, and of a head in JSON. It may come with somebody else's
model or score file, so nothing of it is believed: how large a member is, what shape and type its
array has, that the numbers are numbers. What is not as `Head` and the column table say is a
ValueError.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hvaeood_cli.store.columns import Sizes, column, columns
from hvaeood_cli.untrusted import (
    ArrayHeader,
    check_size,
    parse_array,
    parse_json,
    read_array_header,
)

FORMAT, FORMAT_VERSION = "hvaeood-calibration", 6
MAX_UNPACKED = 1 << 27  # bytes: the scores of more than a million images
MAX_FOLDS = 16
_MAX_HEAD = 1 << 20
_MAX_LAYERS = 64
_MAX_COMPONENTS = 64
_MAX_CHANNELS = 65536
_MAX_DEFLATE = 1100  # zip's best ratio; a member that claims more is not in the file
_SLACK = 1 << 12  # bytes of a member that are not its array
DENSITY = ("centre", "spread", "log_weights", "means", "precisions", "tail")

_Word = Annotated[str, Field(max_length=200)]
_Name = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
_Samples = Annotated[int, Field(ge=1, le=10_000)]


class Version(BaseModel):
    """What every version of a head says."""

    format: str
    format_version: int


class Settings(BaseModel):
    """The settings that the scores were made with: the keys of `MUST_AGREE`."""

    model_config = ConfigDict(extra="forbid")

    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    n_importance_samples: _Samples
    n_importance_samples_k: _Samples
    proposal: Literal["mean", "sample"]
    precision: _Word
    preprocessing: Annotated[str, Field(max_length=4096)]


class About(BaseModel):
    """Facts for people."""

    model_config = ConfigDict(extra="allow")

    model_name: Annotated[str, Field(max_length=4096)]
    n_fit: Annotated[int, Field(ge=0)] = 0
    converted: Annotated[list[_Word], Field(max_length=64)] = []
    within: bool = False
    made_by: _Word = ""


class Head(Version):
    """The head, as this version writes it."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    settings: Settings
    about: About
    columns: Annotated[list[str], Field(max_length=64)]
    aspects: Annotated[
        dict[_Name, Annotated[list[str], Field(min_length=1, max_length=64)]],
        Field(min_length=1, max_length=16),
    ]
    folds: Annotated[int, Field(ge=1, le=MAX_FOLDS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {entry.name: entry for entry in columns("scores")}
        judged = [name for names in self.aspects.values() for name in names]
        strange = [name for name in (*self.columns, *judged) if name not in known]
        if strange:
            raise ValueError(f"no score is called {strange[0][:80]!r}")
        if any(len({*names}) < len(names) for names in (self.columns, *self.aspects.values())):
            raise ValueError("it names a score twice")
        needed = {entry.name for entry in known.values() if not entry.optional}
        missing = sorted(needed - {*self.columns}) + sorted({*judged} - {*self.columns})
        if missing:
            raise ValueError(f"score_{missing[0]} is missing")
        if any(known[name].density is None for name in judged):
            raise ValueError("its density is of something else than statistics")
        return self


class Member(NamedTuple):
    """What an array of the archive must be."""

    shape: tuple[int, ...]
    dtype: str


class Archive:
    """The members of a calibration's file."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        members = archive.infolist()
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        if len(self._members) < len(members):
            raise ValueError("it has two members of one name")
        if sum(member.file_size for member in members) > MAX_UNPACKED:
            raise ValueError(f"it claims to be larger than {MAX_UNPACKED >> 20} MiB")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename[:80]!r} is compressed in another way")
            packed = min(member.compress_size, size)
            if member.file_size > _MAX_DEFLATE * packed + _SLACK:
                raise ValueError(f"{member.filename[:80]!r} claims more than the file can hold")

    @classmethod
    @contextmanager
    def opened(cls, data: bytes) -> Iterator[Self]:
        """The archive in a file's content. Raises ValueError for whatever is wrong with it."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield cls(archive, len(data))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, KeyError) as error:
            # RuntimeError: an encrypted member, or (NotImplementedError) an unknown compression
            raise ValueError(str(error).strip().split("\n")[0]) from None

    def head(self) -> str:
        """The head's JSON. Raises ValueError."""
        data = self._read("head", _MAX_HEAD)
        array = parse_array(data)
        if array.ndim or array.dtype.kind != "U":
            raise ValueError("its head is no text")
        return str(array)

    def arrays(self, head: Head) -> dict[str, NDArray[Any]]:
        """Every array, of the shape and type that it must have. Raises ValueError."""
        expected = self._expected(head)
        strange = self._members.keys() - expected.keys() - {"head"}
        if strange:
            raise ValueError(f"nothing is called {min(strange)[:80]!r}")
        for name, (shape, dtype) in expected.items():
            there = self._header(name)
            if there.shape != shape:
                raise ValueError(f"{name} has the wrong shape, {there.shape}: expected {shape}")
            if there.dtype != np.dtype(dtype):
                raise ValueError(f"{name} holds {there.dtype}, not {dtype}")
        arrays = {name: parse_array(self._read(name, MAX_UNPACKED)) for name in expected}
        _check_values(arrays, head)
        return arrays

    def _expected(self, head: Head) -> dict[str, Member]:
        """What each array must be, by what a few of them say of how many there are."""
        n, n_layers = self._extent("score_lower_bound", 2)
        (n_ranked,) = self._extent("combined", 1)
        if not 2 <= n_layers <= _MAX_LAYERS or not 1 <= n_ranked <= n:
            raise ValueError(f"scores of {n} images, {n_ranked} of them ranked, {n_layers} layers")
        n_channels = self._extent("score_kl_channel", 2)[1] if "kl_channel" in head.columns else 0
        if n_channels > _MAX_CHANNELS:
            raise ValueError(f"scores of {n_channels} channels")
        shapes = {name: column(name).shape(Sizes(n_layers, n_channels)) for name in head.columns}
        found = {
            f"score_{name}": Member((n, *shape), column(name).dtype)
            for name, shape in shapes.items()
        }
        found |= {"content": Member((n,), "uint64"), "combined": Member((n_ranked,), "float64")}
        found["shift"] = Member((head.folds,), "float64")
        for fold, (aspect, names) in product(range(head.folds), head.aspects.items()):
            widths = (
                range(*shapes[name] or (1,))[column(name).density or slice(None)] for name in names
            )
            found |= self._density(fold, aspect, sum(map(len, widths)))
        return found

    def _density(self, fold: int, aspect: str, n_dims: int) -> dict[str, Member]:
        """What the arrays of a density over so many statistics must be."""
        (n_parts,) = self._extent(member(fold, aspect, "log_weights"), 1)
        if not 1 <= n_parts <= _MAX_COMPONENTS:
            raise ValueError(f"a density of {n_parts} components")
        shapes: list[tuple[int, ...]] = [(n_dims,), (n_dims,), (n_parts,)]
        shapes += [(n_parts, n_dims), (n_parts, n_dims, n_dims), (3,)]
        names = (member(fold, aspect, name) for name in DENSITY)
        return {name: Member(shape, "float64") for name, shape in zip(names, shapes, strict=True)}

    def _extent(self, name: str, n_dims: int) -> tuple[int, ...]:
        shape = self._header(name).shape
        if len(shape) != n_dims:
            raise ValueError(f"{name} has the wrong shape, {shape}")
        return shape

    def _header(self, name: str) -> ArrayHeader:
        """What a member says of its array, which fits its size. Raises ValueError."""
        with self._archive.open(self._member(name)) as file:
            header = read_array_header(file)  # type: ignore[arg-type]
            check_size(header, self._member(name).file_size - file.tell())
            return header

    def _read(self, name: str, most: int) -> bytes:
        member = self._member(name)
        if member.file_size > most:
            raise ValueError(f"{name} is larger than {most} bytes")
        with self._archive.open(member) as file:
            return file.read(member.file_size)  # and no more, whatever the stream holds

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise ValueError(f"{name} is missing")
        return self._members[name]


def parse_head(text: str) -> Head:
    """The head of this version. Raises ValueError."""
    return parse_json(Head, text)


def parse_version(text: str) -> Version:
    """The format and version of any head. Raises ValueError."""
    return parse_json(Version, text)


def member(fold: int, aspect: str, name: str) -> str:
    """What an array of a density is called."""
    return f"density{fold}_{aspect}_{name}"


def _check_values(arrays: Mapping[str, NDArray[Any]], head: Head) -> None:
    """Raise ValueError for numbers that no density has.

    A score may be infinite or NaN: a model may fail on an image.
    """
    combined = arrays["combined"]
    if np.isnan(combined).any() or (combined[1:] < combined[:-1]).any():
        raise ValueError("combined is not sorted")
    if not np.isfinite(arrays["shift"]).all():
        raise ValueError("shift is not finite")
    for fold, aspect in product(range(head.folds), head.aspects):
        density = {name: arrays[member(fold, aspect, name)] for name in DENSITY}
        if not all(np.isfinite(values).all() for values in density.values()):
            raise ValueError(f"the density of fold {fold} is not finite")
        diagonal = np.diagonal(density["precisions"], axis1=1, axis2=2)
        share, _, excess = density["tail"]
        if not ((density["spread"] > 0).all() and (diagonal > 0).all() and excess >= 0):
            raise ValueError(f"the density of fold {fold} has a spread that is not positive")
        if not 0 < share <= 1:
            raise ValueError(f"the density of fold {fold} has a tail of {share:g} of its images")
