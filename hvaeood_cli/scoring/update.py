"""What of a run is known already: from a score file of other images, or from another try.

A folder grows, and files in it are changed, moved and removed. An image is known by its name as
long as its stamp stays the same, else by the hash of its bytes. So `Plan` finds the images that are
to be scored, and `merge` puts their rows beside those that are known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.content import stamp_key
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.store.columns import Rows, Sizes, blank_rows, new_columns
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.journal import Batch, Journal
from hvaeood_cli.store.room import IN_MEMORY, Room
from hvaeood_cli.store.score_file import Errors, ScoreFile
from hvaeood_cli.store.status import GONE, STATUS_CODES
from hvaeood_cli.store.tiles import Block, blocks_of, first_of


@dataclass(frozen=True)
class Changes:
    """How many images of a run are what they are, compared with the score file before."""

    new: int
    changed: int  # another content under the same name
    moved: int  # the same content under another name
    back: int  # were gone, and are there again as they were
    gone: int
    kept: int

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.moved or self.back or self.gone)

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {word}" for word, n in vars(self).items() if n)


@dataclass(frozen=True, eq=False)
class Plan:
    """For each of N images of a run where its row comes from. `known` are M rows from before."""

    manifest: Manifest
    stamps: NDArray[np.uint64]  # (N,) as rows keep them
    known: Rows  # (M,): those of the score file first
    errors: Mapping[int, str]  # place in `known` -> why that image could not be read
    namesake: NDArray[np.int64]  # (N,) place in `known` of the file's row of this name; -1: none
    source: NDArray[np.int64]  # (N,) place in `known` of the row to take; -1: not known
    gone: NDArray[np.bytes_]  # (G,) names in the score file that are no longer in the run
    gone_rows: NDArray[np.int64]  # (G,) their places in `known`
    n_moved: int  # rows of the file that go on under another name

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        sizes: Sizes,
        found: ScoreFile | None,
        done: NDArray[np.bool_],
        earlier: Iterable[Batch],
    ) -> Plan:
        """The plan of a run.

        found: the score file as it is. done: the images that the run's journal has, (N,); they need
        no other row. earlier: rows that a try with other images left in the journal.
        """
        known, errors, file_names = _known(sizes, found, earlier)
        if not len(known):
            nowhere, nothing = np.broadcast_to(-1, len(manifest)), np.zeros(0, np.int64)
            stamps = np.zeros(len(manifest), np.uint64)
            return cls(
                manifest, stamps, known, errors, nowhere, nowhere, file_names, nothing, n_moved=0
            )
        names = IN_MEMORY.names(manifest.name_blocks)
        keys = (stamp_key(manifest.stamp(i)) for i in range(len(names)))
        stamps = np.fromiter(keys, np.uint64, len(names))
        row_of = {name: row for row, name in enumerate(file_names.tolist())}
        namesake = np.array([row_of.get(name, -1) for name in names.tolist()])
        usable = known["sha256"].any(axis=1)  # what could not even be read is tried again
        usable &= (known["status"] != GONE) | (known["content"] != 0)
        same = (namesake >= 0) & usable[namesake] & (known["stamp"][namesake] == stamps)
        source = np.where(same, namesake, -1)

        present = set(names.tolist())
        left = [row for row, name in enumerate(file_names.tolist()) if name not in present]
        by_content = len(left) > 0 or len(known) > len(file_names)
        unsure = (source < 0) & ~done & ((namesake >= 0) | by_content)
        moved = _recognise(manifest, known, usable, namesake, left, np.flatnonzero(unsure), source)
        gone_rows = np.array([row for row in left if row not in moved], dtype=np.int64)
        return cls(
            manifest, stamps, known, errors, namesake, source, file_names[gone_rows], gone_rows,
            n_moved=len(moved),
        )  # fmt: skip

    @property
    def has_common(self) -> bool:
        """Whether the run and the score file share any image, by its name or by its content."""
        return bool((self.namesake >= 0).any()) or self.n_moved > 0

    def missing(self, done: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The places of the images to be scored. done: those that the journal has, (N,)."""
        return np.flatnonzero((self.source < 0) & ~done)

    def merge(
        self,
        path: Path,
        header: RunHeader,
        batches: Iterable[Batch],
        conversion_codes: dict[str, int],
        room: Room,
    ) -> ScoreFile:
        """The scores of the run, undecided: its images in order, then the rows that are gone.

        batches: what the journal has. room: where the columns are to be. Raises RuntimeError where
        rows are missing: they must not look as if they were scored.
        """
        n, n_all = len(self.stamps), len(self.stamps) + len(self.gone_rows)
        columns = new_columns(n_all, header.sizes, room)
        have = self.source >= 0
        for name, values in columns.items():
            values[:n][have] = self.known[name][self.source[have]]
            values[n:] = self.known[name][self.gone_rows]
        status = columns["status"]
        status[:n][status[:n] == GONE] = STATUS_CODES["scored"]
        status[n:] = GONE
        columns["stamp"][:n] = self.stamps
        reasons = {
            int(i): self.errors[int(self.source[i])]
            for i in np.flatnonzero(have & (status[:n] != 0))
            if int(self.source[i]) in self.errors
        }
        for batch in batches:
            batch.put_into(columns)
            have[batch.first : batch.first + len(batch.rows)] = True
            reasons.update(batch.errors)
            room.let_go()
        if not have.all():
            raise RuntimeError(f"the engine gave {int(have.sum())} of {n} rows")
        return ScoreFile(
            path=path,
            header=header,
            names=room.names(lambda: chain(self.manifest.name_blocks(), [self.gone])),
            errors=Errors(n_all, reasons),
            columns=columns,
            status_codes=STATUS_CODES,
            conversion_codes=conversion_codes,
            label=None if header.label is None else np.full(n_all, header.label, np.int8),
            room=room,
        )

    def tiles(self, found: ScoreFile | None, journal: Journal) -> Iterator[Block]:
        """The tiles of each row of the run, and of those that are gone: row by row, in any order.

        found, journal: as `of` and `merge` were given. What is in neither has no tiles.
        """
        rows_of = defaultdict[int, list[int]](list)  # place in `known` -> rows that take it
        taken = np.where(journal.done, -1, self.source)
        for row, source in enumerate([*taken.tolist(), *self.gone_rows.tolist()]):
            rows_of[source].append(row)
        for old, tiles in found.tiles.blocks() if found and found.tiles else ():
            yield from ((row, tiles) for row in rows_of.get(old, ()))
        place = len(found) if found else 0
        for batch in journal.earlier():
            blocks = dict(_blocks(batch))
            for i in np.flatnonzero(batch.rows["status"] == 0).tolist():
                if i in blocks:
                    yield from ((row, blocks[i]) for row in rows_of.get(place, ()))
                place += 1
        for batch in journal.batches():
            yield from ((batch.first + i, tiles) for i, tiles in _blocks(batch))

    def changes(self, scores: ScoreFile) -> Changes:
        """What is different in the merged scores, compared with the score file before."""
        before, now = self.known, slice(len(self.stamps))
        there = self.namesake >= 0
        was_gone = there & (before["status"][self.namesake] == GONE)
        same = there & (scores.sha256[now] == before["sha256"][self.namesake]).all(axis=1)
        same &= was_gone | (scores.status[now] == before["status"][self.namesake])
        return Changes(
            new=int((~there).sum()) - self.n_moved,
            changed=int((there & ~same).sum()),
            moved=self.n_moved,
            back=int((same & was_gone).sum()),
            gone=int((before["status"][self.gone_rows] != GONE).sum()),
            kept=int((same & ~was_gone).sum()),
        )


