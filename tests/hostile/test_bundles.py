"""Models that are no models: every file of a bundle damaged, and a cross-fitted one's folds."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from hvaeood_cli.model.bundle import fold_folder, write_bundle, write_cross_fitted
from hvaeood_cli.model.weights import MAX_HEADER
from tests.conftest import SMALL, make_ladder
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
from tests.score_files import make_scores

pytestmark = needs_linux

TRAINING = {
    "command": ["hvaeood", "train"],
    "conversions": {"resized": 3},
    "fingerprint": {"model": {"kind": "hvae"}},
    "n_images": 10,
    "n_trained_on": 5,
    "n_validation": 2,
    "n_calibration": 0,
    "n_parameters": 100,
    "minutes": 1.5,
    "steps": 100,
    "finished": "2026-01-01T00:00:00+00:00",
    "versions": {"python": "3.11"},
    "curve": [{"epoch": 1, "step": 2, "seconds": 0.5, "validation_bits_per_dim": [1.0, 2.0, 3.0]}],
}
LAYER = {"latent": 65536, "spatial": True, "channels": 65536, "n_blocks": 64, "kernel": 15}

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    hashes = np.arange(5, dtype=np.uint64)
    whole = write_bundle(folder / "whole", "small", SMALL, make_ladder(), TRAINING, hashes)
    folds = [
        write_bundle(
            fold_folder(folder / "folds", i), "f", SMALL, make_ladder(seed=i), TRAINING, hashes
        )
        for i in range(2)
    ]
    write_cross_fitted(folder / "folds", "folds", folds, TRAINING)
    make_scores(folder / "s.h5", 60, model_sha256=whole.sha256)
    np.save(folder / "images.npy", np.zeros((2, 8, 8), np.uint8))
    return folder


COMMANDS: list[tuple[str, ...]] = [
    ("score", "images.npy", "--model", "model", "-o", "out/s.h5", "-S", "1", "--force"),
    ("models", "model"),
    ("tui", "s.h5", "--model", "model"),
    ("models", "model", "--json"),
    ("report", "s.h5", "--model", "model", "-o", "out/r.html", "--top", "1", "--force"),
    ("calibrate", "images.npy", "--model", "model", "--scores", "out/c.h5", "-S", "1", "--force"),
    ("reconstruct", "images.npy", "--model", "model", "-o", "out/x.png", "--force"),
]


def writes(name: str, data: bytes) -> Damage:
    return lambda model: (model / name).write_bytes(data)


def of_json(name: str, value: Any) -> Damage:
    return writes(name, json.dumps(value).encode())


def weights(data: bytes) -> Damage:
    """Other weights, with the hash that goes with them."""

    def damage(model: Path) -> None:
        (model / "model.safetensors").write_bytes(data)
        config = json.loads((model / "config.json").read_text())
        config["weights_sha256"] = hashlib.sha256(data).hexdigest()
        (model / "config.json").write_text(json.dumps(config))

    return damage


def headed(header: bytes, rest: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + rest


def weights_damages(data: bytes, n_random: int) -> Iterator[tuple[str, bytes]]:
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    first = next(name for name in header if name != "__metadata__")
    for what, changed in json_damages({first: header[first]}):
        others = {name: entry for name, entry in header.items() if name != first}
        whole = changed | others if isinstance(changed, dict) else changed
        yield f"header: {what}", headed(json.dumps(whole).encode(), rest)
    for length in (0, 1, 2**23, 2**32, 2**63, 2**64 - 1):
        yield f"a header of {length} bytes", headed(json.dumps(header).encode(), rest, length)
    for what, text in ODD_JSON.items():
        yield f"header: {what}", headed(text, rest)
    yield "a header of lists", headed(b"[" + b"[]," * (MAX_HEADER // 3 - 2) + b"[]]", rest)
    tensors = load(data)
    for what, changed in {
        "float64": {name: value.astype("f8") for name, value in tensors.items()},
        "float16": {name: value.astype("f2") for name, value in tensors.items()},
        "NaN": {name: np.full_like(value, np.nan) for name, value in tensors.items()},
        "infinite": tensors | {first: np.full_like(tensors[first], np.inf)},
        "one more": tensors | {"another": np.zeros(3, "f4")},
        "one less": {name: value for name, value in tensors.items() if name != first},
        "flat": {name: value.ravel() for name, value in tensors.items()},
        "empty": {name: np.zeros((0, *value.shape), "f4") for name, value in tensors.items()},
        "none": {},
    }.items():
        yield what, save(changed)
    yield from byte_damages(data, n_random)


def damages(whole: Path, n_random: int) -> Iterator[tuple[str, Damage]]:
    """What is done to an ordinary model's folder."""
    config = json.loads((whole / "config.json").read_text())
    for what, changed in json_damages(config):
        yield f"config.json: {what}", of_json("config.json", changed)
    for what, changes in {
        "the largest there can be": {"image_size": 4096, "layers": [LAYER] * 64},
        "too many layers": {"layers": [config["model"]["layers"][0]] * 65},
        "one layer": {"layers": config["model"]["layers"][:1]},
        "dense, then spatial": {"layers": config["model"]["layers"][::-1]},
        "colour": {"image_channels": 3, "likelihood": "logistics"},
        "biva": {"kind": "biva"},
        "lvae": {"kind": "lvae"},
    }.items():
        yield (
            f"config.json: {what}",
            of_json("config.json", config | {"model": config["model"] | changes}),
        )
    for what, changed in json_damages(TRAINING):
        yield f"training.json: {what}", of_json("training.json", changed)
    for name in ("config.json", "training.json"):
        for what, text in ODD_JSON.items():
            yield f"{name}: {what}", writes(name, text)
    for what, data in weights_damages((whole / "model.safetensors").read_bytes(), n_random):
        yield f"weights: {what}", weights(data)
    for dtype in ("int8", "uint64", "float64", "S4", "U4", "M8[s]"):
        for shape in ((0,), (5,), (2, 3), ()):
            yield f"hashes: {dtype} {shape}", _hashes(np.zeros(shape, dtype))
    yield "hashes: not sorted", _hashes(np.array([2, 1], "u8"))
    yield "hashes: objects", _hashes(np.array([{}], object))
    for name in ("config.json", "training.json", "model.safetensors", "training_images.npy"):
        for what, data in byte_damages((whole / name).read_bytes(), n_random):
            yield f"{name}: {what}", writes(name, data)


