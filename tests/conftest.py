"""What the tests share: small ladders, a small model on disk, and images that they make."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hvaeood_cli.cli import console
from hvaeood_cli.cli.app import main
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.bundle import Bundle, write_bundle
from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.model.ladder import Ladder
from tests.devices import PLACES, Place

torch.set_num_threads(1)  # pytest-xdist has a process a core
os.environ["OMP_NUM_THREADS"] = "1"  # and so have the commands that tests start


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """What `-n auto` means: no other process where a debugger may want the terminal.

    That is when tests are named one by one, or from one file, which `--dist loadscope` would not
    share out anyway; and under a debugger. None: a process a core, as xdist has it.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    named = any("::" in argument for argument in config.args)
    one_file = len(files) == 1 and files.pop().endswith(".py")
    debugged = config.option.trace or sys.gettrace() is not None or "pydevd" in sys.modules
    return 0 if named or one_file or debugged else None


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache folder, one for all processes of these tests."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["XDG_CACHE_HOME"] = str(home)
    return home


SMALL = ModelConfig(
    image_size=8,
    stem_kernel=3,
    stem_stride=2,
    layers=(
        LayerConfig(latent=2, spatial=True, channels=4, n_blocks=1),
        LayerConfig(latent=3, spatial=False, channels=6, n_blocks=1, stride=2),
        LayerConfig(latent=2, spatial=False, channels=6, n_blocks=1),
    ),
)


def make_ladder(config: ModelConfig = SMALL, seed: int = 0, gain: float = 2.0) -> Ladder:
    """An untrained ladder whose latents matter: weights larger than the default's."""
    torch.manual_seed(seed)
    ladder = build_ladder(config)
    with torch.no_grad():
        for parameter in ladder.parameters():
            parameter.mul_(gain)
    return ladder.eval()


def make_noise(ladder: Ladder, n_samples: int, n_images: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n_samples, n_images, *ladder.latent_shape(i), generator=generator)
        for i in range(1, ladder.n_layers + 1)
    ]


def make_images(n: int, size: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), np.uint8)


@pytest.fixture(params=PLACES)
def place(request) -> Place:
    """Every device there is or that a CPU can stand for."""
    return PLACES[request.param]


@pytest.fixture
def ladder() -> Ladder:
    return make_ladder()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small untrained model on disk."""
    folder = tmp_path_factory.mktemp("models") / "small"
    hashes = np.arange(5, dtype=np.uint64)
    return write_bundle(folder, "small", SMALL, make_ladder(), {}, hashes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve 8x8 grey PNGs, two of them in a subfolder."""
    images = tmp_path / "images"
    (images / "deeper").mkdir(parents=True)
    for i, image in enumerate(make_images(12)):
        place = images / "deeper" if i >= 10 else images
        Image.fromarray(image[0]).save(place / f"{i:02d}.png")
    return images


@pytest.fixture
def run(bundle, tmp_path, monkeypatch, capfdbinary):
    """Run a command in tmp_path: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HVAEOOD_MODEL", str(bundle.folder))
    monkeypatch.setenv("HVAEOOD_MODELS", str(tmp_path / "own-models"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))

    def call(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hvaeood", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        console.out.cache_clear()
        console.err.cache_clear()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfdbinary.readouterr()
        code = caught.value.code or 0
        return int(code), out.decode("utf-8", "surrogateescape"), err.decode()

    return call
