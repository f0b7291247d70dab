"""Sources that are torchvision's data sets, by name: `fashionmnist:test`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import ImageError, SourceError, UsageError
from hvaeood_cli.images.arrays import ArraySource, split_rows, take_rows
from hvaeood_cli.images.folder import stamp_of

# name -> (torchvision class, how it names its splits, the files that it reads below its root)
_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
_SPLIT_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
DATASETS: dict[str, tuple[str, dict[str, dict[str, Any]], str]] = {
    "mnist": ("MNIST", _TRAIN_FLAG, "MNIST/raw/*ubyte"),
    "fashionmnist": ("FashionMNIST", _TRAIN_FLAG, "FashionMNIST/raw/*ubyte"),
    "kmnist": ("KMNIST", _TRAIN_FLAG, "KMNIST/raw/*ubyte"),
    "emnist-letters": (
        "EMNIST",
        {name: flag | {"split": "letters"} for name, flag in _TRAIN_FLAG.items()},
        "EMNIST/raw/emnist-letters-*ubyte",
    ),
    "omniglot": (
        "Omniglot",
        {"train": {"background": True}, "test": {"background": False}},
        "omniglot-py/images_*/*/*/*.png",
    ),
    "cifar10": ("CIFAR10", _TRAIN_FLAG, "cifar-10-batches-py/*_batch*"),
    "cifar100": ("CIFAR100", _TRAIN_FLAG, "cifar-100-python/t*"),
    "svhn": ("SVHN", _SPLIT_NAME, "{split}_32x32.mat"),
    "stl10": ("STL10", _SPLIT_NAME, "stl10_binary/*.bin"),
}


class NamedDataset:
    """A torchvision data set as an array of images, read one at a time."""

    def __init__(self, source: str, root: Path, download: bool) -> None:
        """source: `NAME:SPLIT`. Raises UsageError for another split, SourceError for no data."""
        name, _, split = source.lower().partition(":")
        class_name, splits, files = DATASETS[name]
        if split not in splits:
            raise UsageError(f"{source}: no split {split!r}", "splits: " + ", ".join(splits))
        from torchvision import datasets

        try:
            self._data = getattr(datasets, class_name)(
                str(root), download=download, **splits[split]
            )
        except Exception as error:  # torchvision raises whatever a damaged file makes it raise
            hint = "check the network" if download else "--download fetches it"
            raise SourceError(
                f"{class_name} is not in {root} ({_first_line(error)})",
                f"{hint}; --data-root names the folder torchvision keeps its data sets in",
            ) from None
        self.stamp = _stamp(root, files.format(split=split))

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        """Image i, (H, W) or (H, W, 3). Raises ImageError where it cannot be read."""
        try:
            return np.asarray(self._data[i][0], dtype=np.uint8)
        except Exception as error:  # Omniglot's images are files, and may be gone or damaged
            raise ImageError("damaged", f"{type(error).__name__}: {error}") from None


def open_dataset(argument: str, data_root: Path | None, download: bool) -> ArraySource | None:
    """The images of a data set; None if the argument is not NAME:SPLIT, or rows of it.

    data_root: where torchvision keeps it, by default the folder `data`. download: fetch it if it
    is not there. Raises UsageError and SourceError as `NamedDataset` does.
    """
    name, rows = split_rows(argument)
    if not _is_dataset_name(name):
        return None
    images = NamedDataset(name, data_root or Path("data"), download)
    return take_rows(name, images, rows, images.stamp)


def _stamp(root: Path, pattern: str) -> str:
    """Of a root and of the files below it that fit a pattern: where, how large and how old."""
    digest = hashlib.sha256(os.fsencode(root.absolute()))
    for path in sorted(root.glob(pattern)):
        digest.update(os.fsencode(path.name) + b"\0" + stamp_of(path).encode() + b"\0")
    return digest.hexdigest()


def _is_dataset_name(source: str) -> bool:
    name, colon, split = source.partition(":")
    return bool(colon) and name.lower() in DATASETS and "/" not in split


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