def _hashes(array: np.ndarray) -> Damage:
    return lambda model: np.save(model / "training_images.npy", array, allow_pickle=True)


def folds_damages() -> Iterator[tuple[str, Damage]]:
    """What is done to a cross-fitted model's folder."""
    for n in (-1, 0, 1, 3, 16, 17, 10**9, 1.0, None, True, "2", []):
        yield f"folds = {n}", lambda m, n=n: _change(m / "config.json", folds=n)
    yield "folds in folds", lambda m: shutil.copytree(m, m / "fold-0", dirs_exist_ok=True)
    yield (
        "a fold that is the whole",
        lambda m: (
            shutil.rmtree(m / "fold-0"),
            (m / "fold-0").symlink_to(m),
        ),
    )
    yield (
        "the same fold twice",
        lambda m: (
            shutil.rmtree(m / "fold-1"),
            shutil.copytree(m / "fold-0", m / "fold-1"),
        ),
    )
    yield (
        "a fold of another architecture",
        lambda m: _change(
            m / "fold-1" / "config.json", model=SMALL.model_dump(mode="json") | {"stem_kernel": 5}
        ),
    )
    yield "a fold without weights", lambda m: (m / "fold-1" / "model.safetensors").unlink()
    yield "a fold is missing", lambda m: shutil.rmtree(m / "fold-1")


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sweep(
    server: Server, home: Path, whole: Path, found: Iterator[tuple[str, Damage]], every: int = 1
) -> Tally:
    """Two commands, in turn, on each damaged model."""
    tally = Tally()
    (home / "out").mkdir(exist_ok=True)
    for number, (what, damage) in enumerate(found):
        if number % every:
            continue
        tally.files += 1
        shutil.rmtree(home / "model", ignore_errors=True)
        shutil.copytree(whole, home / "model")
        damage(home / "model")
        before = {k: v for k, v in listing(home).items() if not k.startswith("out")}
        n = tally.files + tally.files // len(COMMANDS)  # so that each meets each kind of damage
        for command in (COMMANDS[n % 7], COMMANDS[(n + 3) % 7]):
            end = server(*command, cwd=home)
            after = {k: v for k, v in listing(home).items() if not k.startswith("out")}
            tally.add(what, command[0], end, "" if before == after else "it writes elsewhere")
    return tally


def test_some_of_every_kind(server, home):
    sweep(server, home, home / "whole", damages(home / "whole", 20), every=94).check("models")
    sweep(server, home, home / "folds", folds_damages(), every=4).check("cross-fitted models")


@pytest.mark.hostile
def test_all_of_them(server, home):
    sweep(server, home, home / "whole", damages(home / "whole", 60)).check("models")
    sweep(server, home, home / "folds", folds_damages()).check("cross-fitted models")


def test_what_stands_in_a_files_place(server, home):
    tally = Tally()
    for name in ("config.json", "model.safetensors", "training.json", "training_images.npy"):
        shutil.rmtree(home / "model", ignore_errors=True)
        shutil.copytree(home / "whole", home / "model")
        for what, put in places(home / "model" / name):
            put()
            tally.files += 1
            for command in (COMMANDS[0], COMMANDS[1])[: 1 + (name == "training.json")]:
                tally.add(f"{name}: {what}", command[0], server(*command, cwd=home))
    tally.check("places of a model's files")
