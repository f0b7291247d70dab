"""What a person can do in the workbench, by key and by mouse."""

from __future__ import annotations

import csv
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.command import CommandPalette
from textual.widgets import Input

from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.store.columns import columns
from hvaeood_cli.store.decision import Rule
from hvaeood_cli.store.judgements import judgements_path, read_judgements
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.tui.messages import Open
from hvaeood_cli.tui.run import COMBINED, Axis, P
from hvaeood_cli.tui.screens.all_k import AllKScreen
from hvaeood_cli.tui.screens.compare import CompareScreen
from hvaeood_cli.tui.screens.help import HelpScreen
from hvaeood_cli.tui.screens.look import LookScreen
from hvaeood_cli.tui.threshold import ByScore
from hvaeood_cli.tui.widgets.chips import Chips
from hvaeood_cli.tui.widgets.distribution import Distribution
from hvaeood_cli.tui.widgets.gallery import Thumb
from hvaeood_cli.tui.widgets.picture import Picture
from hvaeood_cli.tui.widgets.virtual_table import VirtualTable
from tests.tui_app import (
    browse,
    calibration,
    drive,
    mixed,
    opened,
    picture,
    press,
    reconstruct,
    said,
    scores,
    settle,
    text_of,
)

__all__ = ["calibration", "mixed", "scores"]  # fixtures


@pytest.fixture
def file(scores, calibration):
    return opened(scores, calibration)


@pytest.fixture
def bare(scores):
    return opened(scores, None)


async def click_chip(pilot, app, chips: str, text: str) -> None:
    """Click the chip that reads `text`."""
    widget = app.screen.query_one(chips, Chips)
    place = widget.render_line(0).text.index(f" {text} ") + 1
    await pilot.click(widget, offset=(place + widget.gutter.left, 0))
    await settle(pilot)


# -- 1 see ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(140, 45), (80, 24)])
def test_see_every_k_of_every_measure(file, size):
    async def steps(pilot, app):
        run, seen = app.snapshot.run, []
        for measure in run.measures:
            for _ in run.axes(measure):
                seen.append(app.snapshot.view.axis)
                chips = app.screen.query_one("#axes", Chips).render_line(0).text
                assert f" {run.heading(measure)} " in chips  # however many there are
                await press(pilot, "]")
            await press(pilot, "m")
        assert len(run.measures) == 11
        assert sorted(seen) == sorted(axis for name in run.measures for axis in run.axes(name))
        while app.snapshot.view.axis != Axis("llr", 2):
            await press(pilot, "[")
        await press(pilot, "L")
        assert app.snapshot.view.axis == Axis("llr", 2) and not app.snapshot.view.log
        if size[0] > 80:  # there is room for a legend
            assert "LLR>2, nats" in text_of(app) and "─ calibration" in text_of(app)

    drive(file, steps, size=size)


def test_see_by_mouse(file):
    async def steps(pilot, app):
        await click_chip(pilot, app, "#axes", "2")
        await click_chip(pilot, app, "#axes", "bits/dim")
        assert app.snapshot.view.axis == Axis("bits_per_dim", 0)
        await click_chip(pilot, app, "#axes", "log")
        assert not app.snapshot.view.log
        await click_chip(pilot, app, "#rules", "all k")
        assert isinstance(app.screen, AllKScreen)

    drive(file, steps)


def test_all_k_side_by_side(file):
    async def steps(pilot, app):
        await press(pilot, "a")
        assert len(app.screen.query(Distribution)) == 3
        text = text_of(app)
        assert all(word in text for word in ("combined score", "LLR>1", "LLR>2", "flagged"))
        await press(pilot, "escape")
        assert app.screen is browse(app)

    drive(file, steps)


# -- 2 the threshold ------------------------------------------------------------------------------


def test_move_the_threshold_by_keys(file):
    async def steps(pilot, app):
        before = app.snapshot.flags.n_flagged
        assert app.snapshot.view.threshold == Rule("fpr", 0.01)
        await press(pilot, "shift+left", "shift+left", "left")
        loose = app.snapshot.flags
        assert loose.threshold.level > 0.03 and loose.n_flagged >= before
        expected = f"about {loose.expected:,.1f} would be"
        assert f"{loose.n_flagged} flagged" in text_of(app) and expected in text_of(app)
        await press(pilot, *["shift+right"] * 11)
        assert app.snapshot.view.threshold.level == pytest.approx(1 / 3501, rel=0.02)
        for kind in ("fdr", "fdr-by"):
            await press(pilot, "r")
            assert app.snapshot.view.threshold.kind == kind
            assert "at most belong" in text_of(app)
        await press(pilot, "r")
        assert app.snapshot.view.threshold.axis == COMBINED
        await press(pilot, "]")
        assert app.snapshot.view.threshold.axis == Axis("llr", 1)
        n = app.snapshot.flags.n_flagged
        await press(pilot, *["shift+right"] * 6)
        assert app.snapshot.flags.n_flagged < n and "FPR about" in text_of(app)

    drive(file, steps)


