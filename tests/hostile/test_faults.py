"""Kills and failing calls at everything that a command writes: what was said to be kept is there.

Each command is run once to count the calls that change its folder (`faults.c`), then again and
again, with a fault at one of them. Afterwards what was there before is there, or what the command
makes, whole; and the same command, run again, makes what it makes undisturbed.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide_as_asked
from hvaeood_cli.model.bundle import read_bundle
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.journal import Journal
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.writer import write_decision
from tests.conftest import make_images
from tests.hostile.forked import KILL, TEAR, End, Server, needs_linux

pytestmark = needs_linux
WITH_FAULTS = True  # of the `server`

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)
N = 300
BATCH = 128
# Every batch is synced, and every step of a training kept: else the clock would decide.
OFTEN = {"hvaeood_cli.store.journal.SYNC_SECONDS": -1.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    """Images, a model, and what the commands begin with."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(bundle.folder, folder / "model")
    (folder / "images").mkdir()
    for i, image in enumerate(make_images(N)):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:03d}.png")
    (folder / "fewer").mkdir()
    for i in range(N - 10):
        shutil.copy2(folder / "images" / f"{i:03d}.png", folder / "fewer")
    (folder / "new").mkdir()
    Image.fromarray(make_images(1, seed=5)[0, 0]).save(folder / "new" / "x.png")
    server.env["HVAEOOD_MODELS"] = str(folder / "own")
    score = ("--model", "model", "-S", "1", "--batch-size", BATCH)
    assert server("score", "fewer", "-o", "fewer.h5", *score, cwd=folder).code == 0
    assert server("score", "images", "-o", "s.h5", *score, cwd=folder).code == 0
    Calibration.of(read_scores(folder / "s.h5")).save(folder / "c.npz")
    scores = read_scores(folder / "fewer.h5")
    Calibration.of(scores).save(folder / "old.npz")
    scores = read_scores(folder / "s.h5")
    decision = decide_as_asked(Calibration.load(folder / "c.npz"), scores, Rule("fpr", 0.2))
    write_decision(scores, decision)
    return folder


def h5(path: Path) -> Any:
    """All that a score file says of its images."""
    if not path.exists():
        return None
    with h5py.File(path) as file:
        found: dict[str, Any] = {}
        file.visititems(
            lambda name, item: (
                found.update({name: np.asarray(item[()]).tobytes()})
                if isinstance(item, h5py.Dataset) and item.dtype.kind != "O"
                else None
            )
        )
        attributes = dict(file["decision"].attrs) if "decision" in file else {}
        return found, {key: str(value) for key, value in attributes.items()}


def calibration(path: Path) -> Any:
    return Calibration.load(path).id if path.exists() else None


def page(path: Path) -> Any:
    """Whether a report is there, and is whole."""
    if not path.exists():
        return None
    text = path.read_text()
    assert text.rstrip().endswith("</html>")
    return text.count("<tr>")


def judgements(path: Path) -> Any:
    return json.loads(path.read_text())["judgements"] if path.exists() else None


def model(path: Path) -> Any:
    """A model's weights and calibration; None where it is not finished."""
    if not (path / "config.json").exists():
        return None
    weights = json.loads((path / "config.json").read_text())["weights_sha256"]
    return weights, calibration(path / "calibration.npz")


def whole_model(out: Path, log: list[str], end: End) -> str:
    """A model that is there can be used, calibrated yet or not."""
    if (out / "m" / "config.json").exists():
        read_bundle(out / "m").load_ladder()
    return ""


def images(path: Path) -> Any:
    """Where each image is, whole."""
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*.png")}


@dataclass
class Scenario:
    """A command, on what is in a folder `out`, and what it leaves there."""

    name: str
    arguments: tuple[Any, ...]
    begin: Callable[[Path, Path], object]  # of home and out: puts there what was there before
    state: Callable[[Path], Any]  # of out
    call: str = ""
    kept: Callable[[Path, list[str], End], str] = lambda out, log, end: ""  # what is not kept
    codes: tuple[int, ...] = (3,)  # of one that a failing call ended
    both: bool = False  # whether its state may be between old and new

    def run(self, server: Server, home: Path, **more: Any) -> End:
        options = {"cwd": home, "patch": OFTEN} | more
        if self.call:
            return server.call(self.call, *self.arguments, **options)
        return server(*self.arguments, **options)


def rows_of(out: Path, log: list[str], end: End) -> str:
    """Rows whose sync was seen are in the journal, or in the score file."""
    synced = sum(1 for line in log if line.startswith("fsync /s.h5.journal")) - 1  # of its header
    journal = out / "s.h5.journal"
    if not journal.exists():
        return ""
    header = next(iter(_headers(journal)), None)
    if header is None:
        return "" if synced <= 0 else "the journal has no header"
    with Journal.open(journal, header) as there:
        done = there.n_done
    # The last sync seen may be the one that was to fail; one more comes at the end of all rows.
    least = min(max(0, synced - 1) * BATCH, header.n_images)
    return "" if done >= least else f"{done} rows of {least} that were synced"


