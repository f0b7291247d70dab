"""What stands beside scores, wrong in one place each: journals, judgements, labels, pages."""

from __future__ import annotations

import json
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hvaeood_cli.store.header import RunHeader
from tests.hostile.case import Case, flipped, truncated

JOURNAL, JUDGEMENTS, LABELS, PAGE = (
    "j.h5.journal",
    "s.h5.judgements.json",
    "labels.csv",
    "page.html",
)
_MAGIC = b"hvaeood-journal 2\n"
_JSON: list[Any] = [
    None, True, 0, -1, 3, 1.5, 2**63, 2**64, 1e308, "", "x", "x" * 10_000, "\x1b[2J", "a\0b",
    [], [1], {}, {"a": 1}, [[[]]],
]  # fmt: skip


def sidecars(seed: int = 0, n_random: int = 150) -> Iterator[Case]:
    """All of them. seed: of what is cut and flipped at random."""
    yield from _journals()
    yield from _judgements()
    yield from _labels()
    for file in (JOURNAL, JUDGEMENTS, LABELS, PAGE):
        yield from truncated(file, seed, n_random if file == JOURNAL else n_random // 5)
        some = n_random if file == JOURNAL else n_random // 3
        yield from flipped(file, seed, some, same=file == JOURNAL)
        yield from no_files(file)
    yield from no_files("s.h5")


# -- journals -------------------------------------------------------------------------------------


def frame(kind: bytes, payload: bytes) -> bytes:
    return struct.pack("<cQI", kind, len(payload), zlib.crc32(payload)) + payload


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    """The frames of a journal that is whole."""
    found, at = [], len(_MAGIC)
    while at < len(data):
        kind, length, _ = struct.unpack_from("<cQI", data, at)
        found.append((kind, data[at + 13 : at + 13 + length]))
        at += 13 + length
    return found


def _journals() -> Iterator[Case]:
    def made_of(change: Callable[[list[tuple[bytes, bytes]]], Any]) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            parts = frames((folder / JOURNAL).read_bytes())
            changed = change(parts)
            parts = parts if changed is None else changed
            (folder / JOURNAL).write_bytes(_MAGIC + b"".join(frame(*part) for part in parts))

        return spoil

    def case(name: str, change: Callable[[list[tuple[bytes, bytes]]], Any]) -> Case:
        return Case(f"journal: {name}", made_of(change), JOURNAL)

    def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], None]:
        def spoil(parts: list[tuple[bytes, bytes]]) -> None:
            facts = json.loads(parts[0][1])
            change(facts)
            parts[0] = (b"H", json.dumps(facts).encode())

        return spoil

    def batch(first: int, n: int, rest: bytes) -> Callable[[Any], None]:
        def spoil(parts: list[tuple[bytes, bytes]]) -> None:
            parts[1] = (b"B", struct.pack("<QQ", first, n) + rest)

        return spoil

    def rows(at: int, value: int) -> Callable[[Any], None]:
        def spoil(parts: list[tuple[bytes, bytes]]) -> None:
            payload = bytearray(parts[1][1])
            payload[16 + at] = value
            parts[1] = (b"B", bytes(payload))

        return spoil

    for name in RunHeader.model_fields:
        yield case(f"without {name}", header(lambda facts, n=name: facts.pop(n)))
        for value in _JSON:
            change = header(lambda facts, n=name, v=value: facts.update({n: v}))
            yield case(f"{name} {str(value)[:20]!r}", change)
    for first in (0, 1, 59, 60, 2**32, 2**63, 2**64 - 1):
        for n in (0, 1, 60, 2**31, 2**62, 2**64 - 1):
            for rest in (b"", b"{}", bytes(500) + b"{}"):
                yield case(f"{n} rows from {first}", batch(first, n, rest))
    for errors in (b"[]", b"{", b'{"a":"b"}', b'{"-1":"b"}', b'{"0":3}', b'{"0":"x"}', b"null",
                   b'{"99":"x"}', b'{"1e3":"x"}', b'{"0":null}', b"[" * 50_000, b"\xff",
                   b'{"' + b"9" * 5000 + b'":"x"}', b'{"0":"' + b"x" * 99_999 + b'"}'):  # fmt: skip
        yield case(f"errors {errors[:20]!r}", batch(0, 0, errors))
        yield case(
            f"rows and errors {errors[:20]!r}",
            lambda parts, e=errors: parts.append((b"B", parts[1][1].rpartition(b"{")[0] + e)),
        )
    for at in range(0, 60):
        for value in (0x7F, 0x80, 0xFF):
            yield case(f"byte {at} of a row is {value}", rows(at, value))
    yield case("no header", lambda parts: parts[1:])
    yield case("a header alone", lambda parts: parts[:1])
    yield case("two headers", lambda parts: [parts[0], *parts])
    yield case("a header of another run behind", lambda parts: [
        *parts, (b"H", parts[0][1].replace(b'"seed":0', b'"seed":1'))])  # fmt: skip
    other = (b'"n_layers":3', b'"n_layers":5')
    yield case("a header of another number of layers behind", lambda parts: [
        *parts, (b"H", parts[0][1].replace(*other)), parts[1]])  # fmt: skip
    yield case("rows twice", lambda parts: [*parts, *parts[1:]])
    yield case("an unknown frame", lambda parts: [*parts, (b"X", b"abc"), parts[1]])
    yield case("empty frames", lambda parts: [parts[0], (b"B", b""), (b"H", b""), *parts[1:]])
    yield case("a header of a megabyte", lambda parts: [(b"H", b" " * (2 << 20) + parts[0][1])])