def test_type_the_threshold(file):
    async def steps(pilot, app):
        await press(pilot, "t")
        await press(pilot, *"5%", "enter")
        assert app.snapshot.view.threshold == Rule("fpr", 0.05)
        await press(pilot, "t")
        await press(pilot, *"1e-9", "enter")
        assert "can give" in text_of(app)
        app.screen.query_one(Input).value = "x"
        await press(pilot, "enter")
        assert "that is no number" in text_of(app)
        await press(pilot, "escape")
        assert app.snapshot.view.threshold == Rule("fpr", 0.05)

    drive(file, steps)


def test_move_the_threshold_by_mouse(file):
    async def steps(pilot, app):
        plot = app.screen.query_one(Distribution)
        await pilot.click(plot, offset=(20, 4))
        await settle(pilot)
        near = app.snapshot.view.threshold.level
        await pilot.click(plot, offset=(60, 4))
        await settle(pilot)
        assert app.snapshot.view.threshold.level < near
        await click_chip(pilot, app, "#rules", "◂ looser")
        await click_chip(pilot, app, "#rules", "FDR")
        assert app.snapshot.view.threshold.kind == "fdr"
        await click_chip(pilot, app, "#axes", "1")
        await pilot.click(plot, offset=(60, 4))
        await settle(pilot)
        assert app.snapshot.view.threshold.axis == Axis("llr", 1)

    drive(file, steps)


def test_the_table_follows(file):
    async def steps(pilot, app):
        await press(pilot, "f", "shift+left", "shift+left")
        assert len(app.snapshot.rows) == app.snapshot.flags.n_flagged
        assert app.snapshot.flags.flagged[app.snapshot.rows].all()

    drive(file, steps)


# -- 3 browse -------------------------------------------------------------------------------------


def test_sort_by_keys_and_by_heads(file):
    async def steps(pilot, app):
        seen = []
        for _ in range(6):
            await press(pilot, "s")
            seen.append(app.snapshot.view.column)
        assert len(set(seen)) == 6
        await press(pilot, "S")
        assert not app.snapshot.view.descending
        table = app.screen.query_one(VirtualTable)
        place = table.render_line(0).text.index("LLR>2")
        await pilot.click(table, offset=(place + table.gutter.left, 0))
        await settle(pilot)
        assert app.snapshot.view.column == Axis("llr", 2)
        llr = app.snapshot.run.scores.llr[app.snapshot.rows[:200], 1]
        assert (np.diff(llr) <= 0).all() and table.cursor == 0

    drive(file, steps)


def test_filter_by_keys(file):
    async def steps(pilot, app):
        await press(pilot, "u")
        assert len(app.snapshot.rows) == 1 and "cut [red].png" in text_of(app)
        assert "not scored: damaged" in text_of(app) and "hvaeood score again" in text_of(app)
        await press(pilot, "escape", "d")
        assert app.snapshot.view.filter.k == 1
        await press(pilot, "escape", "slash", *"/01", "enter")
        assert len(app.snapshot.rows) == 10
        await press(pilot, "J")
        assert "nothing to list here" in text_of(app)
        await press(pilot, "enter", "n", "1", "y")  # nothing at hand: nothing happens
        await press(pilot, "escape")
        assert len(app.snapshot.rows) == 201

    drive(file, steps)


def test_filter_by_mouse(file):
    async def steps(pilot, app):
        n = app.snapshot.flags.n_flagged
        await click_chip(pilot, app, "#filters", f"flagged {n}")
        assert len(app.snapshot.rows) == n
        await click_chip(pilot, app, "#filters", "2")
        assert app.snapshot.view.filter.k == 2
        await click_chip(pilot, app, "#filters", f"clear ({len(app.snapshot.rows)} listed)")
        assert len(app.snapshot.rows) == 201
        table = app.screen.query_one(VirtualTable)
        await pilot.click(table, offset=(20, 5))
        await settle(pilot)
        assert table.cursor == 4
        await pilot.click(table, offset=(20, 6), times=2)
        await settle(pilot)
        assert isinstance(app.screen, LookScreen) and app.screen.row == app.snapshot.rows[5]

    drive(file, steps)


def test_the_cursor_stays_on_its_image_and_in_sight(file):
    async def steps(pilot, app):
        table = app.screen.query_one(VirtualTable)
        await press(pilot, "pagedown", "pagedown", "down", "up")
        row = table.row
        await press(pilot, "shift+left", "u", "u")
        await press(pilot, "end")
        assert table.cursor == 200
        await press(pilot, "home")
        assert table.cursor == 0 and row is not None
        await press(pilot, "down", "down")
        row = table.row
        await press(pilot, "f")
        assert table.row == row
        for key in ("end", "pageup", "home", "pagedown"):
            await press(pilot, key)
            top = int(table.scroll_offset.y)
            assert top <= table.cursor < top + table.size.height - 1

    drive(file, steps)


