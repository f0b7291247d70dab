"""Runs the commands on files that are wrong, each file in a process of its own.

That process is a copy of this one (`os.fork`), so torch and the like are loaded once. It may crash,
wait or take memory: then that is what came of it. So this one is none of pytest's, which may have
threads and libraries by then that no copy survives: `swept` starts it.

    python -m tests.hostile.sweep FOLDER well|some|PART
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hvaeood_cli.errors import ExitCode
from tests.hostile.built import build
from tests.hostile.case import Case
from tests.hostile.score_files import FILE, TILED, score_files
from tests.hostile.sidecars import JOURNAL, JUDGEMENTS, LABELS, PAGE, no_files, sidecars

PARTS = 16  # of all cases
ROOT = Path(__file__).parents[2]
CPU_SECONDS = 10  # of one command
_WAIT_SECONDS = 150  # for all commands of a case: the machine may be busy
MEMORY = 256 << 20  # bytes that one command may take
_KNOWN = {ExitCode.DONE, ExitCode.FLAGGED, ExitCode.USAGE, ExitCode.BAD_INPUT,
          ExitCode.SOME_UNREADABLE}  # fmt: skip
# What the commands load, so that it is loaded once.
_LOADED = [
    f"hvaeood_cli.{name}"
    for name in (
        "cli.app", "detector", "tui.app", "tui.picker", "report.page", "report.markdown",
        "report.evaluation", "report.labels", "looks.looker", "looks.grid", "taking.take",
        "scoring.run", "scoring.engines.local", "training.run", "calibration.rules",
    )
]  # fmt: skip
_SURPRISE = ("Traceback", "a bug in hvaeood", "not enough memory", "to see where it happened")


@dataclass(frozen=True)
class Command:
    """A command, or the workbench, and what it may write."""

    words: tuple[str, ...]
    writes: tuple[str, ...] = ()
    door: bool = True  # whether what cannot be read must be refused, and not only remarked on


_THE_FILE = ("s.h5", "good", "nowhere")  # and where it leads, if it is a link
_SCORE = ("score", "images", "--model", "model", "--statistics", "all", "--label", "0", "-q", "-o")
_SCORE_TILES = ("score", "photos", "--model", "tiled", "--label", "0", "-q", "-o")
COMMANDS: dict[str, list[Command]] = {
    FILE: [
        Command(("decide", "s.h5", "--json"), _THE_FILE),
        Command(("decide", "s.h5", "--fpr", "0.1", "--copy-to", "taken"), (*_THE_FILE, "taken")),
        Command(("decide", "s.h5", "--fdr", "0.2", "--calibration", "c.npz"), _THE_FILE),
        Command(("report", "s.h5", "--top", "2", "-q", "-o", "r.html"), ("r.html",)),
        Command(("report", "s.h5", "--format", "md")),
        Command(("report", "s.h5", "--format", "csv", "--labels", LABELS)),
        Command(("report", "good.h5", "s.h5", "--format", "json")),
        Command(
            ("calibrate", "s.h5", "--model", "model", "-o", "new.npz"),
            ("new.npz", "new.maps.safetensors"),
        ),
        Command((*_SCORE, "s.h5"), _THE_FILE),
        Command(("reconstruct", "s.h5", "--model", "model", "-o", "g.png"), ("g.png",), False),
        Command(("tui", "s.h5")),
        Command(("the workbench", "s.h5")),
        Command(("the picker", "s.h5"), door=False),
    ],
    TILED: [
        Command(("decide", TILED, "--fpr", "0.1", "--json"), (TILED,)),
        Command(("report", TILED, "--top", "2", "-q", "-o", "r.html"), ("r.html",)),
        Command(("report", TILED, "--format", "csv")),
        Command(("report", TILED, "--format", "json")),
        Command(
            ("calibrate", TILED, "--model", "tiled", "-o", "new.npz"),
            ("new.npz", "new.maps.safetensors"),
        ),
        Command((*_SCORE_TILES, TILED), (TILED,)),
        Command(("the workbench", TILED)),
        Command(("the picker", TILED), door=False),
    ],
    JOURNAL: [Command((*_SCORE, "j.h5"), ("j.h5", "j.h5.journal*"))],
    JUDGEMENTS: [
        Command(("report", "s.h5", "--format", "json")),
        Command(("report", "s.h5", "--top", "0", "-q", "-o", "r.html"), ("r.html",)),
        Command(("the workbench", "s.h5"), (JUDGEMENTS,)),
    ],
    LABELS: [Command(("report", "s.h5", "--format", "json", "--labels", LABELS))],
    PAGE: [
        # Where it is a link, what it leads to is made, or with --force written anew.
        Command(("report", "s.h5", "--top", "0", "-q", "-o", PAGE), (PAGE, "nowhere")),
        Command(
            ("report", "s.h5", "--top", "0", "-q", "-o", PAGE, "--force"),
            (PAGE, "nowhere", "good"),
        ),
    ],
}  # fmt: skip


@dataclass
class Tally:
    """What came of all commands that were tried."""

    n_files: int = 0
    n_commands: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        codes = ", ".join(f"{code}: {n:,}" for code, n in sorted(self.codes.items()))
        return (
            f"{self.n_files:,} files, {self.n_commands:,} commands, {len(self.failures):,} failed; "
            f"exit codes {codes}"
        )


def cases(which: str) -> list[Case]:
    """The cases of that name: where all is "well", "some" of each kind, or a part of all."""
    if which == "well":
        return [Case("nothing", lambda folder: None, file) for file in COMMANDS]
    if which == "some":  # others each time that the schema changes
        few = [*score_files(n_random=20), *sidecars(n_random=20)]
        return [*random.Random(0).sample(few, 10), *no_files(JOURNAL)]
    every = [*score_files(), *sidecars()]
    random.Random(2).shuffle(every)  # so that each part is a fair sample
    return every[int(which) :: PARTS]


def swept(good: Path, which: str) -> Tally:
    """`sweep` in a new process; what it shows is printed. good: a folder where all is well."""
    command = [sys.executable, "-m", "tests.hostile.sweep", str(good), which]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for last in process.stdout or ():
            print(last, end="", flush=True)
    found = json.loads(last)
    return Tally(**found | {"codes": Counter(found["codes"])})


def sweep(good: Path, cases: Iterable[Case], show: Callable[[str], Any] = lambda _: None) -> Tally:
    """Try every command on every case. good: a folder where all is well."""
    tally = Tally()
    for module in _LOADED:
        import_module(module)
    build()
    for case in cases:
        folder = good.parent / "case"
        shutil.rmtree(folder, ignore_errors=True)
        (good.parent / "said").unlink(missing_ok=True)  # of a command that crashed
        _copy(good, folder)
        tally.n_files += 1
        if tally.n_files % 25 == 0:
            show(str(tally))
        for words, code, failure in _in_another_process(lambda f=folder, c=case: _try(f, c)):
            tally.n_commands += 1
            tally.codes[str(code)] += 1
            if failure:
                tally.failures.append(f"{case.name}: {words}: {failure}")
                show(tally.failures[-1])
    return tally


def _in_another_process(
    outcomes: Callable[[], Iterator[tuple[str, Any, str]]],
) -> list[tuple[str, Any, str]]:
    """What these are in a copy of this process; and that it ended, where it did too early."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with open(writing, "w", buffering=1) as pipe:
            try:
                for outcome in outcomes():
                    print(json.dumps(outcome), file=pipe)
                print("null", file=pipe)
            except BaseException:
                print(json.dumps(["the sweep", "-", traceback.format_exc()]), file=pipe)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        text = b""
        while select.select([pipe], [], [], _WAIT_SECONDS)[0]:
            more = os.read(pipe.fileno(), 1 << 16)
            if not more:
                break
            text += more
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    found = [json.loads(line) for line in text.decode().splitlines()]
    if found and found[-1] is None:
        return found[:-1]
    how = signal.Signals(status).name if os.WIFSIGNALED(status) and status else str(status)
    return [*found, (f"the command after the {len(found)}.", how, f"ended by {how}")]