def placed(batch: Batch, places: NDArray[np.int64]) -> Iterator[Batch]:
    """The rows of a batch where they belong. places: of the images that an engine was given, (n,).

    Images that follow one another there stay one batch.
    """
    here = places[batch.first : batch.first + len(batch.rows)]
    starts = np.flatnonzero(np.diff(here, prepend=-2) != 1)
    begins = first_of(batch.rows["n_tiles"])
    for first, last in zip(starts, [*starts[1:], len(here)], strict=True):
        within = range(int(here[first]), int(here[last - 1]) + 1)
        errors = {int(places[i]): reason for i, reason in batch.errors.items()}
        errors = {i: reason for i, reason in errors.items() if i in within}
        tiles = None if batch.tiles is None else batch.tiles[begins[first] : begins[last]]
        yield Batch(within.start, batch.rows[first:last], errors, tiles)


def _blocks(batch: Batch) -> Iterator[Block]:
    """The tiles of each of a batch's rows that has any, by its place there."""
    if batch.tiles is not None:
        yield from blocks_of(batch.rows["n_tiles"], batch.tiles)


def _known(
    sizes: Sizes, found: ScoreFile | None, earlier: Iterable[Batch]
) -> tuple[Rows, dict[int, str], NDArray[np.bytes_]]:
    """The rows from before, why some could not be read, and the names of those in the file."""
    n = len(found) if found else 0
    rows = blank_rows(n, sizes)
    for name, values in found.columns.items() if found else ():
        rows[name] = values
    bad = np.flatnonzero(rows["status"])
    errors = {int(row): found.errors[row] for row in bad} if found else {}
    names = found.names if found else np.zeros(0, "S1")
    scored = [batch.rows[batch.rows["status"] == 0] for batch in earlier]
    return np.concatenate([rows, *scored]), errors, names


def _recognise(
    manifest: Manifest,
    known: Rows,
    usable: NDArray[np.bool_],
    namesake: NDArray[np.int64],
    left: list[int],
    unsure: NDArray[np.int64],
    source: NDArray[np.int64],
) -> set[int]:
    """Fill in the `source` of images whose bytes are known. Returns the rows that were moved.

    left: the file's rows whose names are no longer there. unsure: the images to look at.
    """
    if not len(unsure):
        return set()
    hashes = {int(i): _sha256(manifest, int(i)) for i in unsure}
    wanted = set(hashes.values())
    by_hash: dict[bytes, int] = {}
    for row in np.flatnonzero(usable).tolist():
        sha256 = known["sha256"][row].tobytes()
        if sha256 in wanted:
            by_hash.setdefault(sha256, row)
    waiting = defaultdict[bytes, list[int]](list)  # for the images that they were moved to
    for row in left:
        if usable[row]:
            waiting[known["sha256"][row].tobytes()].append(row)
    moved: set[int] = set()
    for i, sha256 in hashes.items():
        old = int(namesake[i])
        if old >= 0 and usable[old] and known["sha256"][old].tobytes() == sha256:
            source[i] = old  # touched
        elif old < 0 and waiting[sha256]:
            old = waiting[sha256].pop(0)
            source[i] = old
            moved.add(old)
        else:
            source[i] = by_hash.get(sha256, -1)
    return moved


def _sha256(manifest: Manifest, i: int) -> bytes:
    """The hash of an image's bytes; empty where it cannot be read."""
    try:
        return manifest.sha256(i)
    except ImageError:
        return b""
