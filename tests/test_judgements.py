"""Judgements beside a score file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from hvaeood_cli import files
from hvaeood_cli.errors import StoreError
from hvaeood_cli.store import judgements as module
from hvaeood_cli.store.judgements import (
    MAX_NOTE,
    Judgement,
    Judgements,
    judge,
    judgements_path,
    key_of,
    read_judgements,
)
from tests.tui_files import make_scores


@pytest.fixture
def scores(tmp_path):
    made = make_scores(20, path=tmp_path / "s.h5", bad=(3, 4))
    made.sha256[4] = 0  # a file that was not there
    return made


def test_what_is_judged_is_read_again(scores):
    assert len(read_judgements(scores.path)) == 0
    judge(scores, 0, "ood", "a shoe")
    judge(scores, 3, "unsure", "")
    judge(scores, 4, "", "where is it?")
    found = read_judgements(scores.path)
    assert found.of(scores, 0) == Judgement("ood", "a shoe", "photos/00000.png")
    assert found.marks(scores).tolist() == [1, 0, 0, 3, 4] + [0] * 15
    assert [row for row, _ in found.rows(scores)] == [0, 3, 4]
    kinds = [key_of(scores, row).partition(":")[0] for row in (0, 3, 4)]
    assert kinds == ["content", "sha256", "name"]
    judge(scores, 0, "", "")
    assert not read_judgements(scores.path).of(scores, 0)


def test_a_judgement_follows_the_image_to_other_scores(scores):
    judge(scores, 5, "fine", "")
    columns = scores.columns | {"content": scores.content[::-1]}
    again = replace(scores, names=scores.names[::-1], columns=columns)
    found = read_judgements(scores.path)
    assert found.of(again, 14).mark == "fine" and not found.of(again, 5)


def test_judgements_of_another_process_are_kept(scores):
    judge(scores, 0, "ood", "")
    other = replace(scores)
    judge(other, 1, "fine", "")
    assert len(judge(scores, 2, "ood", "")) == 3


def test_names_that_are_no_utf8_and_long_notes(scores):
    names = scores.names.astype("S40")
    names[0] = b"\xff\n\x1b[2J.png"
    odd = replace(scores, names=names)
    judge(odd, 0, "ood", "x" * 9999 + "\ud800")
    found = read_judgements(scores.path).of(odd, 0)
    assert len(found.note) == MAX_NOTE
    assert found.path.encode("utf-8", "surrogateescape") == names[0]


def test_a_million_rows_are_looked_up_at_once():
    n = 1_000_000
    scores = make_scores(10)
    content = np.arange(1, n + 1, dtype=np.uint64)
    columns = {"content": content, "status": np.zeros(n, np.int8)}
    columns["sha256"] = np.zeros((n, 32), np.uint8)
    many = replace(scores, columns=columns, names=np.zeros(n, "S1"))
    judged = Judgements({f"content:{i:016x}": Judgement("ood") for i in (1, 77, n)})
    assert np.flatnonzero(judged.marks(many)).tolist() == [0, 76, n - 1]


KEY = "content:00000000000000aa"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"format": "something else"}).encode(),
        json.dumps({"format": "hvaeood-judgements", "format_version": 2}).encode(),
        json.dumps({"format": "hvaeood-judgements", "format_version": 1}).encode(),
        *(
            json.dumps(
                {"format": "hvaeood-judgements", "format_version": 1, "judgements": entries}
            ).encode()
            for entries in (
                {"x": {}},
                {"content:zz": {}},
                {"content:" + "g" * 16: {}},
                {KEY: []},
                {KEY: {"mark": "evil"}},
                {KEY: {"mark": "ood", "note": 3}},
                {KEY: {"mark": ["ood"]}},
            )
        ),
    ],
)
def test_what_is_no_file_of_judgements_is_refused_and_left_alone(scores, damage):
    path = judgements_path(scores.path)
    path.write_bytes(damage)
    with pytest.raises(StoreError) as caught:
        read_judgements(scores.path)
    assert caught.value.hint and str(path) in caught.value.message
    with pytest.raises(StoreError):
        judge(scores, 0, "ood", "")
    assert path.read_bytes() == damage


def test_a_folder_that_is_gone(scores):
    lost = replace(scores, path=scores.path.parent / "gone" / "s.h5")
    with pytest.raises(StoreError, match="cannot write"):
        judge(lost, 0, "ood", "")


def test_two_threads_that_judge_at_once_lose_nothing(scores, monkeypatch):
    """One has read the file and not yet written it when the other comes."""
    read = module.read_judgements
    other = Thread(target=judge, args=(scores, 1, "fine", ""))

    def interrupted(path: Path) -> Judgements:
        found = read(path)
        monkeypatch.setattr(module, "read_judgements", read)
        other.start()
        other.join(0.5)  # it either gets through, which must do no harm, or waits for its turn
        return found

    monkeypatch.setattr(module, "read_judgements", interrupted)
    judge(scores, 0, "ood", "")
    other.join()
    assert read(scores.path).marks(scores).tolist()[:2] == [1, 2]


def test_nobody_judges_out_of_turn(scores, monkeypatch):
    judge(scores, 0, "ood", "")
    monkeypatch.setattr(files, "LOCK_SECONDS", 0)
    refused = pytest.raises(StoreError, match="another process is writing")
    with files.locked(scores.path), refused:
        judge(scores, 1, "fine", "")
    assert len(read_judgements(scores.path)) == 1


def test_processes_that_judge_at_once_lose_nothing(scores):
    code = (
        "import sys; from pathlib import Path; from tests.tui_files import make_scores\n"
        "from hvaeood_cli.store.judgements import judge\n"
        "scores = make_scores(20, path=Path(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for row in sys.argv[2].split(): judge(scores, int(row), 'ood', 'x' * 500)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, scores.path, " ".join(map(str, range(first, 20, 3)))],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for first in range(3)
    ]  # fmt: skip
    assert [one.stdout.readline() for one in started] == ["ready\n"] * 3
    for one in started:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in started:
        one.communicate()
        assert one.returncode == 0
    assert len(read_judgements(scores.path)) == 20


def test_a_mark_that_could_not_be_read_again_is_not_written(scores):
    with pytest.raises(ValueError, match="evil"):
        judge(scores, 0, "evil", "")
    assert not judgements_path(scores.path).exists()


def test_a_pipe_is_not_waited_for(scores):
    os.mkfifo(judgements_path(scores.path))
    with pytest.raises(StoreError, match="not a regular file"):
        read_judgements(scores.path)
