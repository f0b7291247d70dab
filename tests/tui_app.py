"""The workbench, driven by keys and clicks, on a real score file of examples/mixed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.app import App
from textual.pilot import Pilot
from textual_image.widget import HalfcellImage

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import ImageError
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.looks.look import Look, Maps
from hvaeood_cli.store.judgements import read_judgements
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.tui.app import Opened, Workbench
from hvaeood_cli.tui.run import Run
from hvaeood_cli.tui.screens.browse import BrowseScreen
from hvaeood_cli.tui.threshold import Threshold

ROOT = Path(__file__).parent.parent
Steps = Callable[[Pilot[None], Workbench], Awaitable[None]]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Path:
    """Scores of examples/mixed, and of one file that is cut off; paths relative to here."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "examples").mkdir()
    shutil.copytree(ROOT / "examples" / "mixed", folder / "examples" / "mixed")
    whole = (folder / "examples" / "mixed" / "000.png").read_bytes()
    (folder / "examples" / "mixed" / "cut [red].png").write_bytes(whole[:99])
    before = Path.cwd()
    os.chdir(folder)
    try:
        Detector().run(open_sources(["examples/mixed"])).to_file(Path("mixed.h5"))
    finally:
        os.chdir(before)
    return folder / "mixed.h5"


@pytest.fixture
def scores(mixed, tmp_path, monkeypatch) -> ScoreFile:
    """A copy to write to, in the current folder."""
    shutil.copy(mixed, tmp_path / "mixed.h5")
    (tmp_path / "examples").symlink_to(mixed.parent / "examples")
    monkeypatch.chdir(tmp_path)
    return read_scores(Path("mixed.h5"))


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    found = Detector().calibration
    assert found is not None
    return found


def picture(row: int) -> np.ndarray:
    """A pattern that tells rows apart."""
    return np.add.outer(np.arange(28) * (row % 7 + 1), np.arange(28) * 3).astype(np.uint8)


def reconstruct(row: int) -> Look:
    x = (picture(row) / 255.0).astype(np.float32)[None]
    spots = np.zeros((2, 28, 28), np.float32)
    spots[0, 4:10, 4:10], spots[1, 16:22, 12:20] = 5.0, 9.0
    maps = Maps(spots, (0, 0, 28, 28), "nobody knows" if row == 3 else "")
    return Look(picture(row), x, np.stack([x * 0.9, x * 0.5, 1 - x]), row == 1, maps)


def opened(scores: ScoreFile, calibration: Calibration | None, **options: object) -> Opened:
    """With pictures that no model made; row 2's image is gone."""
    gone = ImageError("missing", "no such file")
    return replace(
        Opened(
            Run.of(scores, calibration),
            read_judgements(scores.path),
            lambda row: gone if row == 2 else picture(row),
            lambda row: gone if row == 2 else reconstruct(row),
        ),
        **options,
    )


def drive(
    files: list[Opened] | Opened,
    steps: Steps,
    size: tuple[int, int] = (120, 36),
    images: bool = False,
    threshold: Threshold | None = None,
) -> Workbench:
    """Run the steps in an app; whatever it raises is raised here."""
    files = files if isinstance(files, list) else [files]
    app = Workbench(files, HalfcellImage if images else None, threshold, patience=0)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await settle(pilot)
            await steps(pilot, app)

    asyncio.run(run())
    return app


async def press(pilot: Pilot[Any], *keys: str) -> None:
    await pilot.press(*keys)
    await settle(pilot)


async def settle(pilot: Pilot[Any]) -> None:
    """Until all messages are heard and every picture has come."""
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def text_of(app: App[Any]) -> str:
    """What stands on the screen."""
    lines = app.screen._compositor.render_strips()
    return "\n".join(line.text for line in lines)


def said(app: Workbench) -> str:
    """What was notified."""
    return "\n".join(notice.message for notice in app._notifications)


def browse(app: Workbench) -> BrowseScreen:
    return next(screen for screen in app.screen_stack if isinstance(screen, BrowseScreen))
