"""The main screen: the flags, the distribution, the table or gallery, the image at the cursor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from hvaeood_cli.text import printable
from hvaeood_cli.tui import threshold as thresholds
from hvaeood_cli.tui.cells import caption, table_cell, table_columns
from hvaeood_cli.tui.histogram import Binning, Histogram
from hvaeood_cli.tui.messages import Ask, Decide, Glance, Open, Thumbs
from hvaeood_cli.tui.run import COMBINED, Axis, Run
from hvaeood_cli.tui.screens.asking import AskText, Confirm
from hvaeood_cli.tui.screens.judging import JudgingScreen
from hvaeood_cli.tui.screens.taking import TakeAway
from hvaeood_cli.tui.taking import LISTS, rows_of
from hvaeood_cli.tui.threshold import ByScore, Threshold
from hvaeood_cli.tui.view import SHOWN, Filter, Snapshot, View, columns
from hvaeood_cli.tui.widgets.axis_bar import AxisBar
from hvaeood_cli.tui.widgets.detail import Detail, MarkChips, why_odd
from hvaeood_cli.tui.widgets.distribution import Distribution
from hvaeood_cli.tui.widgets.filter_bar import FilterBar
from hvaeood_cli.tui.widgets.flag_bar import FlagBar
from hvaeood_cli.tui.widgets.gallery import Gallery
from hvaeood_cli.tui.widgets.picture import ImageWidget, Picture
from hvaeood_cli.tui.widgets.virtual_table import VirtualTable

THRESHOLD = Binding.Group("Threshold", compact=True)
EMPTY = "nothing to list here: escape clears the filters"


class BrowseScreen(JudgingScreen):
    """Draws a snapshot, and posts what the user asks for next."""

    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (64, "-narrow"), (104, "-wide"), (128, "-roomy")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (32, "-high")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "nudge(-1)", "Looser", key_display="←", group=THRESHOLD),
        Binding("right", "nudge(1)", "Stricter", key_display="→", group=THRESHOLD),
        Binding("comma", "nudge(-1)", "Looser", show=False),
        Binding("full_stop", "nudge(1)", "Stricter", show=False),
        Binding("shift+left,less_than_sign", "nudge(-5)", "Looser by 5", show=False),
        Binding("shift+right,greater_than_sign", "nudge(5)", "Stricter by 5", show=False),
        Binding("v", "gallery", "Gallery"),
        Binding("r", "next_rule", "Next rule", show=False),
        Binding("t", "type_threshold", "Type the threshold", show=False),
        Binding("right_square_bracket", "step_k(1)", "Next k", show=False),
        Binding("left_square_bracket", "step_k(-1)", "Previous k", show=False),
        Binding("m", "next_measure", "Next measure", show=False),
        Binding("L", "log", "Log counts", show=False),
        Binding("f", "only('flagged')", "Flagged only", show=False),
        Binding("u", "only('unreadable')", "Unreadable only", show=False),
        Binding("J", "only('judged')", "Judged only", show=False),
        Binding("d", "next_differing", "Differs at k", show=False),
        Binding("slash", "find", "Find", show=False),
        Binding("escape", "clear", "Clear filters", show=False),
        Binding("s", "next_column", "Sort", show=False),
        Binding("S", "reverse", "Reverse", show=False),
        Binding("e", "take_away", "Write"),
        Binding("w", "decide", "Write decision", show=False),
    ]

    def __init__(
        self, snapshot: Snapshot, image_widget: ImageWidget | None, others: bool = False
    ) -> None:
        """others: whether there is a second file."""
        super().__init__(snapshot)
        self._others = others
        self._image_widget = image_widget
        self._layer = snapshot.view.layer  # of the preview
        self._binned: tuple[Run, Axis, int, Binning] | None = None

    def compose(self) -> ComposeResult:
        yield FlagBar()
        yield AxisBar()
        yield Distribution()
        yield FilterBar(id="filters")
        with Horizontal(id="below"):
            yield VirtualTable(EMPTY, id="images")
            yield Gallery(EMPTY, self._image_widget, self._move)
            with VerticalScroll(id="side", can_focus=False):
                yield MarkChips()
                yield Detail()
                yield Picture("", self._image_widget, id="preview")
        yield Static(id="why")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.set_class(self._image_widget is None, "-no-images")
        self.query_one(VirtualTable).focus()
        self.call_after_refresh(self.show, self.snapshot)

    def show(self, snapshot: Snapshot) -> None:
        if snapshot.run is not self.snapshot.run:  # the other file: its row is another image
            self.query_one(VirtualTable).start_over()
            self.query_one(Gallery).forget()
        self.snapshot = snapshot
        run, view = snapshot.run, snapshot.view
        self.query_one(FlagBar).show(snapshot, self._others)
        self.query_one(AxisBar).show(snapshot)
        self.query_one(FilterBar).show_filters(snapshot)
        self._plot()
        self.query_one(VirtualTable).show(
            table_columns(snapshot),
            snapshot.rows,
            table_cell(snapshot),
            (view.column, view.descending != (view.column == COMBINED and self._by_p)),
        )
        self._show_gallery()
        if view.layer != self._layer:
            self._layer = view.layer
            self.set_class(view.layer > 0, "-layer")
            self.query_one("#preview", Picture).caption(f"map of k = {view.layer}")
            self._glance()
        if not run.n_scored:
            self.query_one(Detail).update("no image of this file has scores")
        self._show_detail()

    @property
    def row(self) -> int | None:
        return self.query_one(VirtualTable).row

    @property
    def _by_p(self) -> bool:
        """Whether the first column shows p, which is least for the oddest images."""
        return self.snapshot.run.has_p

    # -- parts --------------------------------------------------------------------------------

    def _plot(self) -> None:
        snapshot, plot = self.snapshot, self.query_one(Distribution)
        run, view = snapshot.run, snapshot.view

        def count(n_bins: int) -> Histogram:
            kept = self._binned
            if kept is None or kept[0] is not run or kept[1:3] != (view.axis, n_bins):
                binning = Binning(run, view.axis, run.shown_range(view.axis), n_bins)
                self._binned = kept = (run, view.axis, n_bins, binning)
            return kept[3].count(snapshot.flags.flagged)

        plot.show(count, thresholds.line_on(run, snapshot.flags, view.axis), view.log)

    def _show_detail(self) -> None:
        row = self.row
        why = self.query_one("#why", Static)
        if row is None:
            why.update("", layout=False)
            return
        if why.display:
            why.update(Content(why_odd(self.snapshot, row)), layout=False)
        if self.query_one(Detail).display:
            self.query_one(Detail).show(self.snapshot, row)
            self.query_one(MarkChips).show_marks(self.snapshot, row)

    def _show_gallery(self) -> None:
        if self.has_class("-gallery"):
            snapshot, cursor = self.snapshot, self.query_one(VirtualTable).cursor
            self.query_one(Gallery).show(snapshot.rows, cursor, partial(caption, snapshot))

    def _glance(self) -> None:
        """Ask for the image under the cursor, if there is a place for it that can be seen."""
        wanted = self.query_one("#side").display and self._image_widget is not None
        if wanted and self.row is not None and self.is_current:
            self.post_message(Glance(self.row))

    # -- what the user does -------------------------------------------------------------------

    @on(VirtualTable.Moved)
    def moved(self) -> None:
        self._show_detail()
        self._show_gallery()
        self._glance()

    @on(events.ScreenResume)
    @on(events.Resize)
    def seen_anew(self) -> None:
        """What there is a place for may have changed, and the image under the cursor too."""
        self.call_after_refresh(self._show_detail)
        self.call_after_refresh(self._glance)

    @on(VirtualTable.Opened)
    @on(Gallery.Opened)
    def opened(self, event: VirtualTable.Opened | Gallery.Opened) -> None:
        self.post_message(Open(event.row))

    @on(Gallery.Wanted)
    def wanted(self, event: Gallery.Wanted) -> None:
        self.post_message(Thumbs(event.rows))

    def go_to(self, row: int) -> None:
        self.query_one(VirtualTable).go_to(row)

    def action_step(self, step: int) -> None:
        self._move(step)

    def _move(self, step: int) -> int:
        """Move the cursor that table and gallery share; returns its place."""
        table = self.query_one(VirtualTable)
        table.action_move(step)
        return table.cursor

    def action_gallery(self) -> None:
        """Show the list as pictures, or as a table again."""
        if self._image_widget is None:
            self.notify("images are off: --images auto draws them", severity="warning")
            return
        self.toggle_class("-gallery")
        shown = Gallery if self.has_class("-gallery") else VirtualTable
        self.query_one(shown).focus()
        self._show_gallery()
        self.seen_anew()

    @on(VirtualTable.SortAsked)
    def sort_asked(self, event: VirtualTable.SortAsked) -> None:
        column = next(c for c in columns(self.snapshot.run) if c == event.key)
        self.post_message(Ask(lambda now: now.view.sorted_by(column)))

    @on(Distribution.Pointed)
    def pointed(self, event: Distribution.Pointed) -> None:
        value = event.value
        self._ask_threshold(
            lambda now: thresholds.pointed_at(now.run, now.view.threshold, now.view.axis, value)
        )

    @on(Distribution.Nudged)
    def nudged(self, event: Distribution.Nudged) -> None:
        self.action_nudge(event.steps)

    def action_nudge(self, steps: int) -> None:
        self._ask_threshold(lambda now: thresholds.moved(now.run, now.view.threshold, steps))

    def action_rule(self, kind: str) -> None:
        self.post_message(Ask(lambda now: now.with_rule(kind)))

    def action_next_rule(self) -> None:
        kinds = thresholds.kinds(self.snapshot.run)
        here = thresholds.kind_of(self.snapshot.view.threshold)
        self.action_rule(kinds[(kinds.index(here) + 1) % len(kinds)])

    def action_type_threshold(self) -> None:
        run, threshold = self.snapshot.run, self.snapshot.view.threshold

        def take(text: str | None) -> None:
            if text is not None:
                self._ask_threshold(
                    lambda now: thresholds.asked(now.run, now.view.threshold, _number(text))
                )

        by_score = isinstance(threshold, ByScore)
        value = threshold.value if isinstance(threshold, ByScore) else threshold.level
        about = f"now {thresholds.words(run, threshold)}"
        title = "Threshold, a score" if by_score else "Level, such as 0.01 or 1%"
        dialog = AskText(
            title,
            about,
            f"{value:.6g}",
            lambda text: thresholds.asked(run, threshold, _number(text)),
        )
        self.app.push_screen(dialog, take)

    def action_axis(self, measure: str, k: int) -> None:
        axis = self.snapshot.run.axis_near(measure, k)
        self.post_message(Ask(lambda now: now.with_axis(axis)))

    def action_step_k(self, step: int) -> None:
        axis = self.snapshot.view.axis
        axes = self.snapshot.run.axes(axis.measure)
        self.action_axis(axis.measure, axes[(axes.index(axis) + step) % len(axes)].k)

    def action_next_measure(self) -> None:
        axis, measures = self.snapshot.view.axis, self.snapshot.run.measures
        following = measures[(measures.index(axis.measure) + 1) % len(measures)]
        self.action_axis(following, axis.k)

    def action_log(self) -> None:
        self.post_message(Ask(lambda now: replace(now.view, log=not now.view.log)))

    def action_only(self, shown: str) -> None:
        def change(now: Filter) -> Filter:
            return replace(now, shown=SHOWN[0] if now.shown == shown else shown)

        self._ask_filter(change)

    def action_differing(self, k: int) -> None:
        self._ask_filter(lambda now: replace(now, k=0 if now.k == k else k))

    def action_next_differing(self) -> None:
        n_layers = self.snapshot.run.n_layers
        self._ask_filter(lambda now: replace(now, k=(now.k + 1) % n_layers))

    def action_find(self) -> None:
        def take(text: str | None) -> None:
            if text is not None:
                self._ask_filter(lambda now: replace(now, text=text))

        about = "part of the path; empty lists all"
        self.app.push_screen(AskText("Find", about, self.snapshot.view.filter.text), take)

    def action_clear(self) -> None:
        self._ask_filter(lambda now: Filter())

    def action_next_column(self) -> None:
        def change(now: Snapshot) -> View:
            shown = [head.key for head in table_columns(now)]
            keys = [column for column in columns(now.run) if column in shown]
            following = keys[(keys.index(now.view.column) + 1) % len(keys)]
            return now.view.sorted_by(following)

        self.post_message(Ask(change))

    def action_reverse(self) -> None:
        self.post_message(Ask(lambda now: now.view.sorted_by(now.view.column)))

    def action_take_away(self) -> None:
        counts = {name: len(rows_of(self.snapshot, name)) for name in LISTS}
        stem = self.snapshot.run.scores.path.stem

        def take(message: object) -> None:
            if message is not None:
                self.post_message(message)  # type: ignore[arg-type]

        self.app.push_screen(TakeAway(printable(stem), counts), take)

    def action_decide(self) -> None:
        run, threshold = self.snapshot.run, self.snapshot.view.threshold
        if isinstance(threshold, ByScore):
            how = "r chooses FPR or FDR" if run.calibration else "hvaeood calibrate comes first"
            self.notify(
                f"a score is no rule, and the file keeps a rule alone: {how}",
                severity="warning",
                markup=False,
            )
            return

        if run.calibration is None:
            self.notify(run.why_not, title="Not decided anew", severity="warning", markup=False)
            return

        def take(yes: bool | None) -> None:
            if yes:
                self.post_message(Decide())

        about = f"{thresholds.words(run, threshold)} into {run.title}; its scores stay as they are"
        self.app.push_screen(Confirm("Write the decision?", about), take)

    def _ask_threshold(self, change: Callable[[Snapshot], Threshold]) -> None:
        self.post_message(Ask(lambda now: now.view.flagging(change(now))))

    def _ask_filter(self, change: Callable[[Filter], Filter]) -> None:
        self.post_message(Ask(lambda now: replace(now.view, filter=change(now.view.filter))))


def _number(text: str) -> float:
    """The number that a text says; `1%` is 0.01. Raises ValueError."""
    text = text.strip()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
