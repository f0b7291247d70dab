"""What the sweeps share: commands run fast by `server.py`, what may come of them, and damage."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SECONDS = 10  # of a processor, that a command may take on a file of a few rows
MEBIBYTES = 256  # ... and memory, beyond what the program itself takes
KNOWN = {0, 1, 2, 3, 4}  # exit codes of a command that ended as it should
KILL, TEAR = -1, -2

ROOT = Path(__file__).parents[2]

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, preloads a library")


@dataclass
class End:
    """How a task ended."""

    code: int
    seconds: float  # of a processor
    grown: int  # KiB
    out: str
    err: str

    def unexpected(self, seconds: float = SECONDS) -> str:
        """What is wrong with it, whatever it was asked; empty for an end that is in order."""
        wrong = []
        if self.code not in KNOWN:
            wrong.append(f"exit code {self.code}")
        if "Traceback" in self.err or "a bug in" in self.err:
            wrong.append("an exception")
        if self.code in (2, 3) and not ("error: " in self.err and "hint: " in self.err):
            wrong.append("no error with a hint")
        if self.grown > MEBIBYTES * 1024:
            wrong.append(f"{self.grown >> 10} MiB")
        if self.seconds > seconds:
            wrong.append(f"{self.seconds:.0f} s")
        return ", ".join(wrong)


@dataclass
class Server:
    """A process that runs commands."""

    scratch: Path
    shim: Path | None
    process: Any = None
    n_tasks: int = 0
    env: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
        }
        if self.shim:
            environment["LD_PRELOAD"] = str(self.shim)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(self.process.stdout.readline())["ready"]

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __call__(self, *arguments: object, cwd: Path, stdin: bytes = b"", **more: Any) -> End:
        """Run a command in a folder."""
        return self.together([arguments], cwd=cwd, stdin=stdin, **more)[0]

    def call(self, what: str, *arguments: object, cwd: Path, **more: Any) -> End:
        """Run `module:function` in a folder."""
        return self.together([arguments], cwd=cwd, call=what, **more)[0]

    def together(
        self, commands: Sequence[Sequence[object]], cwd: Path, stdin: bytes = b"", **more: Any
    ) -> list[End]:
        """Run several at once."""
        tasks = []
        (self.scratch / "stdin").write_bytes(stdin)
        for number, arguments in enumerate(commands):
            files = {name: str(self.scratch / f"{name}-{number}") for name in ("stdout", "stderr")}
            task = {"id": number, "cwd": str(cwd), "arguments": [str(one) for one in arguments]}
            files["modules"] = str(self.scratch / f"modules-{number}")
            task |= files | {"stdin": str(self.scratch / "stdin"), "env": self.env} | more
            tasks.append(task)
        self.process.stdin.write(json.dumps(tasks) + "\n")
        self.process.stdin.flush()
        found = {end["id"]: end for end in json.loads(self.process.stdout.readline())}
        self.n_tasks += len(tasks)
        return [
            End(
                found[task["id"]]["code"],
                found[task["id"]]["seconds"],
                found[task["id"]]["grown"],
                Path(task["stdout"]).read_text(errors="replace"),
                Path(task["stderr"]).read_text(errors="replace"),
            )
            for task in tasks
        ]


@contextlib.contextmanager
def serving(scratch: Path, with_faults: bool = False) -> Iterator[Server]:
    """A server, and its files in a folder. Skips where faults need a compiler."""
    shim = None
    scratch.mkdir(parents=True, exist_ok=True)
    if with_faults:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("no C compiler to build tests/hostile/faults.c with")
        shim = scratch / "faults.so"
        source = Path(__file__).with_name("faults.c")
        built = [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]
        subprocess.run(built, check=True)
    server = Server(scratch, shim)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def listing(folder: Path) -> dict[str, int]:
    """Every path below a folder, with its size: what is written nowhere else."""
    return {
        str(path.relative_to(folder)): path.lstat().st_size if path.is_file() else -1
        for path in sorted(folder.rglob("*"))
    }


# -- damage ---------------------------------------------------------------------------------------

LONG = "x" * 100_000
WRONG: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308, float("nan")),
    *(
        "",
        "x",
        "\0",
        "\x1b[31m",
        "\ud800",
        "../..",
        LONG,
        [],
        [[]],
        [1],
        ["x"],
        [None],
        {},
        {"x": 1},
    ),
]


def json_damages(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """A JSON value with each of its parts missing, or anything else: what it is, and the value."""
    if path:
        for wrong in WRONG:
            yield f"{'.'.join(map(str, path))} = {str(wrong)[:20]!r}", wrong
    if isinstance(value, dict):
        for key, part in value.items():
            rest = {name: one for name, one in value.items() if name != key}
            yield f"{'.'.join(map(str, (*path, key)))} missing", rest
            for name, changed in json_damages(part, (*path, key)):
                yield name, rest | {key: changed}
        yield f"{'.'.join(map(str, path))} has more", value | {"another": 1}
    if isinstance(value, list):
        for i in {0, len(value) - 1} if value else ():
            for name, changed in json_damages(value[i], (*path, i)):
                yield name, [*value[:i], changed, *value[i + 1 :]]
        yield f"{'.'.join(map(str, path))} shorter", value[:-1]
        yield f"{'.'.join(map(str, path))} doubled", value + value


def byte_damages(data: bytes, n: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """n files cut somewhere, or with a few bytes changed, or a part of them moved."""
    random = np.random.default_rng(seed)
    for i in range(n):
        place = int(random.integers(0, max(1, len(data))))
        kind = i % 4
        if kind == 0:
            yield f"cut at {place}", data[:place]
        elif kind == 1:
            flipped = bytearray(data)
            if flipped:
                flipped[place] ^= 1 << int(random.integers(8))
            yield f"a bit of byte {place} flipped", bytes(flipped)
        elif kind == 2:
            length = int(random.integers(1, 64))
            noise = random.integers(0, 256, length, np.uint8).tobytes()
            yield f"noise at {place}", data[:place] + noise + data[place + length :]
        else:
            other = int(random.integers(0, max(1, len(data))))
            first, last = sorted((place, other))
            yield f"{first} to {last} doubled", data[:last] + data[first:]


ODD_JSON = {
    "empty": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "a long number": b'{"format_version": ' + b"9" * 10_000 + b"}",
    "NaN": b'{"format_version": NaN}',
    "twice": b'{"format": 1, "format": 2}',
    "a mark of byte order": b"\xef\xbb\xbf{}",
}


def places(path: Path) -> Iterator[tuple[str, Any]]:
    """What may stand where a file is looked for: its name, and what puts it there."""

    def clear() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def put(make: Any) -> Any:
        return lambda: (clear(), make())

    yield "nothing", put(lambda: None)
    yield "a pipe", put(lambda: os.mkfifo(path))
    yield "a folder", put(path.mkdir)
    yield "a device", put(lambda: path.symlink_to("/dev/zero"))
    yield "a terminal", put(lambda: path.symlink_to("/dev/tty"))
    yield "a link to itself", put(lambda: path.symlink_to(path.name))
    yield "a link to nothing", put(lambda: path.symlink_to("nothing/at/all"))
    yield "an empty file", put(lambda: path.write_bytes(b""))
    yield "a sparse file", put(lambda: (path.touch(), os.truncate(path, 1 << 40)))


class Tally:
    """Counts what was tried, and keeps what was unexpected."""

    def __init__(self) -> None:
        self.files = self.commands = 0
        self.unexpected: list[str] = []
        self.codes: dict[int, int] = {}

    def add(
        self, what: str, command: object, end: End, wrong: str = "", seconds: float = SECONDS
    ) -> None:
        self.commands += 1
        self.codes[end.code] = self.codes.get(end.code, 0) + 1
        wrong = ", ".join(filter(None, [end.unexpected(seconds), wrong]))
        if wrong:
            said = end.err.strip()[-400:]
            self.unexpected.append(f"{what}: {command}: {wrong}: {said}")

    def check(self, title: str) -> None:
        """Print the counts, and fail where anything was unexpected."""
        print(
            f"\n{title}: {self.files} files, {self.commands} commands, "
            f"{len(self.unexpected)} unexpected; exit codes {dict(sorted(self.codes.items()))}"
        )
        assert not self.unexpected, "\n".join(self.unexpected[:20])