# -- 4 look ---------------------------------------------------------------------------------------


def test_look_at_an_image_and_the_next(file):
    async def steps(pilot, app):
        await press(pilot, "enter")
        screen = app.screen
        row = screen.row
        assert len(screen.query(Picture)) == 8
        image = screen.query_one("#image .image").image
        assert image.size == (280, 280)
        assert np.array_equal(np.asarray(image)[::10, ::10], picture(row))
        await press(pilot, "j", "l", "k", "h")
        assert screen.row == row
        text = text_of(app)
        assert "1 of 201" in text and "log p(x|z)" in text and "pctile" in text
        await press(pilot, "right", "right")
        assert screen.row == app.snapshot.rows[2]
        await press(pilot, "left", "d")
        assert screen.row == app.snapshot.rows[1] and screen.has_class("-differences")
        await press(pilot, "escape")
        assert app.screen is browse(app)

    drive(file, steps, images=True)


def test_an_image_that_is_gone_and_one_that_changed(file):
    async def steps(pilot, app):
        await press(pilot, "s", "s", "s", "s", "s")  # by path
        await press(pilot, "down", "enter")
        assert app.screen.row == 1
        assert "another image now" in text_of(app) and "hvaeood score again" in text_of(app)
        await press(pilot, "right")
        assert "no such file" in text_of(app)
        await press(pilot, "right")
        assert "no such file" not in text_of(app)
        assert "another image" not in text_of(app)

    drive(file, steps)


def test_a_model_that_fails_is_said(file):
    def fail(row):
        raise RuntimeError("out of [memory]\x1b[2J")

    async def steps(pilot, app):
        await press(pilot, "enter")
        assert "RuntimeError: out of [memory]\\x1b[2J" in text_of(app)

    drive(replace(file, look=fail, glance=fail), steps)


def test_without_the_model_there_is_the_image(file):
    def alone(row):
        return reconstruct(row)._replace(from_k=np.zeros((0, 1, 1, 1), np.float32))

    async def steps(pilot, app):
        await press(pilot, "enter")
        assert "--model FOLDER says where it is" in text_of(app)
        assert len(app.screen.query(Picture)) == 2

    drive(replace(file, look=alone, no_model="no model: --model FOLDER says where it is"), steps)


def test_without_images(file):
    async def steps(pilot, app):
        await press(pilot, "enter")
        assert "images are off" in text_of(app)

    drive(file, steps)


def test_the_screen_does_not_wait_for_pictures_and_keeps_them(file):
    asked, free = [], threading.Event()

    def slow(row):
        asked.append(row)
        if len(asked) == 1:
            free.wait(10)
        return reconstruct(row)

    async def steps(pilot, app):
        await pilot.press("enter")
        await pilot.pause()
        assert "…" in text_of(app)
        await pilot.press("right")
        await pilot.pause()
        assert app.screen.row == app.snapshot.rows[1]
        free.set()
        await settle(pilot)
        shown = app.screen.query_one("#image .image").image
        assert np.array_equal(np.asarray(shown)[::10, ::10], picture(app.screen.row))
        n = len(asked)
        await press(pilot, "right", "left", "right", "left")
        assert len(asked) <= n + 1

    drive(replace(file, look=slow), steps, images=True)


# -- 5 judge and take away ------------------------------------------------------------------------


def test_judge_by_keys(file, scores):
    async def steps(pilot, app):
        row = browse(app).row
        await press(pilot, "1")
        assert read_judgements(scores.path).of(scores, row).mark == "ood"
        assert "OOD" in text_of(app) and browse(app).row == app.snapshot.rows[1]
        await press(pilot, "up", "n")
        await press(pilot, *"[b]shoe", "enter")
        await press(pilot, "enter", "2")
        found = read_judgements(scores.path).of(scores, row)
        assert (found.mark, found.note) == ("fine", "[b]shoe")
        assert app.screen.row == app.snapshot.rows[1], "the next image"
        await press(pilot, "left")
        assert "[b]shoe" in text_of(app)
        await press(pilot, "escape", "J")
        assert list(app.snapshot.rows) == [row]
        await press(pilot, "0")
        assert not read_judgements(scores.path).of(scores, row) and not len(app.snapshot.rows)

    drive(file, steps)


def test_judge_by_mouse(file, scores):
    async def steps(pilot, app):
        row = browse(app).row
        await click_chip(pilot, app, "MarkChips", "3 unsure")
        assert read_judgements(scores.path).of(scores, row).mark == "unsure"

    drive(file, steps)


def test_a_sidecar_that_gets_damaged_is_left_alone(file, scores):
    async def steps(pilot, app):
        judgements_path(scores.path).write_text("{")
        await press(pilot, "1")
        assert "not a whole file of judgements" in said(app)
        assert judgements_path(scores.path).read_text() == "{"

    drive(file, steps)