def _headers(journal: Path) -> Iterator[RunHeader]:
    data = journal.read_bytes()
    start = data.find(b'{"created"')
    if start >= 0:
        text = data[start:].partition(b"}")[0] + b"}"
        if text.endswith(b"}") and b"listing_sha256" in text:
            yield RunHeader.model_validate_json(text)


def judged(out: Path, log: list[str], end: End) -> str:
    """Judgements that were said to be kept, in this sitting and before, are there."""
    there = judgements(out / "s.h5.judgements.json") or {}
    notes = {entry["note"] for entry in there.values()}
    said = {f"note {row}" for row in end.out.split()} | {"note 0", "note 1"}
    return "" if said <= notes else f"{sorted(said - notes)} are lost"


def all_there(out: Path, log: list[str], end: End) -> str:
    """Every image is whole somewhere."""
    whole = set(images(out).values())
    return "" if len(whole) == N else f"{N - len(whole)} images are lost"


def _copy(*names: str) -> Callable[[Path, Path], object]:
    def begin(home: Path, out: Path) -> None:
        for name in names:
            source, _, target = name.partition(" ")
            if (home / source).is_dir():
                shutil.copytree(home / source, out / (target or source))
            else:
                shutil.copy2(home / source, out / (target or source))

    return begin


def _to_move(home: Path, out: Path) -> None:
    """A score file whose images can be moved: all within `out`."""
    shutil.copytree(home / "images", out / "images")
    shutil.copy2(home / "moving.h5", out / "s.h5")


SCORE = ("--model", "model", "-o", "out/s.h5", "-S", "1", "--batch-size", BATCH)
SCENARIOS = [
    Scenario(
        "score", ("score", "images", *SCORE), _copy(), lambda out: h5(out / "s.h5"), kept=rows_of
    ),
    Scenario(
        "score, bringing up to date",
        ("score", "images", "--force", *SCORE),
        _copy("fewer.h5 s.h5"),
        lambda out: h5(out / "s.h5"),
        kept=rows_of,
    ),
    Scenario(
        "calibrate",
        ("calibrate", "s.h5", "--model", "model", "-o", "out/c.npz", "--force"),
        _copy("old.npz c.npz"),
        lambda out: calibration(out / "c.npz"),
    ),
    Scenario(
        "decide",
        ("decide", "out/s.h5", "--calibration", "c.npz", "--fpr", "0.1"),
        _copy("s.h5"),
        lambda out: h5(out / "s.h5"),
    ),
    Scenario(
        "report",
        ("report", "s.h5", "-o", "out/r.html", "--top", "3", "--force"),
        _copy("r.html"),
        lambda out: page(out / "r.html"),
    ),
    Scenario(
        "judge, as the workbench does",
        ("out/s.h5", "2", "6"),
        _copy("s.h5", "judged.json s.h5.judgements.json"),
        lambda out: judgements(out / "s.h5.judgements.json"),
        call="tests.hostile.work:judge_some",
        kept=judged,
        both=True,
    ),
    Scenario(
        "train",
        (
            *("train", "images", "--out", "out/m", "--preset", "compact-gray", "--image-size", "8"),
            *("--epochs", "1", "--batch-size", "25", "--checkpoint-every", "0"),
            *("--validation", "0", "--calibrate", "50", "--name", "m"),
        ),
        _copy(),
        lambda out: model(out / "m"),
        kept=whole_model,
        codes=(2, 3),  # 2: a folder that cannot be made is a wrong --out
        both=True,
    ),
    Scenario(
        "decide --move-to",
        ("decide", "out/s.h5", "--fpr", "0.02", "--move-to", "out/odd"),
        _to_move,
        images,
        kept=all_there,
        codes=(3, 4),
        both=True,
    ),
]
NAMES = [scenario.name for scenario in SCENARIOS]


