"""`hvaeood tui`: open the workbench in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console, deciding, options
from hvaeood_cli.errors import CalibrationError, HvaeoodError, ModelError, StoreError, UsageError
from hvaeood_cli.files import NO_LOCKS, has_locks
from hvaeood_cli.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hvaeood_cli.images.reader import ImageReader
    from hvaeood_cli.looks.look import Look
    from hvaeood_cli.store.decision import Rule
    from hvaeood_cli.store.score_file import ScoreFile
    from hvaeood_cli.tui.app import Opened
    from hvaeood_cli.tui.run import Run
    from hvaeood_cli.tui.widgets.picture import ImageWidget


class Images(StrEnum):
    """How images are drawn."""

    AUTO = "auto"
    NONE = "none"
    HALFCELL = "halfcell"
    SIXEL = "sixel"
    TGP = "tgp"


def tui(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE.h5 [OTHER.h5]]",
            help="Score files; a second one to compare with.",
            show_default="the one in this folder; of several, the one that you choose",
        ),
    ] = None,
    fpr: options.Fpr = None,
    fdr: options.Fdr = None,
    by: options.By = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|DIR",
            help="The model; twice where two files were scored with two.",
            show_default="the one that scored",
        ),
    ] = None,
    calibration: options.CalibrationFile = None,
    images: Annotated[
        Images, typer.Option(help="How images are drawn; none where the line is slow.")
    ] = Images.AUTO,
    data_root: options.DataRoot = None,
    remote: options.Remote = False,
    device: options.Device = "auto",
) -> None:
    """Look through scored images in the terminal, and judge them.

    Example: **hvaeood tui scores.h5**

    Distributions, a threshold to move, a table of any length, each image beside its
    reconstructions; marks and notes are kept beside the scores. Needs no display, works over
    SSH, and with the score file alone where images or model are elsewhere.

    Next: **hvaeood report FILE.h5** makes a page to pass on.
    """
    rules = deciding.Rules.of(context, fpr, fdr, by)
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    paths = files or _files_in(Path(), in_terminal)
    n_models = len(model or [])
    if files and len(paths) > 2:
        raise UsageError(f"{len(paths)} score files; two can be compared", "name one or two")
    if n_models > max(1, len(files or [])):
        raise UsageError(f"{n_models} models for {len(files or [1])} score files", "one for each")

    def open_all(paths: list[Path]) -> list[Opened]:
        opened = [
            _open(path, model or [], calibration, data_root, device, remote) for path in paths
        ]
        if rule := _rule_for(opened, rules):
            _check_rule(rule, [one.run for one in opened])
        return opened

    must_choose = not files and len(paths) > 1
    opened = [] if must_choose else open_all(paths)
    if not in_terminal:
        raise UsageError(
            "the workbench needs a terminal",
            f"hvaeood report {paths[0]} makes a page; hvaeood decide {paths[0]} --json prints",
        )
    widget = _image_widget(images)  # it queries the terminal, so no app must run yet
    if must_choose:
        opened = _opened_by_choice(paths, open_all)
    if not opened:
        return
    from hvaeood_cli.tui.app import Workbench

    Workbench(opened, widget, _rule_for(opened, rules), hint=_first_time()).run()


def _rule_for(opened: list[Opened], rules: deciding.Rules) -> Rule | None:
    """The rule to begin with; None for the one that the first file has, or the usual one."""
    return rules.where(opened[0].run.scores.decision, lambda _: None)


def _opened_by_choice(
    paths: list[Path], open_all: Callable[[list[Path]], list[Opened]]
) -> list[Opened]:
    """The score file that the user chooses, open; none if they choose none.

    One that turns out not to be whole is said, and the user chooses again.
    """
    from hvaeood_cli.tui.picker import Picker

    chosen, refused = Picker(paths).run(), None
    while chosen is not None:
        try:
            return open_all([chosen])
        except StoreError as error:
            refused = error
        chosen = Picker(paths, refused, chosen).run()
    return []


def _check_rule(rule: Rule, runs: list[Run]) -> None:
    """Raise CalibrationError where the first file has no calibration, or one is too small."""
    from hvaeood_cli.calibration.rules import check_level

    if not runs[0].has_p:
        raise deciding.not_calibrated(runs[0].scores.header.model_name)
    for run in runs:
        if run.calibration is not None:
            check_level(rule, run.calibration, run.n_scored)


def _files_in(folder: Path, can_choose: bool) -> list[Path]:
    """The score files in a folder.

    can_choose: whether there is a terminal to choose one in. Raises UsageError if there is none,
    or more than one and no choice.
    """
    found = sorted(folder.glob("*.h5"))
    if not found:
        raise UsageError("no score file in this folder", "hvaeood score FOLDER makes one")
    if len(found) > 1 and not can_choose:
        names = ", ".join(path.name for path in found[:5])
        raise UsageError(f"{len(found)} score files here: {names}", f"hvaeood tui {found[0].name}")
    return found


def _open(
    path: Path,
    models: list[str],
    calibration: Path | None,
    data_root: Path | None,
    device: str,
    remote: bool = False,
) -> Opened:
    """A score file with its calibration and its model, where these can be found.

    models: those that the user named, if any. Raises StoreError where scores or judgements cannot
    be read, and ModelError or CalibrationError where a model or calibration that was named cannot
    be used. One that was not may be missing.
    """
    from hvaeood_cli.images.reader import ImageReader
    from hvaeood_cli.looks.looker import Looking
    from hvaeood_cli.store.judgements import read_judgements
    from hvaeood_cli.store.reader import read_scores
    from hvaeood_cli.tui.app import Opened

    scores = read_scores(path).present
    if not len(scores):
        raise StoreError(f"{path} has no images", "hvaeood score FOLDER makes another")
    judgements = read_judgements(path)
    if not has_locks(path):
        console.warn(NO_LOCKS)
    model = _named_for(scores, models)
    reader = ImageReader(data_root, path, remote)
    glance = _glancing(scores, reader)
    no_model = ""
    looking = None
    try:
        looking = Looking(scores, reader, model, device, calibration)
    except ModelError as error:
        if model is not None:
            raise
        no_model = printable(f"{error.message}: {error.hint}")

    def look(row: int) -> Look | HvaeoodError:
        return looking([row])[0] if looking else _image_alone(glance(row))

    run = _run(scores, model, calibration)
    return Opened(run, judgements, glance, look, no_model)


def _named_for(scores: ScoreFile, models: list[str]) -> str | None:
    """Of the named models the one that made these scores, else the last; None if none is named.

    Raises ModelError for a name that is no model's.
    """
    from hvaeood_cli.model.bundle import find_bundle

    by_hash = {find_bundle(model).sha256: model for model in models}
    return by_hash.get(scores.header.model_sha256, models[-1] if models else None)


def _run(scores: ScoreFile, model: str | None, calibration: Path | None) -> Run:
    """The scores beside their calibration, or beside the reason why there is none."""
    from hvaeood_cli.tui.run import Run

    why_not = ""
    found = None
    try:
        found = deciding.calibration_of(scores, model, calibration, console.warner())
    except HvaeoodError as error:
        if model is not None or calibration is not None:
            raise
        why_not = printable(f"{error.message}: {error.hint}")
    standing = scores.decision
    if standing and found and calibration is None and not deciding.made(standing, found):
        found = None  # another one would show another ranking
        why_not = f"the calibration {standing.calibration_id}, which decided, is not at hand"
    if standing and found is None:
        why_not = f"decided as it stands in the file: {why_not or 'its calibration is not at hand'}"
    run = Run.of(scores, found, why_not)
    if calibration is not None and found is not None and run.calibration is None:
        try:
            found.check(scores.header)
        except CalibrationError as error:
            raise CalibrationError(f"{scores.path}: {error.message}", error.hint) from None
    return run


def _glancing(
    scores: ScoreFile, reader: ImageReader
) -> Callable[[int], NDArray[np.uint8] | HvaeoodError]:
    """A function that reads the image of a row, or returns the error that prevents it."""

    def glance(row: int) -> NDArray[np.uint8] | HvaeoodError:
        try:
            return reader.read(bytes(scores.names[row])).pixels
        except HvaeoodError as error:
            return error

    return glance


def _image_alone(image: NDArray[np.uint8] | HvaeoodError) -> Look | HvaeoodError:
    """A look at an image alone, without reconstructions."""
    import numpy as np

    from hvaeood_cli.looks.look import Look

    if isinstance(image, HvaeoodError):
        return image
    return Look(image, np.zeros((1, 1, 1), "f4"), np.zeros((0, 1, 1, 1), "f4"), False)


def _image_widget(images: Images) -> ImageWidget | None:
    """The widget that draws images; None if none are to be drawn."""
    if images is Images.NONE:
        return None
    from textual_image import widget

    return {
        Images.AUTO: widget.Image,
        Images.HALFCELL: widget.HalfcellImage,
        Images.SIXEL: widget.SixelImage,
        Images.TGP: widget.TGPImage,
    }[images]


def _first_time() -> bool:
    """Whether the user opens the workbench for the first time; remembers that they have."""
    import platformdirs

    marker = platformdirs.user_state_path("hvaeood") / "tui-seen"
    try:
        if marker.exists():
            return False
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:  # the home folder cannot be written: start all the same
        return False
    return True