def test_write_a_list(file):
    async def steps(pilot, app):
        await press(pilot, "e", "enter")
        with Path("mixed.flagged.csv").open(newline="") as found:
            assert len(list(csv.DictReader(found))) == app.snapshot.flags.n_flagged
        await press(pilot, "e", "enter")
        assert "is there already" in said(app)
        await press(pilot, "e")
        await pilot.click("#which RadioButton:last-of-type")
        await pilot.click("#form RadioButton:last-of-type")
        await settle(pilot)
        assert app.screen.query_one(Input).value == "mixed.shown.list"
        await pilot.click("#write")
        await settle(pilot)
        assert Path("mixed.shown.list").read_bytes().count(b"\0") == 201

    drive(file, steps)


def test_copy_a_path(file):
    async def steps(pilot, app):
        await press(pilot, "u", "y")
        assert app.clipboard == "examples/mixed/cut [red].png"

    drive(file, steps)


def test_write_the_decision(file, scores):
    async def steps(pilot, app):
        await press(pilot, "r", "w", "n")
        assert read_scores(scores.path).decision is None
        await press(pilot, "w", "y")
        decision = read_scores(scores.path).decision
        assert (decision.rule, decision.level) == ("fdr", 0.01)
        assert np.array_equal(decision.flagged, app.snapshot.flags.flagged)
        await press(pilot, "r", "r", "w")
        assert "a score is no rule" in said(app)

    drive(file, steps)
    again = opened(read_scores(scores.path), file.run.calibration)

    async def kept(pilot, app):
        assert app.snapshot.view.threshold == Rule("fdr", 0.01)

    drive(again, kept)


# -- 6 compare ------------------------------------------------------------------------------------


def test_compare_two_files(file, bare, calibration):
    async def steps(pilot, app):
        await press(pilot, "c")
        assert isinstance(app.screen, CompareScreen)
        assert "200 images in both files" in text_of(app)
        await press(pilot, "]", "[", "m", "L", "s", "S")
        table = app.screen.query_one(VirtualTable)
        await pilot.click(table, offset=(10, 0))
        await settle(pilot)
        await press(pilot, "end", "home")
        table.focus()
        await press(pilot, "enter")
        assert isinstance(app.screen, LookScreen), "an image that both have can be looked at"
        assert "of 201" in text_of(app)
        await press(pilot, "escape", "escape", "x")
        assert app.snapshot.run is app.files[1].opened.run
        if app.size.width > 80:
            await click_chip(pilot, app, "#rules", "compare")
            assert isinstance(app.screen, CompareScreen)

    drive([file, bare], steps)


def test_one_file_is_not_compared(file):
    async def steps(pilot, app):
        await press(pilot, "c", "x")
        assert app.screen is browse(app)

    drive(file, steps)


# -- 7 find one's way -----------------------------------------------------------------------------


def test_help_palette_and_themes(file):
    async def steps(pilot, app):
        await press(pilot, "question_mark")
        assert isinstance(app.screen, HelpScreen) and "by the plotted score" in text_of(app)
        await press(pilot, "escape")
        names = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Write", "Next k", "Theme", "Write decision"} <= names
        for theme in ("textual-light", "ansi-dark"):
            app.theme = theme
            await settle(pilot)
            await press(pilot, "]")
        await press(pilot, "ctrl+p")
        assert isinstance(app.screen, CommandPalette)
        await press(pilot, "escape", "q")

    drive(file, steps)


@pytest.mark.parametrize("size", [(30, 8), (200, 60)])
def test_any_size(file, size):
    async def steps(pilot, app):
        await press(pilot, "enter", "escape", "a", "escape", "end", "e", "escape", "v", "k")
        await pilot.resize_terminal(100, 30)
        await press(pilot, "down", "question_mark", "escape")

    drive([file, file], steps, size=size, images=True)


# -- what is missing ------------------------------------------------------------------------------


def test_without_a_calibration(bare):
    async def steps(pilot, app):
        assert isinstance(app.snapshot.view.threshold, ByScore)
        text = text_of(app)
        assert "no error rate without a calibration" in text
        assert "hvaeood calibrate HELD-OUT-IMAGES" in text and "combined" in text
        await press(pilot, "r", "right", "]", "m", "m", "enter", "escape", "a", "escape", "w")
        assert P not in app.snapshot.run.measures
        await press(pilot, "t", *"4", "enter")

    drive(bare, steps)


def test_without_any_scores(scores, calibration):
    n = len(scores)
    nothing = {
        column.name: np.full_like(scores[column.name], np.nan)
        for column in columns("scores", asked=())
    }
    nothing["status"] = np.full(n, 2, np.int8)
    empty = replace(scores, columns=scores.columns | nothing)

    async def steps(pilot, app):
        assert "0 flagged of 0" in text_of(app)
        keys = ["]", "m", "r", "v", "j", "v", "right", "r", "r", "right", "s", "f", "escape"]
        await press(pilot, *keys, "enter", "escape", "a", "escape", "c", "escape", "e", "escape")

    drive([opened(empty, calibration), opened(empty, None)], steps)


