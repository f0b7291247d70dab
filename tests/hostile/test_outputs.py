"""Every field of a file hostile, in every form in which it comes out again."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pytest
from markdown_it import MarkdownIt

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.judgements import judge
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.writer import write_decision
from hvaeood_cli.text import defuse
from tests.hostile.forked import ROOT
from tests.score_files import make_scores
from tests.test_report import Tags

HOSTILE = [
    "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "\x9b31mred \x90q\x9c",
    "\u202egnp.exe\u2066 \u2067x\u2069",
    "a\nb\r\nc\x0bd\x0ce\u2028f\u2029g\x85h",
    '=HYPERLINK("http://canary.invalid")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\uff1d1+1",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\" onmouseover=alert(1) x='",
    "</style></title><svg/onload=alert(1)>",
    "| a | b |\n|---|---|",
    "`` ` ``` `code` **bold** [x](javascript:alert(1)) ![x](http://canary.invalid)",
    "# title\n\n---\n> quote\n1. one",
    "{{ 7*7 }}{% raw %}${x}%s%n",
    "[red]rich[/red] [link=http://canary.invalid]x[/link]",
    "\\u0000 \\x1b &lt; &amp;",
    "'; rm -rf ~ #",
]
N = len(HOSTILE)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")


@pytest.fixture
def hostile(run, tmp_path) -> Path:
    """A score file under a hostile name, whose every text is hostile, decided and judged."""
    same = {"preprocessing": HOSTILE[13], "precision": HOSTILE[11]}
    held_out = make_scores(tmp_path / "held-out.h5", 200, seed=1, **same)
    calibration = Calibration.of(held_out, {"model_name": HOSTILE[10], "made_by": HOSTILE[0]})
    calibration.save(tmp_path / "c.npz")
    path = tmp_path / "=s \x1b[31m\u202e|<b>`.h5"
    names = [f"{text}.png".encode() for text in HOSTILE]
    scores = make_scores(
        path,
        N,
        seed=4,
        shift=15.0,
        names=names,
        bad=tuple(range(0, N, 2)),
        model_name=HOSTILE[10],
        model_path=HOSTILE[0],
        tool_version=HOSTILE[14][:100],
        torch_version=HOSTILE[2],
        device=HOSTILE[3],
        **same,
    )
    write_decision(scores, decide(calibration, scores, Rule("fpr", 0.1)))
    with h5py.File(path, "r+") as file:
        del file["images/error"]
        texts = np.array([text.encode() for text in HOSTILE], object)
        file.create_dataset("images/error", data=texts, dtype=h5py.string_dtype("utf-8"))
    scores = read_scores(path)
    for row, text in enumerate(HOSTILE):
        judge(scores, row, "ood" if row % 3 else "", text)
    return path


def is_harmless(text: str) -> bool:
    """Whether a text can neither steer a terminal nor turn its direction."""
    return not [
        c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]


def check_tags(text: str) -> Tags:
    found = Tags(text)
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object", "base", "form"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, attributes)
    assert "canary" not in "".join(str(a) for _, a in found.tags)
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("decide", "--calibration", "c.npz", "--top", "50", "--fpr", "0.1"),
        ("report", "-o", "r.html", "--calibration", "c.npz"),
        ("report", "--format", "md"),
        ("tui",),
    ],
)
def test_nothing_steers_the_terminal(run, hostile, command):
    code, out, err = run(command[0], hostile, *command[1:])
    assert code == (2 if command[0] == "tui" else 0), err
    assert is_harmless(out) and is_harmless(err)
    assert command[0] == "tui" or out or err


def test_a_models_texts_do_not_either(run, hostile, bundle, tmp_path):
    shutil.copytree(bundle.folder, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"name": HOSTILE[0]}))
    training = {"command": HOSTILE, "finished": HOSTILE[2], "device": HOSTILE[1]}
    (tmp_path / "m/training.json").write_text(json.dumps(training))
    shutil.copy("c.npz", "m/calibration.npz")
    code, out, err = run("models", "m")
    assert code == 0 and is_harmless(out + err) and "\\x1b]0;title" in out
    code, out, err = run("models", "m", "--json")
    assert code == 0 and json.loads(out)["training"]["command"] == HOSTILE and out.isascii()


def test_json_keeps_every_text_and_is_plain(run, hostile):
    for command in (
        ("decide", hostile, "--json", "--calibration", "c.npz"),
        ("report", hostile, "--format", "json"),
    ):
        code, out, _ = run(*command)
        assert code == 0 and out.isascii() and is_harmless(out)
        found = json.loads(out)
        images = found.get("images") or found["files"][0]["images"]
        assert [image["path"] for image in images] == [f"{text}.png" for text in HOSTILE]
        bad = [image for image in images if image["status"] != "scored"]
        assert [image["error"] for image in bad] == HOSTILE[::2]
    assert [image["note"] for image in images] == HOSTILE
    code, out, _ = run("decide", hostile, "--jsonl", "--calibration", "c.npz")
    lines = out.splitlines()
    assert len(lines) == N and all(json.loads(line)["path"] for line in lines) and out.isascii()


def test_a_spreadsheet_finds_no_formula(run, hostile):
    for command in (
        ("decide", hostile, "--csv", "--calibration", "c.npz"),
        ("report", hostile, "--format", "csv"),
    ):
        code, out, _ = run(*command)
        rows = list(csv.reader(io.StringIO(out, newline="")))
        assert code == 0 and len(rows) == N + 1 and len({len(row) for row in rows}) == 1
        for cell in (cell for row in rows for cell in row):
            is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", cell)
            assert is_number or not cell.startswith(FORMULA), cell
        place = rows[0].index("path")
        assert [row[place] for row in rows[1:]] == [defuse(f"{text}.png") for text in HOSTILE]


def test_markdown_is_text(run, hostile):
    code, out, _ = run("report", hostile, "--format", "md", "--top", "50")
    assert code == 0
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    found = check_tags(parser.render(out))
    names = {tag for tag, _ in found.tags}
    assert not names & {"img", "a", "svg", "style", "b", "blockquote", "ol"}
    assert sum(tag == "h1" for tag, _ in found.tags) == 1
    for text in HOSTILE[10:13]:
        assert text.split("\n")[0].replace("'", "'") in found.text.replace("&quot;", '"')
    tables = [line.replace("\\|", "") for line in out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {4, 6}


def test_a_page_is_text(run, hostile, tmp_path):
    code, _, err = run("report", hostile, "-o", "r.html", "--calibration", "c.npz", "--top", "50")
    assert code == 0, err
    text = (tmp_path / "r.html").read_text()
    found = check_tags(text)
    assert is_harmless(text)
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for shown in ("<script>alert(1)</script>", "{{ 7*7 }}{% raw %}", "\\u202egnp.exe"):
        assert shown in found.text


def test_data_on_a_terminal_is_escaped(hostile, tmp_path):
    """CSV keeps its bytes in a pipe; a terminal is not steered by them."""
    ours, theirs = pty.openpty()
    command = ("decide", str(hostile), "--csv", "--calibration", "c.npz")
    process = subprocess.Popen(
        [sys.executable, "-m", "hvaeood_cli", *command],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    data = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        data += part
    os.close(ours)
    assert process.wait() == 0
    text = data.decode()
    assert "\\x1b]0;title" in text and is_harmless(text.replace("\r\n", "\n"))
