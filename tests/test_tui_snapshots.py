"""Every screen as a picture, small and large: what changed is seen in review."""

from __future__ import annotations

import re
import sys

import pytest
from syrupy.extensions.image import SVGImageSnapshotExtension

from tests.tui_app import calibration, drive, mixed, opened, press, scores

__all__ = ["calibration", "mixed", "scores"]  # fixtures
pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="fonts' widths differ")

SCREENS = {
    "browse": (),
    "by_score": ("]", "r", "r", "r"),
    "gallery": ("v", "2", "right"),
    "lost": ("right", "q"),
    "look": ("enter",),
    "map": ("enter", "o"),
    "differences": ("enter", "d"),
    "all_k": ("a",),
    "compare": ("c",),
    "help": ("question_mark",),
    "write_list": ("e",),
    "threshold": ("t",),
    "decide": ("w",),
    "nothing": ("J",),
}


def normal(svg: str) -> str:
    """Without what a run makes up: the ids of its styles, and the blinking cursor's colour."""
    return re.sub(r"terminal-\d+", "terminal", svg)


@pytest.fixture
def picture_of(snapshot):
    return snapshot.use_extension(SVGImageSnapshotExtension)


@pytest.mark.parametrize("size", [(80, 24), (140, 45)], ids=["small", "large"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen, size, scores, calibration, picture_of):
    shown = []

    async def steps(pilot, app):
        app.animation_level = "none"
        if SCREENS[screen]:
            await press(pilot, *SCREENS[screen])
        for field in app.screen.query("Input"):
            field.cursor_blink = False
        await press(pilot, "shift")
        shown.append(normal(app.export_screenshot()))

    images = screen in ("browse", "gallery", "look", "map")
    files = [opened(scores, calibration), opened(scores, None)]
    drive(files, steps, size, images=images)
    assert shown[0] == picture_of


@pytest.mark.parametrize("theme", ["textual-light", "nord"])
def test_themes(theme, scores, calibration, picture_of):
    shown = []

    async def steps(pilot, app):
        app.theme = theme
        await press(pilot, "f")
        shown.append(normal(app.export_screenshot()))

    drive(opened(scores, calibration), steps)
    assert shown[0] == picture_of


def test_not_calibrated(scores, picture_of):
    shown = []

    async def steps(pilot, app):
        shown.append(normal(app.export_screenshot()))

    drive(opened(scores, None), steps)
    assert shown[0] == picture_of
