"""A score file in memory: the run's header, one row for each image, and the decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.store.columns import Column, Sizes, columns, new_columns
from hvaeood_cli.store.decision import Decision, Rule
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.journal import Batch, check_next
from hvaeood_cli.store.room import IN_MEMORY, Room
from hvaeood_cli.store.status import GONE, STATUS_CODES
from hvaeood_cli.store.tiles import TileTable


class Errors(Sequence[str]):
    """Why each row could not be read, (N,); empty where it could. Only the reasons are stored."""

    def __init__(self, n: int, reasons: dict[int, str]) -> None:
        self._n = n
        self._reasons = reasons

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        rows = range(self._n)[index]
        if isinstance(rows, range):
            return [self._reasons.get(row, "") for row in rows]
        return self._reasons.get(rows, "")

    def encoded(self) -> NDArray[np.bytes_]:
        """In UTF-8, as a score file has them, (N,)."""
        reasons = {row: why.encode("utf-8", "replace") for row, why in self._reasons.items()}
        values = np.zeros(self._n, f"S{max(map(len, reasons.values()), default=0) or 1}")
        for row, reason in reasons.items():
            values[row] = reason
        return values

    def of_rows(self, rows: NDArray[np.bool_]) -> Errors:
        """Those of some rows alone. rows: which, (N,)."""
        place = np.cumsum(rows) - 1
        kept = {int(place[row]): why for row, why in self._reasons.items() if rows[row]}
        return Errors(int(np.count_nonzero(rows)), kept)


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """N scored images of one run. `store/columns.py` says what each column holds."""

    path: Path  # of the file, even if it is not written yet
    header: RunHeader
    names: NDArray[np.bytes_]  # (N,)
    errors: Errors  # (N,) why each image could not be read
    columns: dict[str, NDArray[Any]]  # by name: (N,) or (N, n)
    status_codes: dict[str, int]
    conversion_codes: dict[str, int]
    manifest_sha256: str = ""  # of all names and the hashes of what was read; empty until written
    label: NDArray[np.int8] | None = None  # (N,): 0 belongs, 1 does not, -1 unknown
    decision: Decision | None = None
    tiles: TileTable | None = None  # of a model that takes images by tiles, once it is written
    room: Room = IN_MEMORY  # where the columns and names are

    @classmethod
    def of_batches(
        cls,
        path: Path,
        header: RunHeader,
        names: NDArray[np.bytes_],
        batches: Iterable[Batch],
        conversion_codes: dict[str, int],
    ) -> Self:
        """The scores of a whole run, from its names and its batches, both in manifest order.

        Raises RuntimeError where rows are missing: they must not look as if they were scored.
        """
        n, n_done = header.n_images, 0
        found = new_columns(n, header.sizes, IN_MEMORY)
        reasons: dict[int, str] = {}
        for batch in batches:
            check_next(batch, n_done, n)
            n_done += len(batch.rows)
            batch.put_into(found)
            reasons.update(batch.errors)
        if n_done < n:
            raise RuntimeError(f"the engine gave {n_done} of {n} rows")
        label = None
        if header.label is not None:
            label = np.full(header.n_images, header.label, np.int8)
        return cls(
            path=path,
            header=header,
            names=names,
            errors=Errors(header.n_images, reasons),
            columns=found,
            status_codes=STATUS_CODES,
            conversion_codes=conversion_codes,
            label=label,
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column by its name. Raises KeyError."""
        return self.columns[name]

    @property
    def n_layers(self) -> int:
        return self.header.n_layers

    @property
    def sizes(self) -> Sizes:
        return self.header.sizes

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Which rows have scores, (N,)."""
        return np.equal(self.status, 0)

    @cached_property
    def n_scored(self) -> int:
        return int(self.scored.sum())

    @cached_property
    def gone(self) -> NDArray[np.bool_]:
        """Which rows' images were there once and are no longer, (N,). Their scores are kept."""
        return np.equal(self.status, GONE)

    @cached_property
    def unreadable(self) -> NDArray[np.bool_]:
        """Which rows' images are there and could not be read, (N,)."""
        return ~(self.scored | self.gone)

    @property
    def present(self) -> ScoreFile:
        """Without the rows of images that are gone: what there is to show."""
        return self.of_rows(~self.gone) if self.gone.any() else self

    def of_rows(self, rows: NDArray[np.bool_]) -> ScoreFile:
        """Some rows alone. rows: which, (N,)."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        n_present = int(np.count_nonzero(columns["status"] != GONE))
        return replace(
            self,
            header=self.header.model_copy(update={"n_images": n_present}),
            names=self.names[rows],
            errors=self.errors.of_rows(rows),
            columns=columns,
            label=None if self.label is None else self.label[rows],
            decision=self.decision and self.decision.of_rows(rows),
            tiles=self.tiles and self.tiles.of_rows(rows),
        )

    @property
    def identity(self) -> RunHeader:
        """Its header, with the label of its images, which stands with the rows."""
        label = None if self.label is None else int(self.label[0])
        return self.header.model_copy(update={"label": label})

    @property
    def rule(self) -> Rule | None:
        """The rule by which its images are flagged; None if nothing is decided."""
        return self.decision.by if self.decision else None

    def name(self, row: int | np.integer[Any]) -> str:
        """The name of a row's image; bytes that are not UTF-8 are surrogates."""
        return bytes(self.names[row]).decode("utf-8", "surrogateescape")

    def status_name(self, row: int | np.integer[Any]) -> str:
        """What became of a row: "scored", "missing", "damaged" ..."""
        return self._status_names.get(int(self.status[row]), "unknown")

    @property
    def scores(self) -> list[Column]:
        """The columns of scores that this file has, in the column table's order."""
        return [column for column in columns("scores") if column.name in self.columns]

    def each(self, column: Column) -> Iterator[tuple[str, NDArray[Any]]]:
        """The parts of a column, each a title, such as LLR>1, and one number per image, (N,)."""
        values = self.columns[column.name]
        parts = [values] if values.ndim == 1 else list(values.T)
        yield from zip(column.titles(self.sizes), parts, strict=True)

    @cached_property
    def first_copies(self) -> NDArray[np.int64]:
        """The first scored row with the same pixels as each row's, (N,): copies of one image.

        A row without copies before it, and one without scores, is its own.
        """
        first = np.arange(len(self))
        ranked = np.sort(self.content[self.scored])
        repeated = np.unique(ranked[1:][ranked[1:] == ranked[:-1]])
        if not len(repeated):  # as among a million different images: a look at each is enough
            return first
        places = np.searchsorted(repeated, self.content)
        places[places == len(repeated)] = 0
        rows = np.flatnonzero(self.scored & (repeated[places] == self.content))
        _, firsts = np.unique(places[rows], return_index=True)
        first[rows] = rows[firsts][places[rows]]
        return first

    @cached_property
    def conversion_counts(self) -> dict[str, int]:
        """How many images each conversion was made to, by its name."""
        return {
            name: int(np.count_nonzero(self.conversions & bit))
            for name, bit in self.conversion_codes.items()
        }

    @cached_property
    def _status_names(self) -> dict[int, str]:
        return {code: name for name, code in self.status_codes.items()}

    # -- the columns that other code calls by name --------------------------------------------

    @property
    def status(self) -> NDArray[np.int8]:
        return self.columns["status"]  # (N,)

    @property
    def sha256(self) -> NDArray[np.uint8]:
        return self.columns["sha256"]  # (N, 32)

    @property
    def content(self) -> NDArray[np.uint64]:
        return self.columns["content"]  # (N,)

    @property
    def conversions(self) -> NDArray[np.uint16]:
        return self.columns["conversions"]  # (N,)

    @property
    def lower_bound(self) -> NDArray[np.float32]:
        return self.columns["lower_bound"]  # (N, L) nats

    @property
    def llr(self) -> NDArray[np.float32]:
        return self.columns["llr"]  # (N, L - 1) nats

    @property
    def bits_per_dim(self) -> NDArray[np.float32]:
        return self.columns["bits_per_dim"]  # (N,)