def _try(folder: Path, case: Case) -> Iterator[tuple[str, Any, str]]:
    """Try all commands on a case: the words, the exit code, and what is wrong with it, if any."""
    os.chdir(folder)
    case.spoil(folder)
    spoilt = folder.parent / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    _copy(folder, spoilt)
    for command in COMMANDS[case.file]:
        before = _contents(folder.parent)
        with _measured() as memory:
            code, said = _run(command)
        wrong = _what_is_wrong(folder, case, command, code, said)
        if memory() > MEMORY:
            wrong = wrong or f"took {memory() >> 20} MiB"
        after = _contents(folder.parent)
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        changed -= {"case"}  # a temporary file was made in it, and is gone
        outside = [name for name in changed if not _may_write(command, name, code)]
        if outside:
            wrong = wrong or f"exit code {code}, and wrote {outside[:3]}"
        yield " ".join(command.words), code, wrong
        if changed:
            shutil.rmtree(folder)
            _copy(spoilt, folder)
            os.chdir(folder)


def _what_is_wrong(folder: Path, case: Case, command: Command, code: int, said: str) -> str:
    if code not in _KNOWN or any(words in said for words in _SURPRISE):
        return f"exit code {code}: {said[-1500:]}"
    if code == ExitCode.BAD_INPUT and not ("error: " in said and "hint: " in said):
        return f"no error with a hint: {said[-500:]}"
    # What a command is to write over, and cannot, is a wrong -o.
    refusals = {ExitCode.BAD_INPUT, *([ExitCode.USAGE] if case.file in command.writes else [])}
    if case.refused and command.door and code not in refusals:
        return f"not refused, exit code {code}: {said[-500:]}"
    if (
        case.same
        and code == ExitCode.DONE
        and not _same_scores(folder / "j.h5", folder / "good.h5")
    ):
        return "other scores than those of a whole file"
    return ""


