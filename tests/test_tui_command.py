"""`hvaeood tui`: what it says before the app starts, and one run in a real terminal."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.cli import console
from hvaeood_cli.cli import tui as command
from hvaeood_cli.cli.app import main
from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.looks.look import Look
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.judgements import judgements_path, read_judgements
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.writer import write_decision
from hvaeood_cli.tui import threshold as thresholds
from hvaeood_cli.tui.app import Opened
from hvaeood_cli.tui.picker import Picker
from tests.tui_app import calibration, mixed, press, scores, settle, text_of

__all__ = ["calibration", "mixed", "scores"]  # fixtures


@pytest.fixture
def run(scores, tmp_path, monkeypatch, capfdbinary):
    """Run `hvaeood tui` where there is no terminal: (exit code, standard error)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hvaeood", "tui", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        console.out.cache_clear()
        console.err.cache_clear()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfdbinary.readouterr()
        assert out == b""
        return int(caught.value.code or 0), err.decode()

    return call


def test_without_a_terminal_it_names_what_works_there(run):
    for arguments in ([], ["mixed.h5"]):  # the only score file of the folder
        code, err = run(*arguments)
        assert code == 2 and "needs a terminal" in err
        assert "hvaeood report mixed.h5" in err and "--json" in err


def test_which_file(run, tmp_path):
    shutil.copy("mixed.h5", "other.h5")
    code, err = run()
    assert code == 2 and "2 score files here: mixed.h5, other.h5" in err
    code, err = run("a.h5", "b.h5", "c.h5")
    assert code == 2 and "two can be compared" in err
    for name in ("mixed.h5", "other.h5"):
        Path(name).unlink()
    code, err = run()
    assert code == 2 and "hvaeood score FOLDER makes one" in err


@pytest.fixture
def folder(scores, calibration):
    """Score files to choose from: one is decided, one is text, one is of a newer program."""
    write_decision(scores, decide(calibration, scores, Rule("fpr", 0.01)))
    shutil.copy("mixed.h5", "b.h5")
    Path("text [red].h5").write_text("hello")
    shutil.copy("mixed.h5", "newer.h5")
    with h5py.File("newer.h5", "r+") as file:
        file.attrs["format_version"] = 3
    with h5py.File("b.h5", "r+") as file:
        del file["decision"]
    return sorted(Path().glob("*.h5"))


def pick(picker: Picker, *keys: str, size: tuple[int, int] = (80, 24)) -> tuple[Path | None, str]:
    """What a picker returns, and what stood on its screen before it did."""
    seen = []

    async def steps() -> None:
        async with picker.run_test(size=size) as pilot:
            await settle(pilot)
            await press(pilot, *keys[:-1])
            seen.append(text_of(picker))
            await press(pilot, keys[-1])

    asyncio.run(steps())
    return picker.return_value, seen[0]


@pytest.mark.parametrize("size", [(80, 24), (140, 45), (30, 8)])
def test_one_of_several_files_is_chosen(folder, size):
    chosen, text = pick(Picker(folder), "down", "enter", size=size)
    assert chosen == Path("mixed.h5")
    if size[0] >= 80:
        assert "4 score files here" in text and "fashionmnist" in text
        assert "undecided" in text and " 23 " in text and " 201 " in text and "202" in text
    assert pick(Picker(folder), "j", "k", "enter")[0] == Path("b.h5")
    assert pick(Picker(folder), "down", "q")[0] is None


def test_what_cannot_be_opened_is_not_chosen(folder):
    chosen, text = pick(Picker(folder), "down", "down", "enter", "q")
    assert chosen is None
    assert "version 3" in text and "upgrade" in text and "text [red].h5" in text
    chosen, text = pick(Picker(folder), "end", "enter", "down", "q")
    assert chosen is None and "is not a whole score file" in text


def test_a_file_that_turns_out_to_be_broken_is_said_and_another_chosen(folder, monkeypatch):
    judgements_path(Path("b.h5")).write_text("[")  # which nothing but opening shows
    keys = iter([("enter",), ("down", "enter")])
    monkeypatch.setattr(Picker, "run", lambda self: pick(self, *next(keys), size=(120, 36))[0])

    def open_all(paths: list[Path]) -> list[Opened]:
        return [command._open(path, [], None, None, "cpu") for path in paths]

    (opened,) = command._opened_by_choice(folder, open_all)
    assert opened.run.scores.path == Path("mixed.h5")
    monkeypatch.setattr(Picker, "run", lambda self: None)
    assert command._opened_by_choice(folder, open_all) == []


