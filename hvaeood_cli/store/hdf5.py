"""HDF5 files that anybody may have made: everything is measured before anything is read.

A file of a few kilobytes can claim terabytes, or name data that lie in other files. So a dataset is
taken only if it is the file's own, whole, of a plain type, packed by nothing but gzip, shuffle and
checksums, and if all that are wanted take together about what is stored.
"""

from __future__ import annotations

import errno
import math
import os
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError

_SLACK = 1 << 26  # bytes of memory that any file may take, beyond ...
_EXPANSION = 8  # ... so many times its size: names pack well, but the numbers beside them do not
_DEFLATE = h5py.h5z.FILTER_DEFLATE
_FLETCHER, _CHECKSUM = h5py.h5z.FILTER_FLETCHER32, 4  # and its bytes
_FILTERS = (_DEFLATE, h5py.h5z.FILTER_SHUFFLE, _FLETCHER)
_OTHERS = {h5py.h5z.FILTER_LZF: "lzf", h5py.h5z.FILTER_SZIP: "szip"}
_MOST_CHUNKS = 4096  # and one for each 64 values: more take minutes
# What stands for a string of variable length in its dataset: how long it is, and where.
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
_STRING = 64  # bytes of memory that a string takes beside its own
_AGAIN = "score the images again to make it"
# A heap of strings of variable length: its mark and version, its length; then its objects.
_HEAP, _HEAP_HEAD = b"GCOL\x01", struct.Struct("<8xQ")
_OBJECT = struct.Struct("<H6xQ")  # a number, which free space has not, and a length
_WINDOW = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The open file. Raises StoreError for none, and where HDF5 finds anything amiss in it."""
    if not path.is_file():  # a pipe would be waited for
        what = f"{path} is not a file" if path.exists() else f"no such score file: {path}"
        raise StoreError(what, "hvaeood score FOLDER makes one")
    try:
        _check_heaps(path)
        with h5py.File(path, "r") as file:
            if file.id.get_create_plist().get_sizes() != (8, 8):  # as `_check_heaps` takes them
                raise ValueError("its addresses or lengths are not of 8 bytes")
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise not_whole(path, error) from None


def not_whole(path: Path, error: Exception) -> StoreError:
    """The error for a file in which HDF5 finds something amiss."""
    reason = str(error).strip().split("\n")[0][:200]
    return StoreError(f"{path} is not a whole score file ({reason})", _AGAIN)


def refused(of: h5py.HLObject, what: str) -> StoreError:
    """The error for a file in which something is not as it should be."""
    return StoreError(f"{of.file.filename}: {what}", _AGAIN)


def group(file: h5py.File, path: str) -> h5py.Group:
    """A group of this very file. Raises StoreError."""
    found = _own(file, path)
    if not isinstance(found, h5py.Group):
        raise refused(file, f"{path} is no group")
    return found


def dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset of this very file, whole and of a plain type. Its values are not read.

    Raises StoreError for one that is elsewhere, or is stored as no score file is.
    """
    found = _own(parent, name)
    path = f"{parent.name}/{name}"
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise refused(parent, f"{path} is no dataset, or an empty one")
    if found.external or found.is_virtual:
        raise refused(parent, f"{path} keeps its data elsewhere")
    filters = _filters(found)
    for number in filters:
        if number not in _FILTERS or filters.count(number) > 1:
            named = _OTHERS.get(number, str(number))
            raise refused(parent, f"{path} is packed by the filter {named}, as no score file is")
    try:
        variable = _is_variable(found)
    except TypeError:  # there are types that h5py does not know
        raise refused(parent, f"{path} has a type that no score file has") from None
    if variable and (not is_of_strings(found) or found.ndim != 1 or filters):
        raise refused(parent, f"{path} is of variable length, and no list of strings")
    _check_whole(found)
    return found


