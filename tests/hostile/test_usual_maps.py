"""Usual maps that are none: every command that looks at maps refuses them, or does without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save

from hvaeood_cli.calibration.usual_maps import place_of
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
from tests.hostile.test_calibrations import array_damages

pytestmark = needs_linux

COMMANDS: list[tuple[str, ...]] = [
    ("reconstruct", "images.npy", "--model", "model", "--maps", "out/maps", "--force"),
    ("report", "s.h5", "--model", "model", "-o", "out/r.html", "--top", "2", "--force"),
    ("calibrate", "s.h5", "--model", "model"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle, server) -> Path:
    """Images, their scores, and a model in whose folder are a calibration and usual maps."""
    folder = tmp_path_factory.mktemp("maps")
    shutil.copytree(bundle.folder, folder / "whole")
    np.save(folder / "usual.npy", make_images(60, seed=9)[:, 0])
    np.save(folder / "images.npy", make_images(3)[:, 0])
    (folder / "out").mkdir()
    calibrate = ("calibrate", "usual.npy", "--model", "whole", "--scores", "s.h5")
    assert server(*calibrate, cwd=folder).code == 0
    return folder


def maps_of(model: Path) -> Path:
    return place_of(model / "calibration.npz")


def damages(path: Path, n_random: int) -> Iterator[tuple[str, bytes]]:
    """Contents of such a file that are wrong in one place each."""
    data = path.read_bytes()
    with safe_open(path, framework="np") as file:
        head = json.loads(file.metadata()["head"])
    arrays = load(data)

    def of(text: str, **changed: Any) -> bytes:
        kept = {name: array for name, array in (arrays | changed).items() if array is not None}
        return save(kept, {"head": text})

    for what, changed in json_damages(head):
        yield f"head: {what}", of(json.dumps(changed).encode("utf-8", "replace").decode())
    for what, text in ODD_JSON.items():
        yield f"head: {what}", of(text.decode("utf-8", "replace"))
    yield "no head", save(arrays)
    for name, array in arrays.items():
        yield f"{name} missing", of(json.dumps(head), **{name: None})
        for what, changed in array_damages(array):
            if changed.dtype.name in ("float16", "float32", "float64", "int8", "uint64", "bool"):
                yield f"{name} {what}", of(json.dumps(head), **{name: np.array(changed)})
    yield "another size", of(json.dumps(head), **{n: a[..., :-1] * 1 for n, a in arrays.items()})
    yield "another", of(json.dumps(head), more=np.zeros(3, "f4"))
    for what, changed in weights_damages(data, n_random):
        yield f"safetensors: {what}", changed
    yield from byte_damages(data, n_random)


def sweep(server: Server, home: Path, every: int, n_random: int) -> Tally:
    """A command on each damaged file; whatever it is, nothing but the output changes."""
    tally = Tally()
    for number, (what, data) in enumerate(damages(maps_of(home / "whole"), n_random)):
        if number % every:
            continue
        tally.files += 1
        shutil.rmtree(home / "model", ignore_errors=True)
        shutil.copytree(home / "whole", home / "model")
        maps_of(home / "model").write_bytes(data)
        _try(server, home, tally, what)
    return tally


def _try(server: Server, home: Path, tally: Tally, what: str) -> None:
    command = COMMANDS[tally.files % len(COMMANDS)]
    before = _elsewhere(home, command)
    end = server(*command, cwd=home)
    changed = before != _elsewhere(home, command)
    tally.add(what, command[0], end, "it writes elsewhere" if changed else "")


def _elsewhere(home: Path, command: tuple[str, ...]) -> dict[str, int]:
    """What is there, but for the output. `calibrate` makes the calibration and its maps anew."""
    output = "model/calibration" if command[0] == "calibrate" else "out"
    return {path: size for path, size in listing(home).items() if not path.startswith(output)}


def test_some_of_every_kind(server, home):
    sweep(server, home, every=20, n_random=40).check("usual maps")


@pytest.mark.hostile
def test_all_of_them(server, home):
    sweep(server, home, every=1, n_random=200).check("usual maps")


def test_what_stands_in_their_place(server, home):
    tally = Tally()
    for command in COMMANDS:
        shutil.rmtree(home / "model", ignore_errors=True)
        shutil.copytree(home / "whole", home / "model")
        for what, put in places(maps_of(home / "model")):
            put()
            tally.files += 1
            tally.add(what, command[0], server(*command, cwd=home))
    tally.check("places of usual maps")


def test_with_the_file_as_it_is_written_all_commands_are_done(server, home):
    shutil.rmtree(home / "model", ignore_errors=True)
    shutil.copytree(home / "whole", home / "model")
    assert [server(*command, cwd=home).code for command in COMMANDS] == [0] * len(COMMANDS)
