"""Records of moves, checkpoints, lists on standard input and hvaeood.toml, damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from hvaeood_cli.taking.record import NAME, Move
from tests.conftest import make_images
from tests.hostile.forked import (
    ODD_JSON,
    Server,
    Tally,
    byte_damages,
    json_damages,
    listing,
    needs_linux,
    places,
)
from tests.hostile.test_bundles import weights_damages

pytestmark = needs_linux


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(bundle.folder, folder / "model")
    (folder / "images").mkdir()
    for i, image in enumerate(make_images(12)):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:02d}.png")
    server.env["HVAEOOD_MODELS"] = str(folder / "own")
    (folder / "out").mkdir()
    return folder


def one_in(every: int, found: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    return (one for number, one in enumerate(found) if number % every == 0)


def clear(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


# -- records of moves -----------------------------------------------------------------------------


_BACK = re.compile("put back ([0-9]+)|([0-9]+) back already")


def lines(home: Path) -> bytes:
    """The record of three images that were moved into `odd`."""
    moves = []
    for i in range(3):
        data = (home / "images" / f"{i:02d}.png").read_bytes()
        (home / "odd" / f"{i:02d}.png").write_bytes(data)
        moves.append(
            Move(
                str(home / "back" / f"{i:02d}.png"),
                f"{i:02d}.png",
                hashlib.sha256(data).hexdigest(),
            )
        )
    return b"".join(move.line() for move in moves)


def records(whole: bytes, n_random: int) -> Iterator[tuple[str, bytes]]:
    first, *rest = whole.splitlines(keepends=True)
    for what, changed in json_damages(json.loads(first)):
        yield what, json.dumps(changed).encode() + b"\n" + b"".join(rest)
    for what, text in ODD_JSON.items():
        yield what, text + b"\n" + whole
        yield f"{what}, no end", whole + text
    facts = json.loads(first)
    for what, changes in {
        "out of the folder": {"to": "../images/05.png"},
        "a whole path": {"to": "/etc/passwd"},
        "back to a device": {"from": "/dev/full"},
        "back into proc": {"from": "/proc/self/mem"},
        "another version": {"version": 2},
    }.items():
        yield what, json.dumps(facts | changes).encode() + b"\n" + b"".join(rest)
    yield from byte_damages(whole, n_random)


def sweep_records(server: Server, home: Path, n_random: int, every: int) -> Tally:
    tally = Tally()
    clear(home / "odd")
    whole = lines(home)
    for what, data in one_in(every, records(whole, n_random)):
        clear(home / "back"), clear(home / "odd")
        lines(home)
        (home / "odd" / NAME).write_bytes(data)
        before = {k: v for k, v in listing(home).items() if k.split("/")[0] != "odd"}
        end = server("decide", "--undo-move", "odd", cwd=home)
        wrong = "" if before.items() <= listing(home).items() else "it changes what was there"
        n_left = len(list((home / "odd").glob("*.png")))
        # A line may say another place, and there they are then; or were, since an earlier sweep.
        n_back = sum(int(n) for pair in _BACK.findall(end.err) for n in pair if n)
        if n_left + n_back < 3:
            wrong = wrong or f"{3 - n_left - n_back} images are lost"
        if n_left and end.code == 0 and not whole.startswith(data):  # an end that is torn
            wrong = wrong or f"{n_left} are left without a word"
        tally.files += 1
        tally.add(what, "undo", end, wrong)
    return tally


def test_some_records(server, home):
    sweep_records(server, home, 20, 9).check("records of moves")


@pytest.mark.hostile
def test_all_records(server, home):
    sweep_records(server, home, 200, 1).check("records of moves")


def test_what_stands_in_a_records_place(server, home):
    tally = Tally()
    clear(home / "odd")
    for what, put in places(home / "odd" / NAME):
        put()
        tally.files += 1
        tally.add(what, "undo", server("decide", "--undo-move", "odd", cwd=home))
    tally.check("places of a record")


# -- checkpoints ----------------------------------------------------------------------------------

TRAIN = (
    *("train", "images", "--out", "out/m", "--preset", "compact-gray", "--image-size", "8"),
    *("--epochs", "1", "--batch-size", "6", "--validation", "0", "--calibrate", "0", "--name", "m"),
    *("--checkpoint-every", "0"),
)


@pytest.fixture(scope="module")
def stopped(server, home) -> Path:
    """A checkpoint of a run that a kill has ended before its bundle."""
    clear(home / "out")
    patch = {"hvaeood_cli.training.run.write_bundle": None}  # which it cannot call
    assert server(*TRAIN, cwd=home, patch=patch).code == 70
    newest = max((home / "out/m/checkpoints").glob("step-*.safetensors"))
    shutil.copy(newest, home / newest.name)
    return home / newest.name


def checkpoints(path: Path, n_random: int) -> Iterator[tuple[str, bytes]]:
    from safetensors import safe_open

    data = path.read_bytes()
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    tensors = load_file(path)

    def with_metadata(changed: dict[str, str]) -> bytes:
        save_file(tensors, path.with_name("x.safetensors"), metadata=changed)
        return path.with_name("x.safetensors").read_bytes()

    for part in ("state", "fingerprint"):
        value = json.loads(metadata[part])
        value = (
            {**value, "curve": value["curve"][-1:]}
            if part == "state"
            else dict(list(value.items())[-2:])
        )
        for what, changed in json_damages(value):
            yield f"{part}: {what}", with_metadata(metadata | {part: json.dumps(changed)})
        for what, text in ODD_JSON.items():
            odd = text.decode("utf-8", "replace")
            yield f"{part}: {what}", with_metadata(metadata | {part: odd})
    yield "no metadata", with_metadata({})
    moments = [name for name in tensors if name.startswith("optimizer.")]
    for name in (moments[0], moments[1], min(tensors.keys() - set(moments))):
        for what, value in {
            "of another shape": np.zeros((2, 3), "f4"),
            "of another type": tensors[name].astype("f8"),
            "NaN": np.full_like(tensors[name], np.nan),
        }.items():
            save_file(tensors | {name: value}, path.with_name("x.safetensors"), metadata=metadata)
            yield f"{name} {what}", path.with_name("x.safetensors").read_bytes()
    for name in ("optimizer.999.exp_avg", "optimizer.x.step", "optimizer.", "model.", "another"):
        more = tensors | {name: np.zeros(3, "f4")}
        save_file(more, path.with_name("x.safetensors"), metadata=metadata)
        yield f"with {name}", path.with_name("x.safetensors").read_bytes()
    yield from weights_damages(data, n_random)


def sweep_checkpoints(
    server: Server, home: Path, stopped: Path, n_random: int, every: int
) -> Tally:
    tally = Tally()
    for what, data in one_in(every, checkpoints(stopped, n_random)):
        clear(home / "out")
        (home / "out/m/checkpoints").mkdir(parents=True)
        (home / "out/m/checkpoints" / stopped.name).write_bytes(data)
        tally.files += 1
        tally.add(what, "train", server(*TRAIN, cwd=home))
    return tally


def test_some_checkpoints(server, home, stopped):
    sweep_checkpoints(server, home, stopped, 10, 60).check("checkpoints")


@pytest.mark.hostile
def test_all_checkpoints(server, home, stopped):
    sweep_checkpoints(server, home, stopped, 60, 1).check("checkpoints")


def test_what_stands_in_a_checkpoints_place(server, home, stopped):
    tally = Tally()
    for what, put in places(home / "out" / "m" / "checkpoints" / stopped.name):
        clear(home / "out")
        (home / "out/m/checkpoints").mkdir(parents=True)
        put()
        tally.files += 1
        tally.add(what, "train", server(*TRAIN, cwd=home))
    tally.check("places of a checkpoint")


# -- lists on standard input ----------------------------------------------------------------------


def lists(home: Path, n_random: int) -> Iterator[tuple[str, bytes]]:
    whole = b"\n".join(sorted(os.fsencode(path) for path in (home / "images").iterdir())) + b"\n"
    yield "empty", b""
    yield "line ends alone", b"\n" * 1000
    yield "NUL bytes", whole.replace(b"\n", b"\0")
    yield "NUL bytes within", whole.replace(b"/", b"\0")
    yield "not UTF-8", whole.replace(b"images", b"\xff\xfe\x80")
    yield "escapes", whole.replace(b"images", b"\x1b[2J\r")
    yield "a long path", whole + b"x" * 5000 + b"\n"
    yield "one line of 64 MiB", b"x" * (64 << 20)
    yield "200 MiB", b"x\n" * (100 << 20)
    yield "devices", b"/dev/zero\n/dev/tty\n/proc/self/mem\n/dev/stdin\n."
    yield "itself", b"-\n"
    yield "binary", bytes(range(256)) * 40
    yield from byte_damages(whole, n_random)


def sweep_lists(server: Server, home: Path, n_random: int) -> Tally:
    tally = Tally()
    for what, data in lists(home, n_random):
        for null in ((), ("-0",)):
            clear(home / "out")
            options = ("--model", "model", "-o", "out/s.h5", "-S", "1", *null)
            tally.files += 1
            tally.add(what, "score -", server("score", "-", *options, cwd=home, stdin=data))
    return tally


def test_lists(server, home):
    sweep_lists(server, home, 4).check("lists on standard input")


@pytest.mark.hostile
def test_all_lists(server, home):
    sweep_lists(server, home, 100).check("lists on standard input")


# -- hvaeood.toml ---------------------------------------------------------------------------------

TOML = b'[score]\nsamples = 1\nseed = 3\nfpr = 0.1\n[train]\nset = ["ema=0.9"]\n[report]\ntop = 3\n'


def tomls(n_random: int) -> Iterator[tuple[str, bytes]]:
    yield "deep", b"[score]\nsamples = " + b"[" * 100_000
    yield "a long number", b"[score]\nsamples = " + b"9" * 10_000
    yield "a large number", b"[score]\nsamples = 99999999999999999999"
    for value in (
        b"nan",
        b"-inf",
        b"1e999",
        b"[]",
        b"{}",
        b"''",
        b"2026-01-01",
        b"[[1]]",
        b"'\\u0000'",
    ):
        for key in (b"samples", b"seed", b"fpr", b"device", b"batch-size", b"workers", b"model"):
            yield f"{key!r} = {value!r}", b"[score]\n" + key + b" = " + value
    yield "not UTF-8", b"[score]\nmodel = '\xff'"
    yield "escapes", b"['\x1b[2J']\n"
    yield "large", b"#" * (2 << 20)
    yield from byte_damages(TOML, n_random)


def sweep_tomls(server: Server, home: Path, n_random: int, every: int) -> Tally:
    tally = Tally()
    for what, data in one_in(every, tomls(n_random)):
        clear(home / "out")
        (home / "hvaeood.toml").write_bytes(data)
        options = ("--model", "model", "-o", "out/s.h5", "-S", "1")
        end = server("score", "images", *options, cwd=home)
        tally.files += 1
        tally.add(what, "score", end, "" if "\x1b" not in end.err else "an escape is printed")
    (home / "hvaeood.toml").unlink()
    return tally


def test_some_tomls(server, home):
    sweep_tomls(server, home, 8, 7).check("hvaeood.toml")


@pytest.mark.hostile
def test_all_tomls(server, home):
    sweep_tomls(server, home, 200, 1).check("hvaeood.toml")


def test_what_stands_in_its_place(server, home):
    tally = Tally()
    for what, put in places(home / "hvaeood.toml"):
        put()
        tally.files += 1
        tally.add(what, "models", server("models", cwd=home))
    (home / "hvaeood.toml").unlink()
    tally.check("places of hvaeood.toml")


def test_one_beside_the_images_is_not_read(server, home):
    """Only the current folder's is: a folder of images brings no settings, not even broken ones."""
    options = ("--model", "model", "-S", "1", "--json")
    clear(home / "out")
    alone = server("score", "images", "-o", "out/a.h5", *options, cwd=home)
    for text in (b"[score]\nseed = 7\nfpr = 0.9\n", b"[[[", b"[score]\noutput = '/tmp/x'\n"):
        (home / "images" / "hvaeood.toml").write_bytes(text)
        end = server("score", "images", "-o", "out/a.h5", "--force", *options, cwd=home)
        assert end.code == alone.code == 0 and "hvaeood.toml" not in end.err
        drop = {"created"}
        there, here = json.loads(alone.out), json.loads(end.out)
        for found in (there, here):
            found["run"] = {k: v for k, v in found["run"].items() if k not in drop}
        assert there == here
    (home / "images" / "hvaeood.toml").unlink()
