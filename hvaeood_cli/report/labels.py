"""labels.csv: which images belong and which do not, for evaluation alone."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import SourceError
from hvaeood_cli.files import open_regular
from hvaeood_cli.store.score_file import ScoreFile

_MAX_BYTES = 1 << 28
_VALUES = {"0": 0, "1": 1, "in": 0, "out": 1, "ood": 1}

Labels = dict[bytes, int]


def read_labels(path: Path) -> Labels:
    """Labels by path (0 in-distribution, 1 out) from a CSV file with the columns path and label.

    Raises SourceError for any other file.
    """
    hint = "one line for each image, with the columns path and label: 0 belongs, 1 does not"
    labels: Labels = {}
    try:
        descriptor = open_regular(path)
        with open(descriptor, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if os.fstat(descriptor).st_size > _MAX_BYTES:
                raise SourceError(f"{path} is larger than 256 MiB", hint)
            reader = csv.DictReader(file)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                there = ", ".join(map(repr, reader.fieldnames or ())) or "none"
                wanted = sorted(missing)[0]
                raise SourceError(f"{path} has no column {wanted!r}; its columns: {there}", hint)
            for row in reader:
                word = (row["label"] or "").strip().lower()
                if word not in _VALUES:
                    line = reader.line_num
                    raise SourceError(f"{path}, line {line}: {word!r} is not a label", hint)
                name = os.fsencode((row["path"] or "").removeprefix("./"))
                if not name:
                    raise SourceError(f"{path}, line {reader.line_num}: no path", hint)
                if labels.setdefault(name, _VALUES[word]) != _VALUES[word]:
                    line = reader.line_num
                    raise SourceError(f"{path}, line {line}: a path with two labels", hint)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}", hint) from None
    except (csv.Error, ValueError) as error:
        raise SourceError(f"cannot read {path}: {error}", hint) from None
    return labels


class Known(NamedTuple):
    """What is known of the images of several files."""

    labels: list[NDArray[np.int8]]  # for each file (N,): 0, 1, or -1 where nothing is
    remark: str  # what was understood that the labels do not say; empty if nothing


def match_files(labels: Labels, files: Sequence[ScoreFile]) -> Known:
    """The labels of all files. Where only images that do not belong are named, the rest belongs.

    Raises SourceError for labels that name none of the images.
    """
    known = [match(labels, scores) for scores in files]
    n_named = sum(int((of_file >= 0).sum()) for of_file in known)
    if not n_named:
        raise SourceError("the labels name none of these images", "use the paths as scored")
    if 0 in labels.values():
        return Known(known, "")
    rest = sum(map(len, known)) - n_named
    remark = (
        f"the labels name only images that do not belong, {n_named:,} of those here: the other "
        f"{rest:,} count as images that belong"
    )
    return Known([np.maximum(of_file, 0) for of_file in known], remark)


def match(labels: Labels, scores: ScoreFile) -> NDArray[np.int8]:
    """The label of every row, (N,): 0, 1, or -1 where there is none.

    A path in `labels` may leave out the first folders of the path that was scored; of several
    matches the longest counts.
    """
    found = np.full(len(scores), -1, np.int8)
    for row, name in enumerate(scores.names):
        rest = bytes(name)
        while True:
            if rest in labels:
                found[row] = labels[rest]
                break
            _, slash, rest = rest.partition(b"/")
            if not slash:
                break
    return found
