"""The README's pictures, made anew: `python docs/make_pictures.py`, with Chromium for the report.

They show what the commands make of examples/mixed, in a temporary folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text
from textual_image.widget import HalfcellImage

from hvaeood_cli.cli import console, tui
from hvaeood_cli.cli.app import main
from hvaeood_cli.tui.app import Workbench

DOCS = Path(__file__).parent
WIDTH = 80
SCREENS = {"tui-browse": (), "tui-look": ("enter",)}


def hvaeood(*words: str) -> None:
    """Run a command in this process."""
    sys.argv = ["hvaeood", *words]
    with contextlib.suppress(SystemExit):
        main()


def picture_of_score() -> None:
    """What `hvaeood score examples/mixed` prints."""
    terminal = Console(width=WIDTH, force_terminal=True, color_system="truecolor", markup=False)
    recorder = Console(record=True, width=WIDTH, file=io.StringIO())
    console.out = lambda: terminal  # type: ignore[assignment]
    console.emit = lambda parts, **_: recorder.print(Text.from_ansi("".join(parts)))
    hvaeood("score", "examples/mixed")
    recorder.save_svg(str(DOCS / "score.svg"), title="hvaeood score examples/mixed")


async def pictures_of_the_workbench(scores: Path) -> None:
    """The main screen, and an image beside its reconstructions."""
    for name, keys in SCREENS.items():
        opened = tui._open(scores, [], None, None, "cpu")
        app = Workbench([opened], HalfcellImage)
        async with app.run_test(size=(120, 36)) as pilot:
            await pilot.press(*keys)
            for _ in range(2):  # the first look loads the model
                await pilot.pause(1.0)
                await app.workers.wait_for_complete()
            await pilot.pause()
            (DOCS / f"{name}.svg").write_text(app.export_screenshot())


def picture_of_the_report() -> None:
    """The top of the page."""
    hvaeood("report", "mixed.scores.h5", "-o", "report.html", "--quiet")
    shot = f"--screenshot={DOCS / 'report.png'}"
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,1320", shot]
    subprocess.run(["chromium", *options, "report.html"], check=True, capture_output=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(DOCS.parent / "examples" / "mixed", Path(name) / "examples" / "mixed")
        os.chdir(name)
        picture_of_score()
        asyncio.run(pictures_of_the_workbench(Path("mixed.scores.h5")))
        picture_of_the_report()
        os.chdir(DOCS)
