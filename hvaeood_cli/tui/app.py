"""The workbench's app: acts on what the user does, takes the next snapshot, and shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import get_current_worker

from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.errors import HvaeoodError, StoreError
from hvaeood_cli.looks.look import Look
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.judgements import Judgement, Judgements, judge
from hvaeood_cli.store.writer import write_decision
from hvaeood_cli.text import printable
from hvaeood_cli.tui import messages, taking
from hvaeood_cli.tui.album import Album
from hvaeood_cli.tui.run import Run
from hvaeood_cli.tui.screens.all_k import AllKScreen
from hvaeood_cli.tui.screens.asking import KEEP, LEAVE, KeepThreshold
from hvaeood_cli.tui.screens.browse import BrowseScreen
from hvaeood_cli.tui.screens.compare import CompareScreen
from hvaeood_cli.tui.screens.help import HelpScreen
from hvaeood_cli.tui.screens.judging import JudgingScreen, SnapshotScreen
from hvaeood_cli.tui.screens.look import LookScreen
from hvaeood_cli.tui.threshold import Threshold, words
from hvaeood_cli.tui.view import Snapshot, View, take
from hvaeood_cli.tui.widgets.gallery import Gallery
from hvaeood_cli.tui.widgets.layer import under_map
from hvaeood_cli.tui.widgets.picture import ImageWidget, Picture, reduced

HINT = "enter looks at an image, v at many, ← → move the threshold, 1 2 3 judge, ? tells the rest"


@dataclass(frozen=True, eq=False)
class Opened:
    """A score file, and two functions that show its images. Both are slow."""

    run: Run
    judgements: Judgements
    glance: Callable[[int], NDArray[np.uint8] | HvaeoodError]  # row -> the image
    look: Callable[[int], Look | HvaeoodError]  # row -> the image and its reconstructions
    no_model: str = ""  # why there are no reconstructions; empty if there are


@dataclass(eq=False)
class _File:
    """An open score file with its current snapshot, and the pictures shown of it."""

    opened: Opened
    snapshot: Snapshot
    glances: Album[NDArray[np.uint8]] = field(init=False)
    looks: Album[Look] = field(init=False)
    judged: list[tuple[int, Judgement]] = field(default_factory=list)
    """Rows judged here, the last one last, each with its judgement before."""
    safe: list[Threshold] = field(init=False)
    """Thresholds that are not lost with the workbench: the file's, and the one asked for."""

    def __post_init__(self) -> None:
        self.glances = Album(self._glance, 256)
        self.looks = Album(self.opened.look)
        self.safe = list(self.snapshot.view.own.values())

    def _glance(self, row: int) -> NDArray[np.uint8] | HvaeoodError:
        image = self.opened.glance(row)
        return image if isinstance(image, HvaeoodError) else reduced(image)

    @property
    def unsaved(self) -> Threshold | None:
        """A threshold that the user chose and that would be lost, the one in force first."""
        view = self.snapshot.view
        chosen = [each for each in view.own.values() if each not in self.safe]
        return view.threshold if view.threshold in chosen else chosen[-1] if chosen else None


