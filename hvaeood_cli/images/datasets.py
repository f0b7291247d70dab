"""Data sets by name, through torchvision: `fashionmnist:test`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import SourceError, UsageError

# name -> (torchvision class, how it names its splits)
_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
_SPLIT_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
DATASETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "mnist": ("MNIST", _TRAIN_FLAG),
    "fashionmnist": ("FashionMNIST", _TRAIN_FLAG),
    "kmnist": ("KMNIST", _TRAIN_FLAG),
    "emnist-letters": (
        "EMNIST",
        {name: flag | {"split": "letters"} for name, flag in _TRAIN_FLAG.items()},
    ),
    "omniglot": ("Omniglot", {"train": {"background": True}, "test": {"background": False}}),
    "cifar10": ("CIFAR10", _TRAIN_FLAG),
    "cifar100": ("CIFAR100", _TRAIN_FLAG),
    "svhn": ("SVHN", _SPLIT_NAME),
    "stl10": ("STL10", _SPLIT_NAME),
}


def is_dataset_name(source: str) -> bool:
    name, colon, split = source.partition(":")
    return bool(colon) and name.lower() in DATASETS and "/" not in split


class NamedDataset:
    """A torchvision data set as a sequence of pixel arrays, read one at a time."""

    def __init__(self, source: str, root: Path, download: bool) -> None:
        name, _, split = source.lower().partition(":")
        class_name, splits = DATASETS[name]
        if split not in splits:
            raise UsageError(f"{source}: no split {split!r}", "splits: " + ", ".join(splits))
        from torchvision import datasets

        try:
            self._data = getattr(datasets, class_name)(
                str(root), download=download, **splits[split]
            )
        except (RuntimeError, OSError, ValueError) as error:
            hint = "check the network" if download else "--download fetches it"
            raise SourceError(
                f"{class_name} is not in {root} ({_first_line(error)})",
                f"{hint}; --data-root names the folder torchvision keeps its data sets in",
            ) from None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        return np.asarray(self._data[i][0], dtype=np.uint8)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
