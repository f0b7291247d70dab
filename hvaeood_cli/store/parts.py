"""Parts: the score file of each shard of a run, and all of them merged to the run's own.

A part is named after its run and the images of its shard, so that whoever scores a shard again,
on whichever machine, finds it or makes the very same. Nothing in it is decided: that is for the
whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvaeood_cli.errors import StoreError
from hvaeood_cli.store.header import IDENTITY, OF_IMAGES, OF_SHARD, RunHeader, differences
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.score_file import Errors, ScoreFile
from hvaeood_cli.store.shard import Shard
from hvaeood_cli.store.tiles import Block

_OWN = ("shard", *OF_IMAGES)  # in what the parts of one run may differ


def part_name(header: RunHeader) -> str:
    """The name of a part's file: which run, which shard of how many, which images.

    The device and what computes on it are not in the name: they are known late. Who scores a shard
    elsewhere finds the part, and parts that differ there are not merged.
    """
    run = hashlib.sha256(_identity(header, (*_OWN, "device", "runtime")).encode()).hexdigest()
    number = f"{header.shard:0{len(str(header.n_shards))}}"
    return f"{run[:8]}-{number}-of-{header.n_shards}-{header.listing_sha256[:8]}.h5"


def find_parts(places: Iterable[Path], out: Path) -> list[Path]:
    """The files of parts: those named, and all in folders that are named; never `out` itself.

    Raises StoreError where there are none.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise StoreError(
                f"no such file or folder: {place}", "name the folder that --shard I/N -o was given"
            )
        inside = sorted(place.glob("[!.]*.h5")) if place.is_dir() else [place]
        inside = [one for one in inside if not _is_same(one, out)]
        if not inside:
            raise StoreError(
                f"{place} holds no part", f"hvaeood score SOURCE --shard 1/N -o {place} makes one"
            )
        found += inside
    return found


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file; not so where a link leads nowhere."""
    return one.exists() and other.exists() and one.samefile(other)


class Part(NamedTuple):
    """The scores of a shard."""

    shard: Shard
    scores: ScoreFile

    @property
    def first(self) -> int:
        """The place of its first image in the whole manifest."""
        return self.shard.places(self.scores.header.whole_n_images or 0).start


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of one run, one for each shard that has images, in order."""

    all: list[Part]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Parts:
        """Read parts and check that they are those of one run.

        The same part twice is taken once. Raises StoreError for a file that is no part or is
        damaged, for parts of several runs or of other numbers of shards, for two that disagree
        about a shard, and for shards that have no part, with their numbers.
        """
        found = [_read(path) for path in paths]
        _check_one_run(found)
        by_number: dict[int, Part] = {}
        for part in found:
            there = by_number.setdefault(part.shard.number, part)
            if there is not part:
                _check_same(there, part)
        _check_none_missing(by_number)
        return cls([by_number[number] for number in sorted(by_number)])

    def merged(self, path: Path) -> ScoreFile:
        """The scores of the whole run, undecided, as one run would have written them at `path`.

        Its tiles are not with it: they are `tiles`.
        """
        each = [part.scores for part in self.all]
        header = each[0].header
        n = header.whole_n_images or 0
        reasons = {
            part.first + int(row): part.scores.errors[int(row)]
            for part in self.all
            for row in np.flatnonzero(part.scores.status)
        }
        whole: dict[str, Any] = {
            "created": min(one.header.created for one in each),
            "n_images": n,
            "listing_sha256": header.whole_listing_sha256,
            "label": each[0].identity.label,
            **dict.fromkeys(OF_SHARD),
        }
        return ScoreFile(
            path=path,
            header=header.model_copy(update=whole),
            names=np.concatenate([one.names for one in each]),
            errors=Errors(n, reasons),
            columns={name: np.concatenate([one[name] for one in each]) for name in each[0].columns},
            status_codes=each[0].status_codes,
            conversion_codes=each[0].conversion_codes,
            label=np.concatenate([one.label for one in each if one.label is not None])
            if each[0].label is not None
            else None,
        )

    def tiles(self) -> Iterator[Block]:
        """The tiles of each row of the whole run, part by part: never all in memory."""
        for part in self.all:
            for row, tiles in part.scores.tiles.blocks() if part.scores.tiles else ():
                yield part.first + row, tiles