class Workbench(App[None]):
    """The app for one or two opened score files. It opens no image and no model by itself."""

    TITLE = "hvaeood"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "all_k", "All k", show=False),
        Binding("c", "compare", "Compare"),
        Binding("x", "other_file", "Other file", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        opened: list[Opened],
        image_widget: ImageWidget | None = None,
        threshold: Threshold | None = None,
        hint: bool = False,
        patience: float = 0.12,
    ) -> None:
        """image_widget: one of textual-image; None shows no images. hint: show a first-time hint.

        threshold: the one to start with. patience: seconds that the cursor must rest before an
        image is read.
        """
        super().__init__()
        self.files = [_File(each, _first(each, threshold)) for each in opened]
        self._at = 0
        self._image_widget = image_widget
        self._hint = hint
        self._patience = patience
        self._resting: dict[str, Timer] = {}

    @property
    def file(self) -> _File:
        return self.files[self._at]

    @property
    def snapshot(self) -> Snapshot:
        return self.file.snapshot

    @property
    def _browsing(self) -> BrowseScreen:
        return next(screen for screen in self.screen_stack if isinstance(screen, BrowseScreen))

    def on_mount(self) -> None:
        self.push_screen(BrowseScreen(self.snapshot, self._image_widget, len(self.files) > 1))
        if self._hint:
            self.notify(HINT, timeout=8, markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("compare", "other_file"):
            return len(self.files) > 1 and isinstance(self.screen, BrowseScreen)
        if action == "all_k":
            return isinstance(self.screen, BrowseScreen)
        return True

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the palette offers: themes and the like, and every key of the screen."""
        yield from super().get_system_commands(screen)
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.description and active.node in (screen, self) and active.enabled:
                run = partial(active.node.run_action, binding.action)
                yield SystemCommand(binding.description, f"key {binding.key}", run)

    # -- the view -----------------------------------------------------------------------------

    def on_ask(self, message: messages.Ask) -> None:
        with self._saying():
            self._take(message.change(self.snapshot))

    def _take(self, view: View, judgements: Judgements | None = None) -> None:
        now = self.snapshot
        judged = now.judgements if judgements is None else judgements
        self.file.snapshot = take(now.run, view, judged, now)
        self._show()

    def _show(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, SnapshotScreen) and screen.is_mounted:
                screen.show(self.snapshot)

    def action_other_file(self) -> None:
        self._at = (self._at + 1) % len(self.files)
        self._show()

    def action_all_k(self) -> None:
        self.push_screen(AllKScreen(self.snapshot))

    def action_compare(self) -> None:
        first, second = self.files[:2]
        self.push_screen(CompareScreen(first.snapshot, second.snapshot, self._at))

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    # -- images -------------------------------------------------------------------------------

    def on_open(self, message: messages.Open) -> None:
        no_model = self.file.opened.no_model
        self.push_screen(LookScreen(self.snapshot, message.row, self._image_widget, no_model))

    def on_glance(self, message: messages.Glance) -> None:
        if self.snapshot.view.layer:
            self._want("glance", self.file.looks, [message.row], self._glanced_under_map)
        else:
            self._want("glance", self.file.glances, [message.row], self._glanced)

    def on_next_layer(self) -> None:
        if self._image_widget is None:
            self.notify("images are off: --images auto draws them", severity="warning")
        elif self.file.opened.no_model:
            why = self.file.opened.no_model
            self.notify(why, title="No maps", severity="warning", markup=False)
        else:
            view = self.snapshot.view
            layer = (view.layer - 1) % self.snapshot.run.n_layers  # the highest k first
            self._take(replace(view, layer=layer))

    def on_thumbs(self, message: messages.Thumbs) -> None:
        self._want("thumbs", self.file.glances, message.rows, self._thumbed)

    def on_show(self, message: messages.Show) -> None:
        self._browsing.go_to(message.row)  # so that one comes back to what one has looked at
        self._want("look", self.file.looks, [message.row], self._looked)

    def _want(
        self, what: str, album: Album[Any], rows: list[int], show: Callable[[int, Any], None]
    ) -> None:
        """Show rows' pictures: at once if they are kept, else from a thread, once the cursor rests.

        A picture that arrives when the user browses another file is kept but not shown.
        """
        asked_of = self.file
        if what in self._resting:
            self._resting.pop(what).stop()
        missing = []
        for row in rows:
            if (kept := album.kept(row)) is not None:
                show(row, kept)
            else:
                missing.append(row)
        if not missing:
            self.workers.cancel_group(self, what)
            return

        def work() -> None:
            for row in missing:
                if get_current_worker().is_cancelled:
                    return
                found = album.make(row)
                if not get_current_worker().is_cancelled:
                    self.call_from_thread(deliver, row, found)

        def deliver(row: int, found: Any) -> None:
            if not isinstance(found, HvaeoodError):
                album.keep(row, found)
            if self.file is asked_of:
                show(row, found)

        def start() -> None:
            self.run_worker(work, group=what, thread=True, exclusive=True, exit_on_error=False)

        if self._patience:
            self._resting[what] = self.set_timer(self._patience, start)
        else:
            start()

    def _looked(self, row: int, look: Look | HvaeoodError) -> None:
        for screen in self.screen_stack:  # a dialog may stand before it
            if isinstance(screen, LookScreen):
                screen.show_look(row, look)

    def _glanced(self, row: int, image: NDArray[np.uint8] | HvaeoodError) -> None:
        screen = self._browsing
        if screen.row != row:
            return
        picture = screen.query_one("#preview", Picture)
        if isinstance(image, HvaeoodError):
            picture.say(printable(image.message))
        else:
            picture.show(image)

    def _glanced_under_map(self, row: int, look: Look | HvaeoodError) -> None:
        k = self.snapshot.view.layer
        self._glanced(row, look if isinstance(look, HvaeoodError) else under_map(look, k))

    def _thumbed(self, row: int, image: NDArray[np.uint8] | HvaeoodError) -> None:
        shown = printable(image.message) if isinstance(image, HvaeoodError) else image
        self._browsing.query_one(Gallery).show_image(row, shown)

    # -- judgements, lists, decisions ---------------------------------------------------------

    def on_judge(self, message: messages.Judge) -> None:
        scores = self.snapshot.run.scores
        before = self.snapshot.judgements.of(scores, message.row)
        mark = before.mark if message.mark is None else message.mark
        note = before.note if message.note is None else message.note
        if message.mark == "" and message.note is None:
            note = ""  # the whole judgement is taken back
        try:
            judged = judge(scores, message.row, mark, note)
        except HvaeoodError as error:
            self._complain(error)
            self._go_to(message.row)  # whoever judged it has gone on
            return
        self.file.judged.append((message.row, before))
        self._take(self.snapshot.view, judged)

    def on_undo(self) -> None:
        if not self.file.judged:
            self.notify("nothing is judged yet that could be taken back", markup=False)
            return
        row, before = self.file.judged[-1]
        scores = self.snapshot.run.scores
        with self._saying():
            self._take(self.snapshot.view, judge(scores, row, before.mark, before.note))
            self.file.judged.pop()
            self._go_to(row)
            if row not in self.snapshot.rows:
                name = printable(bytes(scores.names[row]))
                self.notify(f"{name}: it is not listed here", title="Taken back", markup=False)

    def _go_to(self, row: int) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, JudgingScreen):
                screen.go_to(row)

    def on_copy(self, message: messages.Copy) -> None:
        path = printable(bytes(self.snapshot.run.scores.names[message.row]))
        self.copy_to_clipboard(path)
        self.notify(path, title="Copied", markup=False)

    def on_write(self, message: messages.Write) -> None:
        with self._saying():
            path = Path(message.name).expanduser()
            n = taking.write_list(path, self.snapshot, message.which, message.form)
            self.notify(f"{n:,} images: {printable(str(path))}", title="Written", markup=False)

    def on_decide(self) -> None:
        threshold = self.snapshot.view.threshold
        assert isinstance(threshold, Rule)
        self._decide(self.file, threshold)

    def _decide(self, file: _File, threshold: Rule, then: Callable[[], None] | None = None) -> None:
        """Write the decision into its file, in a thread. then: runs once it is written."""
        run = file.snapshot.run
        assert run.calibration is not None
        calibration = run.calibration

        def done() -> None:
            file.safe.append(threshold)
            said = f"{words(run, threshold)}: {run.title}"
            self.notify(said, title="Decision written", markup=False)
            if then is not None:
                then()

        def work() -> None:
            try:
                write_decision(run.scores, decide(calibration, run.scores, threshold))
            except HvaeoodError as error:
                self.call_from_thread(self._complain, error)
            except OSError as error:
                reason = StoreError(
                    f"cannot write {run.scores.path}: {error.strerror or error}",
                    "copy it to a folder that can be written",
                )
                self.call_from_thread(self._complain, reason)
            else:
                self.call_from_thread(done)

        self.run_worker(work, group="decide", thread=True, exclusive=True, exit_on_error=False)

    async def action_quit(self) -> None:
        if not isinstance(self.screen, KeepThreshold):
            self._leave(self.files)

    def _leave(self, files: list[_File]) -> None:
        """Quit, once it is said what becomes of the thresholds of these files."""
        if not files:
            self.exit()
            return
        file, *following = files
        threshold = file.unsaved
        if threshold is None:
            self._leave(following)
            return

        def answered(what: str | None) -> None:
            if what == KEEP:
                assert isinstance(threshold, Rule)
                self._decide(file, threshold, lambda: self._leave(following))
            elif what == LEAVE:
                self._leave(following)

        run = file.snapshot.run
        about = f"{words(run, threshold)} is lost on leaving: {run.title} does not have it. "
        can_keep = isinstance(threshold, Rule) and run.calibration is not None
        if not isinstance(threshold, Rule):
            about += "A score is no rule, and the file keeps a rule alone; e writes a list."
        self.push_screen(KeepThreshold("Keep the threshold?", about, can_keep), answered)

    def _saying(self) -> _Saying:
        """A context in which errors that are meant for people are shown, not raised."""
        return _Saying(self._complain)

    def _complain(self, error: HvaeoodError) -> None:
        said = printable(error.message) + (f"\n{printable(error.hint)}" if error.hint else "")
        self.notify(said, title="Not done", severity="error", timeout=10, markup=False)


class _Saying:
    """A context that gives errors meant for people to `say`, and lets others pass."""

    def __init__(self, say: Callable[[HvaeoodError], None]) -> None:
        self._say = say

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, HvaeoodError):
            self._say(error)
            return True
        return False


def _first(opened: Opened, threshold: Threshold | None) -> Snapshot:
    run = opened.run
    usable = threshold if isinstance(threshold, Rule) and run.has_p else None
    return take(run, View.first(run, usable), opened.judgements)
