"""Outputs where nothing can be written: refused before any work, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_images
from tests.hostile.forked import Server, listing, needs_linux

pytestmark = needs_linux

FILES: dict[str, tuple[str, ...]] = {  # the output is `out`
    "score": ("score", "images", "-o"),
    "score --force": ("score", "images", "--force", "-o"),
    "merge": ("merge", "parts", "-o"),
    "calibrate": ("calibrate", "s.h5", "-o"),
    "calibrate --scores": ("calibrate", "images", "--scores"),
    "report": ("report", "s.h5", "--format", "html", "-o"),
    "reconstruct": ("reconstruct", "images/00.png", "-o"),
    "find": ("find", "images", "-o"),
    "find --report": ("find", "images", "-o", "found.h5", "--report"),
}
FOLDERS: dict[str, tuple[str, ...]] = {
    "score --shard": ("score", "images", "--shard", "1/2", "-o"),
    "reconstruct --maps": ("reconstruct", "images/00.png", "--maps"),
    "decide --copy-to": ("decide", "s.h5", "--fpr", "0.1", "--copy-to"),
    "decide --move-to": ("decide", "s.h5", "--fpr", "0.1", "--move-to"),
}
NO_FILES: dict[str, Callable[[Path], object]] = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/null"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "in a link to itself": lambda path: path.parent.symlink_to(path.parent.name),
    "of a long name": lambda path: None,
}
NO_FOLDERS: dict[str, Callable[[Path], object]] = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing/at/all"),
    "a pipe": os.mkfifo,
    "a file": Path.touch,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bundle, server) -> Path:
    """A model with a calibration, images, their scores, and the parts of their shards."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(bundle.folder, folder / "model")
    np.save(folder / "usual.npy", make_images(120, seed=9)[:, 0])
    (folder / "images").mkdir()
    for i, image in enumerate(make_images(110)):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:02d}.png")
    server.env |= {"HVAEOOD_MODEL": "model", "HVAEOOD_MODELS": "own"}
    for command in (
        ("calibrate", "usual.npy"),
        ("score", "images", "-o", "s.h5"),
        ("score", "images", "--shard", "1/2", "-o", "parts"),
        ("score", "images", "--shard", "2/2", "-o", "parts"),
    ):
        assert server(*command, cwd=folder).code == 0
    return folder


@pytest.mark.parametrize(
    ("command", "what"),
    [(command, "a link to itself") for command in (*FILES, *FOLDERS)]
    + [("score", what) for what in NO_FILES]
    + [("score --shard", what) for what in NO_FOLDERS],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    server: Server, whole, tmp_path, command, what
):
    home = shutil.copytree(whole, tmp_path / "home", copy_function=os.link)
    words, make = (FILES[command], NO_FILES) if command in FILES else (FOLDERS[command], NO_FOLDERS)
    out = {"in a link to itself": "loop/out", "of a long name": "x" * 300}.get(what, "out")
    out += ".png" if command == "reconstruct" else ""
    make[what](home / out)
    before = listing(home)
    never = {"hvaeood_cli.scoring.engines.local.LocalEngine": None}
    end = server(*words, out, cwd=home, patch=never)
    assert end.code == 2 and not end.unexpected(), end
    assert out.split("/")[0] in "".join(end.err.split()), end.err
    assert listing(home) == before