def test_models_for_two_files(run, scores, bundle):
    shutil.copy("mixed.h5", "other.h5")
    with h5py.File("other.h5", "r+") as file:
        file.attrs["model_sha256"] = bundle.sha256
    first, second = ["--model", "fashionmnist"], ["--model", bundle.folder]
    for order in ([*first, *second], [*second, *first]):
        code, err = run("mixed.h5", "other.h5", *order)
        assert code == 2 and "needs a terminal" in err, "it came as far as that"
    opened = [
        command._open(Path(name), ["fashionmnist", str(bundle.folder)], None, None, "cpu")
        for name in ("mixed.h5", "other.h5")
    ]
    assert not any(one.no_model for one in opened)
    code, err = run("mixed.h5", "other.h5", *second, *second)
    assert code == 3 and "mixed.h5 was scored with fashionmnist" in err
    code, err = run("mixed.h5", "other.h5", *first, "--model", "nowhere")
    assert code == 3 and "no model 'nowhere'" in err
    code, err = run("mixed.h5", *first, *second)
    assert code == 2 and "2 models for 1 score file" in err


def test_bad_files_are_said_with_what_mends_them(run):
    code, err = run("missing.h5")
    assert code == 3 and "no such score file" in err and "hvaeood score" in err
    Path("text.h5").write_text("hello")
    whole = Path("mixed.h5").read_bytes()
    Path("cut.h5").write_bytes(whole[: len(whole) // 2])
    for name in ("text.h5", "cut.h5"):
        code, err = run(name)
        assert code == 3 and "is not a whole score file" in err and "hint:" in err
    shutil.copy("mixed.h5", "newer.h5")
    with h5py.File("newer.h5", "r+") as file:
        file.attrs["format_version"] = 3
    code, err = run("newer.h5")
    assert code == 3 and "version 3" in err and "upgrade" in err
    judgements_path(Path("mixed.h5")).write_text("[")
    code, err = run("mixed.h5")
    assert code == 3 and "move it away" in err and "Traceback" not in err


def test_models_and_calibrations_that_do_not_fit(run, scores):
    code, err = run("mixed.h5", "--model", "nowhere")
    assert code == 3 and "hint:" in err
    code, err = run("mixed.h5", "--calibration", "nowhere.npz")
    assert code == 3 and "hvaeood calibrate" in err
    code, err = run("mixed.h5", "--images", "film")
    assert code == 2
    with h5py.File("mixed.h5", "r+") as file:
        file.attrs["model_sha256"] = "b" * 64
    code, err = run("mixed.h5", "--model", "fashionmnist")
    assert code == 3 and "was scored with" in err and "name the model that made" in err
    code, err = run("mixed.h5", "--fpr", "0.05")
    assert code == 3 and "not calibrated" in err


def test_a_level_that_the_calibration_cannot_support_is_refused(run, scores):
    for rule in (["--fpr", "1e-6"], ["--fdr", "1e-6", "--by"]):
        code, err = run("mixed.h5", *rule)
        assert code == 3 and "the least that this calibration's" in err
    code, err = run("mixed.h5", "--fpr", "0.01")
    assert code == 2 and "needs a terminal" in err, "it came as far as that"


def test_what_is_named_must_fit_both_files(run, scores):
    """Else the second one is shown by another model or calibration than was named."""
    shutil.copy("mixed.h5", "other.h5")
    calibration = Detector().bundle.calibrations[0]
    named = ["--calibration", calibration, "--model", "fashionmnist"]
    code, err = run("mixed.h5", "other.h5", *named)
    assert code == 2 and "needs a terminal" in err, "it came as far as that"
    with h5py.File("other.h5", "r+") as file:
        file.attrs["n_importance_samples"] = 4
    code, err = run("mixed.h5", "other.h5", "--calibration", calibration)
    assert code == 3 and "other.h5" in err and "16 calibrated, 4 here" in err
    with h5py.File("other.h5", "r+") as file:
        file.attrs["model_sha256"] = "b" * 64
    code, err = run("mixed.h5", "other.h5", "--model", "fashionmnist")
    assert code == 3 and "other.h5 was scored with" in err


def test_what_is_opened_for_scores_of_an_unknown_model(scores):
    with h5py.File("mixed.h5", "r+") as file:
        file.attrs["model_sha256"] = "b" * 64
    opened = command._open(Path("mixed.h5"), [], None, None, "cpu")
    assert opened.run.calibration is None and "hvaeood calibrate" in opened.run.why_not
    assert "--model FOLDER" in opened.no_model
    look = opened.look(0)
    assert isinstance(look, Look) and look.image.shape == (28, 28) and len(look.from_k) == 0


def test_what_is_opened_shows_images_by_the_model_that_scored_them(scores):
    opened = command._open(Path("mixed.h5"), [], None, None, "cpu")
    look = opened.look(0)
    assert isinstance(look, Look) and look.from_k.shape == (3, 1, 28, 28) and not look.changed
    assert np.array_equal(opened.glance(0), look.image)
    Path("examples").unlink()
    for found in (opened.look(0), opened.glance(0)):
        assert isinstance(found, HvaeoodError) and "no such file" in found.message


def test_the_hint_comes_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert [command._first_time() for _ in range(2)] == [True, False]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not command._first_time()


def test_the_workbench_imports_no_torch():
    code = (
        "import sys; import hvaeood_cli.tui.app, hvaeood_cli.cli.tui as c;"
        "from pathlib import Path; assert 'torch' not in sys.modules;"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_opening_imports_no_torch(scores):
    code = (
        "import sys; from pathlib import Path; from hvaeood_cli.cli.tui import _open;"
        "_open(Path('mixed.h5'), [], None, None, 'cpu'); assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


# -- a real terminal ------------------------------------------------------------------------------


class Terminal:
    """A tmux session of its own server."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._tmux = ["tmux", "-L", f"hvaeood-{os.getpid()}", "-f", "/dev/null"]
        environment = f"PYTHONPATH={shlex.quote(str(Path(__file__).parent.parent))}"
        line = f"{environment} {shlex.join(arguments)}; echo exit $?; sleep 60"
        self._run("new-session", "-d", "-x", "120", "-y", "36", "-c", str(folder), line)

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def wait_for(self, *texts: str, seconds: float = 60) -> str:
        """The screen, once all texts stand on it."""
        until = time.monotonic() + seconds
        screen = ""
        while time.monotonic() < until:
            screen = self._run("capture-pane", "-p")
            if all(text in screen for text in texts):
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{texts} did not appear:\n{screen}")

    def close(self) -> None:
        self._run("kill-server")

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], check=True, capture_output=True, timeout=30
        )
        return done.stdout.decode()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_in_a_terminal_from_opening_to_quitting(scores, tmp_path):
    folder = tmp_path
    (folder / "state").mkdir()
    terminal = Terminal(
        folder, "env", "-u", "COLUMNS", "-u", "LINES", f"XDG_STATE_HOME={folder / 'state'}",
        sys.executable, "-m", "hvaeood_cli", "tui", "mixed.h5", "--images", "halfcell",
        "--device", "cpu",
    )  # fmt: skip
    try:
        terminal.wait_for("flagged of 200", "FPR 1 %", "bits/dim", "looks at an image")
        terminal.press("S-Left", "S-Left")
        terminal.wait_for("FPR 3.2 %")
        terminal.press("Enter")
        terminal.wait_for("1 of 201", "k = 2", "log p(x|z)", "▀")
        terminal.press("1")
        terminal.wait_for("OOD")
        terminal.press("Escape")
        terminal.wait_for("judged 1")
        terminal.press("e")
        terminal.wait_for("Write a list")
        terminal.press("Enter")
        terminal.wait_for("images: mixed.flagged.csv")
        terminal.press("q")
        terminal.wait_for("Keep the threshold?")
        terminal.press("n")
        terminal.wait_for("exit 0")
    finally:
        terminal.close()
    assert len(read_judgements(scores.path)) == 1
    n = len((folder / "mixed.flagged.csv").read_text().splitlines()) - 1
    assert n > 10 and read_scores(replace(scores).path).decision is None


@pytest.mark.parametrize("harm", ["lost", "broken"])
def test_a_decision_whose_calibration_is_gone_is_shown_as_it_stands(scores, tmp_path, harm):
    """The model's own calibration is another one: it must not decide in its place."""
    own = Detector().bundle.calibrations[0]
    other = Calibration.load(own)
    other = replace(other, about=other.about | {"within": True})  # of another id
    mixed = read_scores(Path("mixed.h5"))
    write_decision(mixed, decide(other, mixed, Rule("fpr", 0.05)))
    with h5py.File("mixed.h5", "r+") as file:
        if harm == "broken":
            file["decision/calibration"][100:] = 0
        else:
            del file["decision/calibration"]
    run = command._open(Path("mixed.h5"), [], None, None, "cpu").run
    assert run.calibration is None and "as it stands in the file" in run.why_not
    assert thresholds.first_threshold(run) == Rule("fpr", 0.05)
    named = command._open(Path("mixed.h5"), [], own, None, "cpu").run
    assert named.calibration is not None, "where one is named, it counts"
