"""Many images in one file: IDX (.gz too), .npy and .npz."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import SourceError

ARRAY_SUFFIXES = (".npy", ".npz", "idx3-ubyte", "idx3-ubyte.gz", ".idx", ".idx.gz")
MAX_ARRAY_BYTES = 8 << 30

_HINT = "images are unsigned bytes of shape (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, 3, H, W)"


def is_array_file(path: Path) -> bool:
    return path.name.lower().endswith(ARRAY_SUFFIXES)


def load_array(path: Path) -> NDArray[np.uint8]:
    """All images of the file: (N, H, W) grey or (N, H, W, 3) RGB.

    Raises SourceError for a file that is damaged or holds something else.
    """
    name = path.name.lower()
    try:
        if name.endswith(".npy"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        elif name.endswith(".npz"):
            array = _from_npz(path)
        else:
            array = _from_idx(path)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds no single array")
    except MemoryError:
        raise SourceError(f"cannot read {path}: not enough memory", "take rows: FILE#A:B") from None
    except Exception as error:  # NumPy and zipfile raise whatever a hostile file makes them raise
        raise SourceError(f"cannot read {path}: {error}", _HINT) from None
    return as_images(str(path), array)


def _from_idx(path: Path) -> NDArray[np.uint8]:
    """The MNIST family's format: two zeros, a type, the number of dimensions, sizes, values."""
    with path.open("rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = tuple(np.frombuffer(file.read(4 * head[3]), ">u4").astype(np.int64).tolist())
        size = int(np.prod(shape, dtype=object))
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"its header promises {size} bytes")
        data = file.read(size)
    if len(data) != size:
        raise ValueError(f"truncated: {len(data)} of {size} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _from_npz(path: Path) -> NDArray[np.uint8]:
    """The array called images, x or X, else the first one that looks like images."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"it unpacks to {size} bytes")
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in ("images", "x", "X") if name in file.files] + file.files
        for name in names:
            array = file[name]
            if array.ndim >= 3:
                return np.asarray(array)
    raise ValueError("no array in it has the shape of images")


def as_images(path: str, array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise SourceError(f"{path} holds {array.dtype}, not unsigned bytes (0 to 255)", _HINT)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    elif array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] != 3:
        array = array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)) or 0 in array.shape[1:]:
        raise SourceError(f"{path} has shape {array.shape}", _HINT)
    return array  # type: ignore[return-value]