def attributes(owner: h5py.HLObject, names: Collection[str]) -> dict[str, Any]:
    """Those of the named attributes that an object has, each a text or a number.

    Raises StoreError for lists and all else, before it reads them: they may be large.
    """
    there = owner.attrs
    found = {}
    for name in names:
        if name not in there:
            continue
        kept = there.get_id(name)
        single = kept.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
        if not single or not (h5py.check_string_dtype(kept.dtype) or kept.dtype.kind in "iuf"):
            raise refused(owner, f"the attribute {name} of {owner.name} is no text and no number")
        value = there[name]
        if isinstance(value, bytes):
            value = value.decode()  # or a UnicodeDecodeError, which `opened` explains
        found[name] = value.item() if isinstance(value, np.generic) else value
    return found


def check_sizes(file: h5py.File, datasets: Iterable[h5py.Dataset]) -> None:
    """Raise StoreError where datasets claim more, together, than such a file can hold."""
    stored, unpacked = 0, 0
    size, room = file.id.get_filesize(), _room(file)
    taken = list(datasets)
    for one in taken:
        stored += one.id.get_storage_size()
        unpacked += _unpacked_bytes(one)
        if stored > size or unpacked > room:
            raise refused(file, f"{one.name} claims more than the file can hold")
    for one in taken:
        if one.chunks is not None:
            _check_chunks(one)


def is_of_strings(found: h5py.Dataset) -> bool:
    """Whether a dataset holds strings, of fixed or of variable length."""
    return h5py.check_string_dtype(found.dtype) is not None


def read_strings(found: h5py.Dataset) -> NDArray[Any]:
    """The strings of a dataset, (N,): an array of bytes of one length, or of objects."""
    if _is_variable(found):
        return np.asarray(found[()])
    return np.asarray(found[()], f"S{found.dtype.itemsize}")  # without h5py's note of the charset


def packed(file: h5py.File, path: str, strings: NDArray[Any]) -> NDArray[np.bytes_]:
    """Strings at the length of the longest. Raises StoreError where that is one among many."""
    if strings.dtype.kind == "O":
        longest = max(map(len, strings), default=0)
        if len(strings) * longest > _room(file):
            raise refused(file, f"{path} has a string of {longest:,} bytes")
    return np.asarray(strings, dtype=bytes)


def _room(file: h5py.File) -> int:
    """The bytes of memory that the contents of a file may take."""
    return int(_SLACK + _EXPANSION * file.id.get_filesize())


def _own(parent: h5py.Group, name: str) -> Any:
    """What has this name in a group, and is no link. Raises StoreError."""
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        path = f"{parent.name.rstrip('/')}/{name}"
        raise refused(parent, f"{path} is missing, or a link")
    return parent[name]


def _filters(found: h5py.Dataset) -> list[int]:
    """The numbers of the filters that a dataset's chunks are packed by, in their order."""
    how = found.id.get_create_plist()
    return [how.get_filter(i)[0] for i in range(how.get_nfilters())]


def _is_variable(found: h5py.Dataset) -> bool:
    """Whether its values are of variable length: then they stand elsewhere in the file."""
    return bool(found.dtype.kind == "O")


def _check_whole(found: h5py.Dataset) -> None:
    """Raise StoreError where parts are missing: HDF5 would read zeros in their place."""
    if found.chunks is None:
        width = _REFERENCE.itemsize if _is_variable(found) else found.dtype.itemsize
        if found.size * width != found.id.get_storage_size():
            raise refused(found, f"{found.name} is not whole")
        return
    n_chunks = _n_chunks(found)
    if n_chunks > _MOST_CHUNKS + found.size // 64:
        raise refused(found, f"{found.name} is cut into {n_chunks:,} pieces")
    if n_chunks != found.id.get_num_chunks():
        raise refused(found, f"{found.name} is not whole")