def test_hostile_names_change_nothing(scores, calibration):
    names = scores.names.astype("S400")
    hostile = [b"\x1b]0;title\x07", b"[red]x[/red]", b"a\nb\r\tc", b"\xff\xfe", b"x" * 300]
    hostile += ["\u202egnp.exe".encode(), "漢字" * 40, b"[@click=app.quit]q[/]", b"\x9b2J"]
    hostile = [name.encode() if isinstance(name, str) else name for name in hostile]
    names[: len(hostile)] = hostile
    odd = opened(replace(scores, names=names), calibration)

    async def steps(pilot, app):
        await press(pilot, *["s"] * 5)
        for column in (0, 1):
            text = text_of(app)
            assert not any(c in text for c in "\x1b\x07\r\t\u202e\x9b")
            assert "[red]x[/red]" in text or column
            await press(pilot, "S")
        app.post_message(Open(int(app.snapshot.rows[-1])))
        await press(pilot, "y")
        for _ in hostile[:6]:
            await press(pilot, "n")
            text = text_of(app)
            assert not any(c in text for c in "\x1b\x07\r\t\u202e\x9b")
            await press(pilot, "escape", "left")

    drive(odd, steps)


def test_an_error_has_no_traceback(file):
    async def steps(pilot, app):
        with app._saying():
            raise HvaeoodError("[red]what", "do this")
        await settle(pilot)
        assert "[red]what" in said(app) and "do this" in said(app)

    drive(file, steps)


def test_the_other_file_shows_its_own_image(scores, calibration):
    """The cursor stands on a row of the same number, which is another image."""
    first = opened(scores, calibration, glance=lambda row: np.full((8, 8), 10, np.uint8))
    second = opened(scores, calibration, glance=lambda row: np.full((8, 8), 200, np.uint8))
    seen = []

    async def steps(pilot, app):
        for _ in range(3):
            image = app.screen.query_one("#preview .image").image
            seen.append(int(np.asarray(image)[0, 0]))
            await press(pilot, "x")

    drive([first, second], steps, size=(140, 45), images=True)
    assert seen == [10, 200, 10]


def test_a_decision_is_not_written_over_other_scores(scores, calibration):
    """Somebody scored into the file since it was opened."""
    from hvaeood_cli.store.writer import write_scores
    from tests.tui_files import make_scores

    async def steps(pilot, app):
        write_scores(scores.path, make_scores(7))
        await press(pilot, "w", "y")
        assert any("scored anew" in toast.message for toast in app._notifications)

    drive(opened(scores, calibration), steps)
    assert len(read_scores(scores.path)) == 7 and read_scores(scores.path).decision is None


def test_a_picture_that_comes_under_a_dialog_is_not_lost(scores, calibration):
    """The first look takes seconds; one may write a note meanwhile."""
    came = threading.Event()

    def slow(row):
        came.wait(10)
        return reconstruct(row)

    async def steps(pilot, app):
        await pilot.press("enter", "n")
        await pilot.pause()
        assert not isinstance(app.screen, LookScreen)
        came.set()
        await settle(pilot)
        await press(pilot, "escape")
        assert isinstance(app.screen, LookScreen)
        assert app.screen.query_one("#image", Picture).query_one(".image").image is not None

    drive(opened(scores, calibration, look=slow), steps, images=True)


# -- 8 the gallery --------------------------------------------------------------------------------


def shown(app) -> dict[int, np.ndarray]:
    """The pictures of the gallery, by row."""
    thumbs = [thumb for thumb in app.screen.query(Thumb) if thumb.row is not None]
    images = {thumb.row: thumb.query_one(".image").image for thumb in thumbs}
    return {row: np.asarray(image) for row, image in images.items() if image is not None}


@pytest.mark.parametrize(("size", "n"), [((80, 24), 8), ((140, 45), 16), ((20, 10), 1)])
def test_the_gallery_shows_the_list_as_pictures(file, size, n):
    async def steps(pilot, app):
        await press(pilot, "v")
        rows = app.snapshot.rows[:n]
        assert len(app.screen.query(Thumb)) == n
        assert list(shown(app)) == [row for row in rows if row != 2], "in the table's order"
        assert all((image[::10, ::10] == picture(row)).all() for row, image in shown(app).items())
        text = text_of(app)
        assert n == 1 or "● 0.000" in text
        await press(pilot, "f", "S")
        assert list(shown(app)) == list(app.snapshot.rows[:n]), "of the list as it is filtered"
        await press(pilot, "v")
        assert app.screen.query_one(VirtualTable).display

    drive(file, steps, size=size, images=True)