def _identity(header: RunHeader, ignored: Collection[str]) -> str:
    """What identifies a run, as one text. ignored: fields of `IDENTITY` that do not count."""
    return json.dumps({name: getattr(header, name) for name in IDENTITY if name not in ignored})


def _read(path: Path) -> Part:
    """Read a part. Raises StoreError for what is none."""
    try:
        scores = read_scores(path)
    except StoreError as error:
        raise StoreError(error.message, _scored_again(path)) from None
    header = scores.header
    if header.shard is None or header.n_shards is None:
        raise StoreError(
            f"{path} is a score file of its own, and no part",
            "name parts alone, or keep it in another folder",
        )
    if scores.gone.any():
        raise StoreError(f"{path} has rows of images that are gone", _scored_again(path))
    return Part(Shard(header.shard, header.n_shards), scores)


def _scored_again(path: Path) -> str:
    return f"remove {path}, score its shard again (--shard I/N), and merge again"


def _check_one_run(parts: list[Part]) -> None:
    """Raise StoreError unless all parts are of one run: of that of which there are most."""
    runs = defaultdict[str, list[ScoreFile]](list)
    for _, scores in parts:
        runs[_identity(scores.identity, _OWN)].append(scores)
    most, *others = sorted(runs.values(), key=len, reverse=True)
    if others:
        there, here = most[0], others[0][0]
        n_others = sum(map(len, others)) - 1
        more = f", and {n_others:,} more besides" if n_others else ""
        raise StoreError(
            f"{here.path} is of another run than {there.path}: "
            + "; ".join(differences(there.identity, here.identity, _OWN))
            + more,
            "merge the parts of one run alone: move those of the other to a folder of their own",
        )
    scores = most[0]
    for other in most:
        same_codes = (scores.status_codes, scores.conversion_codes) == (
            other.status_codes, other.conversion_codes,
        )  # fmt: skip
        if not same_codes or scores.columns.keys() != other.columns.keys():
            raise StoreError(
                f"{other.path} has other columns or codes than {scores.path}",
                _scored_again(other.path),
            )


def _check_same(one: Part, other: Part) -> None:
    """Raise StoreError unless two parts of one shard hold the same, to the last bit."""
    a, b = one.scores, other.scores
    same = a.header.listing_sha256 == b.header.listing_sha256
    same = same and np.array_equal(a.names, b.names) and list(a.errors) == list(b.errors)
    same = same and all(a[name].tobytes() == b[name].tobytes() for name in a.columns)
    if same and a.tiles and b.tiles:
        pairs = zip(a.tiles.blocks(), b.tiles.blocks(), strict=True)
        same = all(tiles.tobytes() == others.tobytes() for (_, tiles), (_, others) in pairs)
    if not same:
        raise StoreError(
            f"{a.path} and {b.path} are both of shard {one.shard}, and do not agree",
            "remove the one that is wrong; if you do not know which, remove both, and score the "
            "shard again",
        )


def _check_none_missing(by_number: dict[int, Part]) -> None:
    """Raise StoreError with the numbers of the shards that have images and no part."""
    some = next(iter(by_number.values()))
    n_shards, n_images = some.shard.of, some.scores.header.whole_n_images or 0
    needed = [i for i in range(1, n_shards + 1) if Shard(i, n_shards).places(n_images)]
    missing = [i for i in needed if i not in by_number]
    if missing:
        raise StoreError(
            f"missing: {in_words(missing)} of {n_shards} shards",
            f"run: hvaeood score SOURCE --shard {missing[0]}/{n_shards} "
            f"-o {some.scores.path.parent}, with the options of the others",
        )


def in_words(numbers: list[int]) -> str:
    """Ascending numbers, those that follow one another as a range: 3, 7–9."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in ranges)