def _same_scores(here: Path, there: Path) -> bool:
    import h5py

    with h5py.File(here) as one, h5py.File(there) as other:
        return all(
            one[name][()].tobytes() == other[name][()].tobytes()
            for name in ("images/path", "images/sha256", "scores/lower_bound", "scores/kl")
        )


def _may_write(command: Command, name: str, code: int) -> bool:
    """Whether a command that ended so may change this file of the folder."""
    if not name.startswith("case/"):
        return False
    top = name.split("/")[1]
    allowed = any(Path(top).match(pattern) for pattern in command.writes)
    refused = code in (ExitCode.USAGE, ExitCode.BAD_INPUT)
    return allowed and not (refused and top in (FILE, TILED))


def _contents(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that is there, by name, and what changes when it is written."""
    found = {}
    for path in (place for top in ("", "case", "case/taken") for place in _in(folder / top)):
        status = path.lstat()
        facts = status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns
        found[str(path.relative_to(folder))] = facts
    return found


def _in(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()


def _copy(there: Path, here: Path, copy: Callable[[Any, Any], Any] = shutil.copyfile) -> None:
    """Copy a folder in which there may be pipes. Files in folders below are the same: none writes.

    copy: how a file is copied.
    """
    here.mkdir(parents=True, exist_ok=True)
    for path in there.iterdir():
        place = here / path.name
        if path.is_symlink():
            place.symlink_to(path.readlink())
        elif path.is_dir():
            _copy(path, place, os.link)
        elif path.is_file():
            copy(path, place)
        elif path.is_fifo():
            os.mkfifo(place)
        else:
            os.link(path, place)


@contextlib.contextmanager
def _measured() -> Iterator[Callable[[], int]]:
    """A function that says how many bytes of memory the body took at most; and a limit of time."""
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield lambda: _status("VmHWM") - before
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


def _run(command: Command) -> tuple[int, str]:
    """The exit code of a command, and all that it said."""
    with open("../said", "w+b") as said:
        kept = os.dup(1), os.dup(2)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            code = _call(command)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    Path("../said").unlink()
    return code, text


def _call(command: Command) -> int:
    from hvaeood_cli.cli import console
    from hvaeood_cli.cli.app import main

    sys.argv = ["hvaeood", *command.words]
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
    sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="surrogateescape")
    console.out.cache_clear()
    console.err.cache_clear()
    if command.words[0].startswith("the "):
        return _opened(command)
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)


def _opened(command: Command) -> int:
    """Open the workbench, walk through it, and judge an image; or choose the file in the picker."""
    from hvaeood_cli.cli.app import _explained
    from hvaeood_cli.cli.tui import _open
    from hvaeood_cli.store.reader import read_summary
    from hvaeood_cli.tui.app import Workbench
    from hvaeood_cli.tui.picker import Picker

    path = Path(command.words[1])

    async def walk(app: Any, keys: str) -> None:
        async with app.run_test(size=(100, 30)) as pilot:
            for key in keys.split():
                await pilot.press(key)
                await app.workers.wait_for_complete()
            await pilot.pause()

    try:
        if command.words[0] == "the picker":
            read_summary(path)  # which is what the picker does; it shows what that refuses
            asyncio.run(walk(Picker([Path("good.h5"), path]), "down down up"))
            return 0
        opened = [_open(path, [], None, None, "cpu")]
        keys = "down o" if command.writes else "down enter o o escape"
        opened.append(_open(Path("good.h5"), [], None, None, "cpu"))
        asyncio.run(walk(Workbench(opened, None, None), keys))
    except Exception as raised:
        error = _explained(raised)
        if error.exit_code == ExitCode.BUG:
            traceback.print_exc()
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    tried = sweep(Path(sys.argv[1]), cases(sys.argv[2]), lambda line: print(line, flush=True))
    print(tried, json.dumps(vars(tried)), sep="\n")
