"""What hvaeood.toml may say: settings, and nothing that a stranger's folder should decide."""

from __future__ import annotations

import os
import shutil
from typing import get_type_hints

import h5py
import pytest
import typer

from hvaeood_cli.cli.app import app
from hvaeood_cli.cli.config import FILE, MAY_BE_SET, _options, load_defaults


@pytest.fixture
def toml(tmp_path, monkeypatch):
    """Writes hvaeood.toml into the current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda text: (tmp_path / FILE).write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("score", "output = 'victim'"),
        ("score", "o = 'victim'"),
        ("score", "force = true"),
        ("score", "sources = ['other']"),
        ("score", "download = true"),
        ("score", "data-root = '/'"),
        ("score", "calibration = 'theirs.npz'"),
        ("score", "json = true"),
        ("score", "quiet = true"),
        ("score", "label = 0"),
        ("score", "fail-on-flagged = false"),
        ("calibrate", "allow-training-images = true"),
        ("calibrate", "scores = 'victim'"),
        ("report", "format = 'csv'"),
        ("report", "labels = 'victim'"),
        ("tui", "files = ['victim']"),
        ("train", "out = 'victim'"),
        ("train", "name = 'fashionmnist'"),
        ("models", "name = 'other'"),
        ("reconstruct", "images = ['victim']"),
    ],
)
def test_what_no_file_may_set_is_refused_and_nothing_happens(
    run, folder, tmp_path, toml, command, line
):
    (tmp_path / "victim").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    toml(
        f"[models]\n\n[{command}]\n  {line}\n" if command != "models" else f"\n\n[models]\n{line}\n"
    )
    code, out, err = run("score", "images")
    key = line.partition(" ")[0]
    assert code == 2 and not out
    assert f"hvaeood.toml, line 4: [{command}] may not set '{key}'" in err and "hint: " in err
    assert (tmp_path / "victim").read_text() == "years of work"
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / FILE])


def test_no_setting_names_a_file_or_is_a_switch_that_could_do_harm():
    """Of every command's parameters; a new one is refused until it stands in MAY_BE_SET."""
    harmless_switches = {"by", "compile"}
    group = typer.main.get_command(app)
    settable = set()
    for registered in app.registered_commands:
        hints = get_type_hints(registered.callback)
        options = _options(group.commands[registered.callback.__name__])
        for name in (name for name, option in options.items() if option.may_be_set):
            settable.add(name)
            hint = hints[options[name].parameter]
            assert "Path" not in str(hint), name
            assert hint is not bool or name in harmless_switches
    assert settable == MAY_BE_SET


def test_settings_of_every_kind_reach_the_command(toml):
    toml(
        "[score]\nsamples = 3\nproposal = 'sample'\nby = true\nfdr = 0.05\n"
        "[train]\nset = ['ema=0.9', 'accumulate=2']\nlearning-rate = 1e-3\ncompile = false\n"
        "[tui]\nimages = 'none'\n[decide]\n[models]\n"
    )
    assert load_defaults(typer.main.get_command(app)) == {
        "score": {"samples": "3", "proposal": "sample", "by": "true", "fdr": "0.05"},
        "train": {
            "setting": ["ema=0.9", "accumulate=2"],
            "learning_rate": "0.001",
            "compile_": "false",
        },
        "tui": {"images": "none"},
        "decide": {},
        "models": {},
    }


def test_a_repeated_option_may_be_given_once(run, folder, toml):
    toml("[train]\nset = 'colour=1'\n")
    code, _, err = run("train", "images", "--out", "m")
    assert code == 2 and "--set colour=1: no such setting" in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "samples = 'many'",
            ["hvaeood.toml, line 3", "--samples"],
        ),
        ("samples = 3.7", ["hvaeood.toml, line 3", "--samples"]),
        ("samples = true", ["hvaeood.toml, line 3", "--samples"]),
        ("samples = 0", ["hvaeood.toml, line 3", "--samples"]),
        ("by = 3", ["hvaeood.toml, line 3", "--by"]),
        ("fpr = 2", ["hvaeood.toml, line 3", "--fpr 2 is not between 0 and 1"]),
        ("fpr = nan", ["hvaeood.toml, line 3", "--fpr nan is not between 0 and 1"]),
        ("by = true", ["hvaeood.toml, line 3", "--by goes with --fdr"]),
        ("proposal = 'median'", ["hvaeood.toml, line 3", "'mean' or 'sample', not 'median'"]),
        ("samples-k = 20000", ["hvaeood.toml, line 3", "less than or equal to 10000"]),
        ("precision = 'float16'", ["hvaeood.toml, line 3", "not 'float16'"]),
        ("device = 'cuda:99'", ["hvaeood.toml, line 3"]),
        ("device = 'nowhere'", ["hvaeood.toml, line 3", "no device is called 'nowhere'"]),
        ("fpr = 0.1\nfdr = 0.1", ["hvaeood.toml, line 3", "hvaeood.toml, line 4", "exclude"]),
        ('model = "a\\u0000b"', ["hvaeood.toml, line 3", "no option takes"]),
        ("samples = [1, 2]", ["hvaeood.toml, line 3", "no option takes"]),
        ("samples = { a = 1 }", ["hvaeood.toml, line 3", "no option takes"]),
        ("seed = 2024-01-01", ["hvaeood.toml, line 3", "no option takes"]),
        ("colour = 3", ["hvaeood.toml, line 3", "has no option 'colour'"]),
    ],
)
def test_values_are_checked_as_on_the_command_line(run, folder, toml, line, words):
    toml(f"# ours\n[score]\n{line}\n")
    code, out, err = run("score", "images")
    flat = " ".join(err.split())
    assert code == 2 and not out and "error: " in err
    assert all(word in flat for word in words), err