def _n_chunks(found: h5py.Dataset) -> int:
    """How many chunks a dataset of this shape has."""
    pairs = zip(found.shape, found.chunks, strict=True)
    return math.prod(-(-int(size) // int(chunk)) for size, chunk in pairs)


def _unpacked_bytes(found: h5py.Dataset) -> int:
    """The bytes of memory that reading a dataset takes. Raises StoreError."""
    if _is_variable(found):
        return int(_lengths(found).sum() + _STRING * found.size)
    if found.chunks is None:
        return int(found.size * found.dtype.itemsize)
    return int(_n_chunks(found) * _chunk_bytes(found))


def _chunk_bytes(found: h5py.Dataset) -> int:
    """The bytes of memory that a chunk takes."""
    width = _REFERENCE.itemsize if _is_variable(found) else found.dtype.itemsize
    return int(math.prod(found.chunks) * width)


def _check_chunks(found: h5py.Dataset) -> None:
    """Raise StoreError unless each chunk lies in the file and has the bytes of one.

    HDF5 reads what it has room for, whatever is there: beside its memory where that is less, and
    without end where it unpacks to more.
    """
    filters, room = _filters(found), _chunk_bytes(found)
    end = found.file.id.get_filesize()
    for chunk in _chunks(found):
        used = [one for i, one in enumerate(filters) if not chunk.filter_mask >> i & 1]
        checksum = _CHECKSUM if _FLETCHER in used else 0
        whole = chunk.byte_offset + chunk.size <= end
        if _DEFLATE in used and whole and chunk.size > checksum:
            _, data = found.id.read_direct_chunk(chunk.chunk_offset)
            inside = used.index(_DEFLATE) > used.index(_FLETCHER) if checksum else False
            most = room + (checksum if inside else 0)
            try:
                unpacked = len(zlib.decompressobj().decompress(data, most + 1))
            except zlib.error:
                unpacked = 0
            if unpacked > most:
                raise refused(found, f"{found.name} claims less than it unpacks to")
            whole = unpacked == most
        elif whole:
            whole = chunk.size == room + checksum
        if not whole:
            raise refused(found, f"{found.name} is not whole")


def _check_heaps(path: Path) -> None:
    """Raise ValueError where a heap of strings is damaged: HDF5 may walk in it for ever.

    Which of them are used is not known before they are read. So they are searched for.
    """
    walked = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for begin in _windows(file.fileno()):
            window = os.pread(file.fileno(), _WINDOW + len(_HEAP) - 1, begin)
            at = window.find(_HEAP)
            while at >= 0:
                walked += _check_heap(file.fileno(), begin + at, size)
                if walked > size:
                    raise ValueError("heaps of its strings lie in one another")
                at = window.find(_HEAP, at + 1)


def _windows(descriptor: int) -> Iterator[int]:
    """Where to read windows of a file, so that all of it is read but for its holes."""
    begin = 0
    while True:
        try:
            begin = os.lseek(descriptor, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is no more
                return
            raise
        yield begin
        begin += _WINDOW


def _check_heap(descriptor: int, place: int, size: int) -> int:
    """Raise ValueError unless each object of a heap ends behind its begin, and within the heap.

    Returns the heap's length.
    """
    head = os.pread(descriptor, _HEAP_HEAD.size, place)
    length = _HEAP_HEAD.unpack(head)[0] if len(head) == _HEAP_HEAD.size else 0
    if length > size - place:
        return 0  # which HDF5 refuses; or it is no heap, and only looks like one
    if length > _SLACK:
        raise ValueError(f"a heap of its strings claims {length:,} bytes")
    heap = os.pread(descriptor, length, place)
    at = _HEAP_HEAD.size
    while len(heap) - at >= _OBJECT.size:
        number, n_bytes = _OBJECT.unpack_from(heap, at)
        step = _OBJECT.size + -(-n_bytes // 8) * 8 if number else n_bytes
        if not 0 < step <= len(heap) - at:
            raise ValueError("a heap of its strings is damaged")
        at += step
    return int(length)


def _chunks(found: h5py.Dataset) -> list[Any]:
    """Where each chunk begins, and its size in the file."""
    chunks: list[Any] = []
    found.id.chunk_iter(chunks.append)
    return chunks


def _lengths(found: h5py.Dataset) -> NDArray[np.uint32]:
    """The length of each string of variable length, (N,), from the references to them alone."""
    if found.chunks is None:
        place = found.id.get_offset()
        references = np.fromfile(found.file.filename, _REFERENCE, found.size, offset=place)
    else:
        starts = sorted(chunk.chunk_offset for chunk in _chunks(found))
        parts = [found.id.read_direct_chunk(start)[1] for start in starts]
        references = np.frombuffer(b"".join(parts), _REFERENCE)[: found.size]
    lengths: NDArray[np.uint32] = references["length"]
    return lengths