@dataclass
class Bench:
    """One scenario, with what it begins from and what it makes undisturbed."""

    scenario: Scenario
    server: Server
    home: Path
    before: Any
    whole: Any
    calls: list[str]

    @classmethod
    def of(cls, scenario: Scenario, server: Server, home: Path) -> Bench:
        out = home / "out"
        _prepare(server, home)
        _fresh(scenario, home)
        before = scenario.state(out)
        end = scenario.run(server, home, fault=_fault(home, 0, 0))
        assert end.code == 0, end.err
        return cls(scenario, server, home, before, scenario.state(out), _log(home))

    def strike(self, at: int, what: int) -> str:
        """One fault; returns what is wrong afterwards, or nothing."""
        scenario, out = self.scenario, self.home / "out"
        _fresh(scenario, self.home)
        end = scenario.run(self.server, self.home, fault=_fault(self.home, at, what))
        log = _log(self.home)
        wrong = self._ended(end, what)
        state = scenario.state(out)
        if state not in (self.before, self.whole) and not scenario.both:
            wrong += ["neither what was there nor what is to be is whole"]
        if end.code == 0 and state != self.whole:
            wrong += ["it says that it is done, and is not"]
        wrong += [scenario.kept(out, log, end)]
        left = [path.name for path in out.rglob(".*.tmp")]
        if what > 0 and left:
            wrong += [f"it leaves {left[0]}"]
        again = scenario.run(self.server, self.home)
        if again.code != 0 or again.unexpected() or scenario.state(out) != self.whole:
            wrong += [f"run again, it ends with {again.code}: {again.err.strip()[-300:]}"]
        return ", ".join(filter(None, wrong))

    def _ended(self, end: End, what: int) -> list[str]:
        if what < 0:
            killed = end.code == -signal.SIGKILL
            return [] if killed else [f"exit code {end.code}: {end.err.strip()[-300:]}"]
        if end.code == 0:  # the call was not needed, or was tried again
            return []
        wrong = [end.unexpected()]
        if end.code not in self.scenario.codes:
            wrong += [f"exit code {end.code}"]
        if "out/" not in end.err:
            wrong += ["no file is named"]
        return [f"{one}: {end.err.strip()[-400:]}" for one in wrong if one]


def _prepare(server: Server, home: Path) -> None:
    """What some scenarios begin with."""
    if not (home / "r.html").exists():
        assert server("report", "s.h5", "-o", "r.html", "--top", "3", cwd=home).code == 0
        end = server.call("tests.hostile.work:judge_some", "s.h5", "0", "2", cwd=home)
        assert end.code == 0, end.err
        shutil.move(home / "s.h5.judgements.json", home / "judged.json")
    if not (home / "moving.h5").exists():
        shutil.rmtree(home / "out", ignore_errors=True)
        shutil.copytree(home / "images", home / "out" / "images")
        score = ("score", "out/images", "-o", "moving.h5", "--model", "model")
        more = ("-S", "1", "--batch-size", BATCH)
        assert server(*score, *more, cwd=home).code == 0
        Calibration.of(read_scores(home / "moving.h5")).save(home / "moving.npz")
        command = ("decide", "moving.h5", "--fpr", "0.02", "--calibration", "moving.npz")
        assert server(*command, cwd=home).code == 0


def _fresh(scenario: Scenario, home: Path) -> None:
    shutil.rmtree(home / "out", ignore_errors=True)
    (home / "out").mkdir()
    scenario.begin(home, home / "out")


def _fault(home: Path, at: int, what: int) -> dict[str, Any]:
    return {"under": str(home / "out"), "at": at, "what": what, "log": str(home / "log")}


def _log(home: Path) -> list[str]:
    """The calls that were counted: name and path, in order."""
    return [line.partition(" ")[2] for line in (home / "log").read_text().splitlines()]


def _chosen(calls: list[str], every: int) -> Iterator[int]:
    """Which calls to strike, from 1: of the many writes into an HDF5 file, one in five."""
    writes = 0
    for number, call in enumerate(calls, 1):
        writes += call.startswith("pwrite")
        if call.startswith("pwrite") and writes % 5 != 1:
            continue
        if every == 1 or (number * 7) % every == 0:
            yield number


def kills(bench: Bench, every: int = 1) -> tuple[int, list[str]]:
    n, wrong = 0, []
    for at in _chosen(bench.calls, every):
        call = bench.calls[at - 1]
        for what in (KILL, TEAR) if "write" in call else (KILL,):
            n += 1
            if found := bench.strike(at, what):
                wrong.append(f"{bench.scenario.name}, killed at {at}, {call}: {found}")
    return n, wrong


def failures(bench: Bench, every: int = 1) -> tuple[int, list[str]]:
    n, wrong = 0, []
    for at in _chosen(bench.calls, every):
        # A full disk and one of the others, in turn: what differs is how it is said.
        for code in (ERRORS[0], ERRORS[1 + at % 3]):
            n += 1
            if found := bench.strike(at, code):
                call = f"{bench.calls[at - 1]}, {errno.errorcode[code]}"
                wrong.append(f"{bench.scenario.name}, {at}: {call}: {found}")
    return n, wrong


def _report(title: str, n: int, wrong: list[str]) -> None:
    print(f"\n{title}: {n} faults, {len(wrong)} unexpected")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.hostile
@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_killed_at_every_call(server, home, scenario):
    bench = Bench.of(scenario, server, home)
    _report(f"kills: {scenario.name}, {len(bench.calls)} calls", *kills(bench))


@pytest.mark.hostile
@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_failing_at_every_call(server, home, scenario):
    bench = Bench.of(scenario, server, home)
    _report(f"errors: {scenario.name}, {len(bench.calls)} calls", *failures(bench))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_some_faults(server, home, scenario):
    bench = Bench.of(scenario, server, home)
    every = max(1, len(bench.calls) // 2)
    _report(f"kills: {scenario.name}", *kills(bench, every))
    _report(f"errors: {scenario.name}", *failures(bench, 2 * every))