# -- judgements, labels, pages --------------------------------------------------------------------


def _judgements() -> Iterator[Case]:
    def case(name: str, change: Callable[[dict[str, Any]], Any], refused: bool = True) -> Case:
        def spoil(folder: Path) -> None:
            facts = json.loads((folder / JUDGEMENTS).read_bytes())
            (folder / JUDGEMENTS).write_text(json.dumps(change(facts) or facts))

        return Case(f"judgements: {name}", spoil, JUDGEMENTS, refused)

    def entry(facts: dict[str, Any]) -> dict[str, Any]:
        return next(iter(facts["judgements"].values()))

    for value in _JSON[:-1]:
        for name in ("format", "format_version", "judgements"):
            right = name == "judgements" and value == {}
            what = f"{name} {str(value)[:20]!r}"
            yield case(what, lambda facts, n=name, v=value: facts.update({n: v}), not right)
        for name in ("mark", "note", "path"):
            what = f"{name} {str(value)[:20]!r}"
            right = isinstance(value, str) and (name != "mark" or not value)
            yield case(what, lambda facts, n=name, v=value: entry(facts).update({n: v}), not right)
        what = f"an entry {str(value)[:20]!r}"
        yield case(
            what,
            lambda facts, v=value: facts["judgements"].update({"content:" + "0" * 16: v}),
            not isinstance(value, dict),
        )
    for key in ("", "content", "content:", "content:zz", "content:" + "F" * 16, "x" * 100_000,
                "sha256:" + "0" * 63, "name:\x1b[2J"):  # fmt: skip
        yield case(f"key {key[:20]!r}", lambda facts, k=key: facts["judgements"].update({k: {}}))
    for name, text in {"deep": b"[" * 1_000_000, "large": b"[" + b"[]," * (12 << 20) + b"1]",
                       "NUL": b"\0" * 1000, "UTF-16": "{}".encode("utf-16")}.items():  # fmt: skip
        yield Case(
            f"judgements: {name}",
            lambda folder, t=text: (folder / JUDGEMENTS).write_bytes(t),
            JUDGEMENTS,
            refused=True,
        )


def _labels() -> Iterator[Case]:
    texts = {
        "nothing": b"", "a heading alone": b"path,label\n", "no path": b"path,label\n,1\n",
        "no label": b"path,label\nimages/00.png\n", "many cells": b"path,label\na,1,2,3,4\n",
        "two labels": b"path,label\na,1\na,0\n", "NaN": b"path,label\na,nan\n",
        "a number": b"path,label\na,2\n", "a large number": b"path,label\na," + b"9" * 5000 + b"\n",
        "NUL": b"path,label\na\0,1\n", "no UTF-8": b"path,label\n\xff\xfe,1\n",
        "UTF-16": "path,label\na,1\n".encode("utf-16"), "one line": b"x" * 3_000_000,
        "an open quote": b'path,label\n"' + b"x" * 3_000_000, "no commas": b"path label\na 1\n",
        "other columns": b"name,class\na,1\n", "two of a kind": b"path,label,label\na,1,0\n",
        "of nobody": b"path,label\nzzz,1\n", "escapes": b"path,label\na,\x1b[2J\n",
        "an escape as a heading": b"\x1b[2J,label\na,1\n",
    }  # fmt: skip
    for name, text in texts.items():
        yield Case(
            f"labels: {name}", lambda folder, t=text: (folder / LABELS).write_bytes(t), LABELS
        )


# -- what is no file ------------------------------------------------------------------------------


def no_files(file: str) -> Iterator[Case]:
    """What may stand where a file is looked for."""

    def instead(make: Callable[[Path], Any]) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            (folder / file).unlink()
            make(folder / file)

        return spoil

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))

    named = file in ("s.h5", LABELS, PAGE)  # by the user, who may name a link
    made: dict[str, tuple[Callable[[Path], Any], bool]] = {
        "a pipe": (os.mkfifo, True),
        "a folder": (lambda path: path.mkdir(), True),
        "a socket": (listening, True),
        "a link to a device": (lambda path: path.symlink_to("/dev/zero"), True),
        "a link to nothing": (lambda path: path.symlink_to("nowhere"), file == JUDGEMENTS),
        "a link to itself": (lambda path: path.symlink_to(path.name), True),
        "a link to another": (lambda path: path.symlink_to(f"good/{path.name}"), not named),
        "unreadable text": (lambda path: path.write_bytes(b"\xff\xfe\0" * 100), file != LABELS),
    }
    for name, (make, refused) in made.items():
        yield Case(f"{file}: {name}", instead(make), file, refused and file != PAGE)