def test_move_in_the_gallery(file):
    async def steps(pilot, app):
        await press(pilot, "v")
        table = app.screen.query_one(VirtualTable)
        places = []
        for key in ("right", "l", "down", "j", "left", "h", "up", "k", "k", "end", "j", "home"):
            await press(pilot, key)
            places.append(table.cursor)
        assert places == [1, 2, 6, 10, 9, 8, 4, 0, 0, 200, 200, 0]
        await press(pilot, "end")
        chosen = [thumb for thumb in app.screen.query(Thumb) if thumb.has_class("-chosen")]
        assert [thumb.row for thumb in chosen] == [app.snapshot.rows[200]]
        await press(pilot, "up", "right", "down")
        assert table.cursor == 200, "a short last line takes what comes"
        await press(pilot, "pageup", "pageup", "pagedown", "home", "j", "enter")
        assert isinstance(app.screen, LookScreen) and app.screen.row == app.snapshot.rows[4]
        await press(pilot, "right", "escape")
        assert browse(app).row == app.snapshot.rows[5], "one comes back to what one looked at"
        await pilot.click(app.screen.query(Thumb)[1])
        await settle(pilot)
        assert browse(app).row == app.screen.query(Thumb)[1].row
        await pilot.click(app.screen.query(Thumb)[2], times=2)
        await settle(pilot)
        assert isinstance(app.screen, LookScreen)

    drive(file, steps, size=(80, 24), images=True)


def test_keys_pressed_fast_are_not_lost(file, scores):
    async def steps(pilot, app):
        await press(pilot, "v")
        await press(pilot, *"ll11h2")
        marks = [read_judgements(scores.path).of(scores, row).mark for row in app.snapshot.rows[:5]]
        assert marks == ["", "", "ood", "fine", ""]
        assert browse(app).row == app.snapshot.rows[4]

    drive(file, steps, size=(80, 24), images=True)


def test_the_gallery_reads_only_what_is_in_sight(scores, calibration):
    asked = []

    def glance(row):
        asked.append(row)
        return picture(row)

    async def steps(pilot, app):
        asked.clear()
        await press(pilot, "v")
        await press(pilot, "down", "down", "up", "up")
        assert sorted(asked) == sorted(set(asked)), "each once"
        seen = {int(row) for row in app.snapshot.rows[:12]}
        assert set(asked) <= seen and len(asked) >= 11

    drive(opened(scores, calibration, glance=glance), steps, size=(80, 24), images=True)


def test_the_gallery_of_a_million(calibration):
    from tests.tui_files import make_scores

    many = make_scores(1000)
    many = replace(
        many,
        names=np.tile(many.names, 1000),
        columns={name: np.tile(v, (1000, 1)[: v.ndim]) for name, v in many.columns.items()},
    )

    async def steps(pilot, app):
        await press(pilot, "v", "end")
        assert browse(app).row == app.snapshot.rows[-1]
        assert len(app.screen.query(Thumb)) == 8

    drive(opened(many, None), steps, size=(80, 24), images=True)


def test_pictures_are_of_one_size(scores, calibration):
    """Whatever the images' own sizes."""
    shapes = [(28, 28), (10, 40), (300, 200, 3), (1, 1), (2000, 900)]

    def image(row):
        return np.full(shapes[row % len(shapes)], 128, np.uint8)

    def look(row):
        return reconstruct(row)._replace(image=image(row))

    async def steps(pilot, app):
        await press(pilot, "v")
        sizes = {thumb.query_one(".image").size for thumb in app.screen.query(Thumb)}
        assert sizes == {(16, 8)}
        kept = app.file.glances.kept(4)
        assert kept is None or max(kept.shape) <= 384, "a large image is not kept whole"
        for _ in shapes:
            await press(pilot, "enter")
            pictures = app.screen.query("#pictures .image")
            assert len({picture.size for picture in pictures}) == 1 and len(pictures) == 4
            await press(pilot, "escape", "right")

    file = opened(scores, calibration, glance=image, look=look)
    drive(file, steps, size=(80, 24), images=True)


def test_the_gallery_says_what_cannot_be_shown(file, bare):
    async def without_images(pilot, app):
        await press(pilot, "v")
        assert "images are off" in said(app)
        assert app.screen.query_one(VirtualTable).display

    async def steps(pilot, app):
        await press(pilot, "s", "s", "s", "s", "s", "v")  # by path: the third image is gone
        assert "no such file" in text_of(app)
        await press(pilot, "J")
        assert "nothing to list here" in text_of(app)
        await press(pilot, "j", "h", "enter", "1", "end", "pagedown", "escape", "x", "v", "x")

    drive(file, without_images)
    drive([file, bare], steps, size=(80, 24), images=True)


