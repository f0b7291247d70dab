"""Judgements, a person's marks and notes on images, in a small JSON file beside the scores.

    SCORES.judgements.json
    {"format": "hvaeood-judgements", "format_version": 1,
     "judgements": {"content:91b5...": {"mark": "ood", "note": "a shoe", "path": "a/7.png"}}}

A judgement is about an image, not about a row: its key is the image's content, so that it holds
for the same image under another name and in scores made anew. The path is only for people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import StoreError
from hvaeood_cli.files import locked, open_regular, replacing
from hvaeood_cli.store.score_file import ScoreFile

FORMAT, FORMAT_VERSION = "hvaeood-judgements", 1
MARKS = ("ood", "fine", "unsure")
MAX_NOTE = 2000  # characters

_MAX_BYTES = 1 << 25  # Python's lists and dictionaries take some twenty times as much


@dataclass(frozen=True)
class Judgement:
    """How a person judged one image. If the mark is empty, there is only a note."""

    mark: str = ""  # of MARKS, or ""
    note: str = ""
    path: str = ""  # as it was when judged; bytes that are not UTF-8 are surrogates

    def __bool__(self) -> bool:
        return bool(self.mark or self.note)


@dataclass(frozen=True, eq=False)
class Judgements:
    """All judgements of one sidecar file, by key."""

    by_key: dict[str, Judgement]

    def __len__(self) -> int:
        return len(self.by_key)

    def of(self, scores: ScoreFile, row: int) -> Judgement:
        """The judgement of a row's image; an empty one where there is none."""
        return self.by_key.get(key_of(scores, row), Judgement())

    def rows(self, scores: ScoreFile) -> Iterator[tuple[int, Judgement]]:
        """Every row of a score file that is judged, in order, with its judgement."""
        candidates = self._candidates(scores)
        for row in candidates:
            if found := self.of(scores, int(row)):
                yield int(row), found

    def marks(self, scores: ScoreFile) -> NDArray[np.int8]:
        """A code per row, (N,): 0 not judged, 1 + place in MARKS, 1 + len(MARKS) only a note."""
        codes = np.zeros(len(scores), np.int8)
        for row, judgement in self.rows(scores):
            codes[row] = (*MARKS, "").index(judgement.mark) + 1
        return codes

    def _candidates(self, scores: ScoreFile) -> NDArray[np.int64]:
        """Rows that may be judged. One number is compared for each row: fast for a million."""
        wanted = [key.partition(":") for key in self.by_key]
        content = [int(value, 16) for kind, _, value in wanted if kind == "content"]
        sha256 = [int(value[:16], 16) for kind, _, value in wanted if kind == "sha256"]
        found = np.isin(scores.content, np.array(content, np.uint64))
        if sha256 or any(kind == "name" for kind, _, _ in wanted):
            bare = np.flatnonzero(scores.content == 0)
            heads = np.ascontiguousarray(scores.sha256[bare, :8]).view(">u8").ravel()
            nameless = heads == 0  # no bytes at all: known by name
            found[bare[np.isin(heads, np.array(sha256, np.uint64)) | nameless]] = True
        return np.flatnonzero(found)


def judgements_path(scores: Path) -> Path:
    """The path of a score file's judgements."""
    return scores.with_name(scores.name + ".judgements.json")


def key_of(scores: ScoreFile, row: int) -> str:
    """The key of a row's image: by its pixels, else its bytes, else (there are none) its name."""
    if scores.content[row]:
        return f"content:{int(scores.content[row]):016x}"
    if scores.sha256[row].any():
        return f"sha256:{scores.sha256[row].tobytes().hex()}"
    return f"name:{hashlib.sha256(bytes(scores.names[row])).hexdigest()}"


def read_judgements(scores: Path) -> Judgements:
    """The judgements beside a score file; empty where there is no such file.

    scores: the path of the score file. Raises StoreError for a file that is damaged or something
    else.
    """
    path = judgements_path(scores)
    try:
        with open(open_regular(path, follow=False), "rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError("it is larger than 32 MiB")
        value = json.loads(text)
    except FileNotFoundError:
        return Judgements({})
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _damaged(path, "it does not say that it is one")
    version = value.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:  # true is 1 as well
        raise StoreError(
            f"{path} has format version {str(version)[:20]}; "
            f"this program reads version {FORMAT_VERSION}",
            "upgrade: pip install --upgrade hvaeood",
        )
    found = value.get("judgements")
    if not isinstance(found, dict):
        raise _damaged(path, "it has no judgements")
    return Judgements({key: _judgement(path, key, entry) for key, entry in found.items()})


def judge(scores: ScoreFile, row: int, mark: str, note: str) -> Judgements:
    """Judge a row's image; with neither mark nor note, remove its judgement.

    Returns all judgements, with those that other threads and processes have made meanwhile: each
    in turn locks the file, reads it anew and writes it whole. Raises StoreError as
    `read_judgements` and `locked` do, and where the file cannot be written; ValueError for an
    unknown mark.
    """
    if mark not in (*MARKS, ""):
        raise ValueError(f"no mark is called {mark!r}")
    judgement = Judgement(mark, note[:MAX_NOTE], scores.name(row))
    key = key_of(scores, row)
    with locked(judgements_path(scores.path)):
        by_key = dict(read_judgements(scores.path).by_key)
        by_key.pop(key, None)
        if judgement:
            by_key[key] = judgement
        _write(judgements_path(scores.path), by_key)
    return Judgements(by_key)


def _write(path: Path, by_key: dict[str, Judgement]) -> None:
    """Write the file whole. Raises StoreError."""
    entries = {
        key: {"mark": entry.mark, "note": entry.note, "path": entry.path}
        for key, entry in by_key.items()
    }
    value = {"format": FORMAT, "format_version": FORMAT_VERSION, "judgements": entries}
    text = json.dumps(value, indent=1) + "\n"
    if len(text) > _MAX_BYTES:
        raise StoreError(f"{path} would be larger than 32 MiB", "write shorter notes, or fewer")
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="ascii")
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}",
            "make room, or copy the score file to a folder that can be written",
        ) from None


def _judgement(path: Path, key: str, entry: Any) -> Judgement:
    """One entry, checked. Raises StoreError."""
    kind, _, value = key.partition(":")
    digits = {"content": 16, "sha256": 64, "name": 64}.get(kind)
    if digits != len(value) or not set(value) <= set("0123456789abcdef"):
        raise _damaged(path, f"{key[:80]!r} is not the key of an image")
    if not isinstance(entry, dict):
        raise _damaged(path, f"{key} has no judgement")
    texts = [entry.get(field, "") for field in ("mark", "note", "path")]
    if not all(isinstance(text, str) for text in texts) or texts[0] not in (*MARKS, ""):
        raise _damaged(path, f"{key} has a mark or a note that is not valid")
    return Judgement(texts[0], texts[1][:MAX_NOTE], texts[2])


def _damaged(path: Path, reason: str) -> StoreError:
    reason = (reason.strip().splitlines() or ["no more is known"])[0]
    return StoreError(
        f"{path} is not a whole file of judgements ({reason[:200]})",
        "mend it, or move it away and judge anew; it is left as it is",
    )
