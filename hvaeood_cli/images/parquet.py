"""Parquet files as sources: a column of images, a row each, read a group of rows at a time.

The column holds the bytes of image files, as they are or, as Hugging Face's data sets have them, as
`{bytes, path}`.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Any

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images.arrays import no_rows, split_rows
from hvaeood_cli.images.decode import Decoded, decode_hashed
from hvaeood_cli.images.file import File
from hvaeood_cli.images.remote import file_at

_SUFFIX = ".parquet"
_MAX_GROUP = 256 << 20  # bytes of a group's images
_KEPT = 2 * _MAX_GROUP  # bytes of the groups that stay in memory
_USUAL = "image"  # the column's name in most data sets


@dataclass(frozen=True, eq=False)
class ParquetSource:
    """Rows `first` to `last` - 1 of a Parquet file. Any thread or process may read them."""

    file: File
    column: str  # as Parquet names it: `image`, or `image.bytes`
    starts: Sequence[int]  # the first row of each group, and the number of rows
    first: int
    last: int
    origin: str
    _kept: _Groups = field(default_factory=lambda: _Groups())  # noqa: PLW0108  # it stands below

    def __len__(self) -> int:
        return self.last - self.first

    def name(self, i: int) -> bytes:
        return self.file.name + b"#%d" % (self.first + i)

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return decode_hashed(self._row(i))

    def sha256(self, i: int) -> bytes:
        return hashlib.sha256(self._row(i)).digest()

    def stamp(self, i: int) -> str:
        return self.origin

    def _row(self, i: int) -> bytes:
        """The bytes of an image. Raises ImageError."""
        row = self.first + i
        group = bisect_right(self.starts, row) - 1
        if self.file.stamp != self.origin:
            raise ImageError("unreadable", "the file has changed since it was listed")
        rows, place = self._kept.of(self, group), row - self.starts[group]
        if place >= len(rows):
            raise ImageError("damaged", "its group has fewer rows than the file says")
        value = rows[place].as_py()
        if value is None:
            raise ImageError("empty", "the row holds no image")
        return bytes(value)

    def read_group(self, group: int) -> Any:
        """The images of a group of rows, an Arrow array of bytes. Raises ImageError."""
        from pyarrow import compute, parquet

        try:
            with self.file.open() as opened, parquet.ParquetFile(opened) as file:
                table = file.read_row_group(group, columns=[self.column])
            column = table.column(0)
            if column.type.num_fields:
                column = compute.struct_field(column, "bytes")
            return column
        except ImageError:
            raise
        except OSError as error:
            raise ImageError("unreadable", error.strerror or str(error)) from None
        except Exception as error:  # Arrow raises whatever damaged bytes make it raise
            raise ImageError("damaged", f"{type(error).__name__}: {error}") from None


class _Groups:
    """The groups of rows that were read last. One thread reads, others wait for it."""

    def __init__(self) -> None:
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def of(self, source: ParquetSource, group: int) -> Any:
        with self._lock:
            found = self._groups.pop(group, None)
            found = source.read_group(group) if found is None else found
            self._groups[group] = found
            while len(self._groups) > 1 and self._size() > _KEPT:
                self._groups.popitem(last=False)
            return found

    def _size(self) -> int:
        return sum(group.nbytes for group in self._groups.values())

    def __reduce__(self) -> tuple[type[_Groups], tuple[()]]:
        """Another process begins with none."""
        return _Groups, ()


def is_parquet(name: str) -> bool:
    return name.lower().endswith(_SUFFIX)


def open_parquet(argument: str) -> ParquetSource | None:
    """The images of a Parquet file, FILE or FILE#A:B; None if the argument names none.

    Raises SourceError for a file that is damaged, or in which no one column is of images.
    """
    path, rows = split_rows(argument)
    if not is_parquet(path) or (file := file_at(path)) is None:
        return None
    try:
        from pyarrow import parquet
    except ImportError:
        raise SourceError(
            f"{path}: to read Parquet files takes pyarrow", "pip install 'hvaeood[frames]'"
        ) from None
    origin = file.stamp
    try:
        with file.open() as opened, parquet.ParquetFile(opened) as parsed:
            metadata, schema = parsed.metadata, parsed.schema_arrow
            column = _images_in(path, schema)
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            sizes = [_size(group, column) for group in groups]
            n_bytes = opened.seek(0, os.SEEK_END)
    except SourceError:
        raise
    except Exception as error:  # Arrow's own, and a network's
        raise SourceError(
            f"cannot read {path}: {error}", "copy it again from where it came from"
        ) from None
    if max(sizes, default=0) > _MAX_GROUP:
        raise SourceError(
            f"{path} has groups of rows with {max(sizes) >> 20:,} MiB of images",
            f"write it with smaller ones: row_group_size=1000; at most {_MAX_GROUP >> 20:,} MiB",
        )
    starts = [0, *accumulate(group.num_rows for group in groups)]
    if starts[-1] > n_bytes:
        raise SourceError(
            f"{path} has {n_bytes:,} bytes, and says that it holds {starts[-1]:,} images",
            "hardly any row has an image of its own: write it again without the others",
        )
    first, last, _ = (rows or slice(None)).indices(starts[-1])
    if first >= last:
        raise no_rows(path, starts[-1])
    return ParquetSource(file, column, starts, first, last, origin)


def _images_in(path: str, schema: Any) -> str:
    """The column of images, as Parquet names it. Raises SourceError unless there is one."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = {field.name: field.name for field in schema if is_bytes(field.type)} | {
        field.name: f"{field.name}.bytes"
        for field in schema
        if types.is_struct(field.type)
        and any(part.name == "bytes" and is_bytes(part.type) for part in field.type)
    }
    if len(found) == 1 or _USUAL in found:
        return str(found.get(_USUAL) or next(iter(found.values())))
    columns = ", ".join(schema.names)
    if not found:
        raise SourceError(
            f"{path} has no column of images (its columns: {columns})",
            "images are bytes of image files, or {bytes, path} as Hugging Face has them",
        )
    raise SourceError(
        f"{path} has several columns of bytes: {', '.join(found)}", f"call one of them {_USUAL!r}"
    )


def _size(group: Any, column: str) -> int:
    """The bytes of a group's images."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(one.total_uncompressed_size for one in columns if one.path_in_schema == column)