def test_the_image_and_why_on_a_small_screen(file):
    async def steps(pilot, app):
        image = app.screen.query_one("#preview .image")
        assert image.region.right <= 80 and image.size == (18, 9)
        row = browse(app).row
        (reason,) = reasons(file.run.calibration, file.run.scores, [row])
        why = " ".join(text_of(app).split())
        assert reason.sentence in why
        await press(pilot, "j")
        assert browse(app).row == app.snapshot.rows[1]
        assert (np.asarray(image.image)[::10, ::10] == picture(browse(app).row)).all()

    drive(file, steps, size=(80, 24), images=True)


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
def test_why_beside_the_image(file, bare, size):
    async def calibrated(pilot, app):
        row = browse(app).row
        (reason,) = reasons(file.run.calibration, file.run.scores, [row])
        await press(pilot, "enter")
        assert reason.sentence in " ".join(text_of(app).split())
        usual = next(r for r in app.snapshot.rows if (file.run.p_of(int(r), 0) or 0) > 0.5)
        app.screen.go_to(int(usual))
        await settle(pilot)
        assert "spreads" not in text_of(app), "nothing is odd about it"

    async def uncalibrated(pilot, app):
        await press(pilot, "enter")
        assert "of usual images" not in text_of(app)

    drive(file, calibrated, size=size)
    drive(bare, uncalibrated, size=size)


# -- 9 judge one after another --------------------------------------------------------------------


@pytest.mark.parametrize("where", [(), ("enter",), ("v",)])
def test_judging_goes_on_and_is_taken_back(file, scores, where):
    async def steps(pilot, app):
        await press(pilot, *where)
        first, second, third = map(int, app.snapshot.rows[:3])

        def mark(row):
            return read_judgements(scores.path).of(scores, row).mark

        await press(pilot, "1", "2")
        assert (mark(first), mark(second)) == ("ood", "fine") and app.screen.row == third
        await press(pilot, "z")
        assert mark(second) == "" and app.screen.row == second
        await press(pilot, "3", "z", "z")
        assert (mark(first), mark(second)) == ("", "") and app.screen.row == first
        await press(pilot, "z")
        assert "nothing is judged yet" in said(app)

    drive(file, steps, images=True)


def test_what_is_taken_back_is_what_was_there_before(file, scores):
    async def steps(pilot, app):
        row = browse(app).row
        await press(pilot, "n", *"torn", "enter", "1", "up", "2", "up", "0")
        assert browse(app).row == row, "an image whose mark is taken off stays at hand"
        for mark, note in (("fine", "torn"), ("ood", "torn"), ("", "torn"), ("", "")):
            await press(pilot, "z")
            found = read_judgements(scores.path).of(scores, row)
            assert (found.mark, found.note) == (mark, note)

    drive(file, steps)


def test_the_last_image_and_one_that_leaves_the_list(file, scores):
    async def steps(pilot, app):
        await press(pilot, "end", "1")
        last = app.snapshot.rows[-1]
        assert browse(app).row == last
        await press(pilot, "home", "1", "1", "J", "home", "enter", "0")
        assert "not in the list" in text_of(app)
        following = app.snapshot.rows[0]
        await press(pilot, "right")
        assert app.screen.row == following
        await press(pilot, "escape", "slash", *"nowhere", "enter", "z")
        assert "not listed here" in said(app)

    drive(file, steps)


def test_whoever_could_not_judge_is_back_at_the_image(file, scores):
    async def steps(pilot, app):
        row = browse(app).row
        judgements_path(scores.path).write_text("{")
        await press(pilot, "1")
        assert browse(app).row == row and "not a whole file" in said(app)

    drive(file, steps)


# -- 10 a threshold of one's own ------------------------------------------------------------------


def test_every_kind_of_rule_keeps_its_threshold(file):
    async def steps(pilot, app):
        await press(pilot, "t", *"5%", "enter", "r", "t", *"7%", "enter")
        fpr, fdr = Rule("fpr", 0.05), Rule("fdr", 0.07)
        assert app.snapshot.view.threshold == fdr
        await press(pilot, "r", "r", "]", "right")
        by_score = app.snapshot.view.threshold
        assert by_score.axis == Axis("llr", 1)
        await press(pilot, "]", "[")
        assert app.snapshot.view.threshold == by_score, "of the same k"
        for kept in (fpr, fdr):
            await press(pilot, "r")
            assert app.snapshot.view.threshold == kept
        await press(pilot, "r", "r")
        assert app.snapshot.view.threshold == by_score

    drive(file, steps)


def test_a_threshold_is_not_lost_without_a_word(file, scores):
    async def steps(pilot, app):
        await press(pilot, "t", *"5%", "enter", "q")
        assert "FPR 5 % is lost on leaving" in text_of(app)
        await press(pilot, "q", "escape")
        assert app.screen is browse(app) and app.is_running
        await press(pilot, "q")
        await pilot.click("#keep")
        await settle(pilot)
        assert not app.is_running
        assert read_scores(scores.path).decision.by == Rule("fpr", 0.05)

    drive(file, steps)


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
def test_leaving_it_writes_nothing(file, bare, scores, size):
    async def steps(pilot, app):
        await press(pilot, "right", "x", "right", "q", "n")
        assert "a score is no rule" in " ".join(text_of(app).split()).lower()
        await press(pilot, "y")
        assert app.is_running, "a score cannot be kept"
        await pilot.click("#leave")
        await settle(pilot)
        assert not app.is_running and read_scores(scores.path).decision is None

    drive([file, bare], steps, size=size)