def test_a_model_that_there_is_not_is_found_in_the_file(run, folder, toml, monkeypatch):
    monkeypatch.delenv("HVAEOOD_MODEL")
    toml("[score]\nmodel = 'nope'\n")
    code, _, err = run("score", "images")
    assert code == 3 and "no model 'nope'" in err and "hvaeood.toml, line 2 sets model" in err


@pytest.mark.parametrize(
    "line",
    [
        "preset = 'x'",
        "image-size = 7",
        "channels = 2",
        "learning-rate = 100",
        "set = 'ema=2'",
        "set = ['colour=1']",
        "strategy = 'x'",
        "seed = 99999999999999999999",
        "validation = 100000",
    ],
)
def test_a_bad_value_of_a_training_is_found_in_the_file(run, folder, toml, line):
    toml(f"[train]\n\n{line}\n")
    code, _, err = run("train", "images", "--out", "m")
    assert code in (2, 3) and "hvaeood.toml, line 3 sets " in err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("score.fpr = 2\n", 1),
        ("\nscore = { top = 3, fpr = 2 }\n", 2),
        ('["score"]\n"fpr" = 2\n', 2),
        ("[train]\nepochs = 3\n[score]\ntop = 3\nfpr = 2", 5),
    ],
)
def test_a_value_is_found_however_it_is_written(run, folder, toml, text, line):
    toml(text)
    code, _, err = run("score", "images")
    assert code == 2 and f"hvaeood.toml, line {line} sets fpr" in err


def test_a_bad_value_of_the_command_line_is_not_laid_at_the_files_door(run, folder, toml):
    toml("[score]\nsamples = 3\nfdr = 0.5\n")
    for typed in (["-S", "many"], ["--fpr", "2"], ["--seed", "-1"]):
        code, _, err = run("score", "images", "-q", *typed)
        assert code == 2 and "hvaeood.toml" not in err


@pytest.mark.parametrize(
    "text",
    [
        b"[score",
        b"samples = 3\n",
        b"[colour]\n",
        b"score = 3\n",
        b"[[score]]\n",
        b"\xff\xfe",
        b"[score]\nseed = 1\nseed = 2\n",
        b"[score]\nx = " + b"[" * 100_000,
        b"#" * (2 << 20),
    ],
    ids=["cut", "no table", "unknown", "a value", "tables", "bytes", "twice", "deep", "huge"],
)
def test_a_broken_file_is_an_error_with_a_hint_but_keeps_no_help_away(run, folder, toml, text):
    toml(text)
    code, out, err = run("score", "images")
    assert code == 2 and not out and err.startswith("error: hvaeood.toml") and "hint: " in err
    code, out, _ = run("score", "--help")
    assert code == 0 and "--samples" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n[colour]\n", "line 2: no command is called 'colour'"),
        ("[[score]]\n", "line 1: score is no table"),
        ("[train]\n[score]\nseed = 1\nseed = 2\n", "at line 4"),
    ],
)
def test_what_breaks_a_file_is_found_in_it(run, folder, toml, text, words):
    toml(text)
    code, _, err = run("score", "images")
    assert code == 2 and words in err


def test_a_pipe_is_not_waited_for(run, folder, tmp_path):
    os.mkfifo(tmp_path / FILE)
    assert run("models")[0] == 0


def test_what_the_file_sets_is_said(run, folder, toml):
    toml("[score]\nsamples = 3\nseed = 5\ntop = 2\n[report]\ntop = 3\n")
    code, out, err = run("score", "images", "--seed", "6", "--jsonl")
    assert code == 0 and err.startswith("hvaeood.toml sets samples = 3, top = 2\n")
    assert "hvaeood.toml" not in out
    assert "hvaeood.toml" not in run("score", "images", "--seed", "6", "--quiet")[2]
    assert "hvaeood.toml" not in run("models")[2]


@pytest.mark.parametrize("model", ["theirs", "./theirs", "images/../theirs", "/theirs"])
def test_a_model_beside_the_images_is_not_taken(run, folder, toml, bundle, tmp_path, model):
    shutil.copytree(bundle.folder, tmp_path / "theirs")
    model = str(tmp_path / "theirs") if model == "/theirs" else model
    toml(f"[score]\nmodel = '{model}'\n")
    code, _, err = run("score", "images", "--model", "fashionmnist")
    assert code == 2 and "hvaeood.toml, line 2: [score] model may be a name" in err
    assert f"--model {model}" in " ".join(err.split())


def test_a_model_of_ones_own_may_be_named(run, folder, toml, bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("HVAEOOD_MODEL")
    for place in ("own-models", "."):
        shutil.copytree(bundle.folder, tmp_path / place / "mine")
    toml("[score]\nmodel = 'mine'\n")
    code, out, err = run("score", "images")
    assert code == 0 and "model small" in out and "hvaeood.toml sets model = mine" in err
    with h5py.File("images.scores.h5") as file:
        assert file.attrs["model_path"] == str(tmp_path / "own-models" / "mine")