def test_nothing_is_asked_where_nothing_is_lost(file, scores):
    async def unmoved(pilot, app):
        await press(pilot, "r", "r", "r", "r", "q")
        assert not app.is_running

    async def moved_back(pilot, app):
        await press(pilot, "right", "left", "q")
        assert not app.is_running

    async def written(pilot, app):
        await press(pilot, "shift+left", "w", "y", "q")
        assert not app.is_running

    drive(file, unmoved)
    drive(file, moved_back)
    drive(file, unmoved, threshold=Rule("fpr", 0.05))
    drive(file, written)


def test_a_decision_that_cannot_be_written_keeps_the_workbench_open(file, scores):
    from hvaeood_cli.store.writer import write_scores
    from tests.tui_files import make_scores

    async def steps(pilot, app):
        write_scores(scores.path, make_scores(7))
        await press(pilot, "shift+left", "q", "y")
        assert app.is_running and "scored anew" in said(app)

    drive(file, steps)


# -- 11 two models --------------------------------------------------------------------------------


def other_model(scores):
    return replace(scores, header=scores.header.model_copy(update={"model_sha256": "b" * 64}))


def of_other_model(scores, calibration):
    """The same images, scored and calibrated by another model."""
    found = opened(other_model(scores), None)
    return replace(found, run=replace(found.run, calibration=calibration, why_not=""))


def test_two_models_are_compared_by_p_alone(scores, file, calibration):
    async def steps(pilot, app):
        await press(pilot, "c")
        assert "p combined" in text_of(app) and "p, first" in text_of(app)
        for _ in range(4):
            await press(pilot, "m", "]")
            assert app.screen._axis.measure == P

    drive([file, of_other_model(scores, calibration)], steps)


def test_two_models_without_p_are_compared_by_places_alone(scores, file):
    async def steps(pilot, app):
        await press(pilot, "c")
        text = text_of(app)
        assert "only places in the rankings compare" in text and "place, first" in text
        assert not app.screen.query_one(Distribution).display
        await press(pilot, "m", "]", "L", "s", "enter")
        assert isinstance(app.screen, LookScreen)

    drive([file, opened(other_model(scores), None)], steps)


# -- maps -----------------------------------------------------------------------------------------


def pictured(app, selector: str) -> np.ndarray:
    return np.asarray(app.screen.query_one(selector).query_one(".image").image)


def is_grey(pixels: np.ndarray) -> bool:
    return pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())


def test_a_key_lays_the_map_of_each_k_over_the_image_and_takes_it_away(scores, calibration):
    async def steps(pilot, app):
        await press(pilot, "enter")
        plain = pictured(app, "#image")
        assert is_grey(plain) and not app.screen.query_one("#layer").display
        await press(pilot, "o")
        first = pictured(app, "#image")
        assert not is_grey(first) and "map of k = 2: from 2 " in text_of(app)
        assert "to 8 spreads above what is usual there" in text_of(app)
        await press(pilot, "o")
        assert not np.array_equal(pictured(app, "#image"), first) and "map of k = 1" in text_of(app)
        await press(pilot, "right")
        assert "map of k = 1" in text_of(app), "it stays for the next image"
        await press(pilot, "left", "escape", "enter")
        assert "map of k = 1" in text_of(app), "and for whoever comes back"
        await press(pilot, "o")
        assert np.array_equal(pictured(app, "#image"), plain) and "map of" not in text_of(app)

    drive(opened(scores, calibration), steps, size=(80, 24), images=True)


def test_the_preview_shows_the_map_too(scores, calibration):
    async def steps(pilot, app):
        assert is_grey(pictured(app, "#preview"))
        await press(pilot, "o")
        assert not is_grey(pictured(app, "#preview")) and "map of k = 2" in text_of(app)
        await press(pilot, "down")
        assert not is_grey(pictured(app, "#preview"))
        await press(pilot, "o", "o")
        assert is_grey(pictured(app, "#preview")) and "map of" not in text_of(app)

    drive(opened(scores, calibration), steps, size=(140, 40), images=True)


def test_a_map_without_what_is_usual_says_so(scores, calibration):
    async def steps(pilot, app):
        app.file.looks.keep(3, reconstruct(3))
        await press(pilot, "o")
        app.post_message(Open(3))
        await settle(pilot)
        assert "nats a pixel, for nobody knows" in text_of(app)

    drive(opened(scores, calibration), steps, images=True)


@pytest.mark.parametrize("images", [True, False])
def test_where_there_can_be_no_map_a_word_says_why(scores, calibration, images):
    async def steps(pilot, app):
        await press(pilot, "o")
        assert ("the model is gone" if images else "images are off") in said(app)
        assert app.snapshot.view.layer == 0

    file = opened(scores, calibration, no_model="the model is gone")
    drive(file, steps, images=images)
