"""The one place where an error becomes an exit code."""

from __future__ import annotations

import copy
import errno

import pytest

from hvaeood_cli.cli import app as module
from hvaeood_cli.cli import models
from hvaeood_cli.errors import BugError, ExitCode, ImageError, StoreError, UsageError


class OutOfMemoryError(RuntimeError):
    """Called as torch calls it."""


@pytest.fixture
def failing(run, monkeypatch):
    """Run `hvaeood models` where its work raises something: (exit code, standard error)."""

    def call(error: BaseException, *options: str) -> tuple[int, str]:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("hvaeood_cli.model.bundle.list_bundles", fail)
        code, out, err = run("models", *options)
        assert out == ""
        return code, err

    return call


@pytest.mark.parametrize(
    "error",
    [KeyError("p"), AssertionError(), ZeroDivisionError("x\n\x1b[2J"), EOFError("short")],
)
def test_a_bug_has_its_own_code_and_says_how_to_report_it(failing, error):
    code, err = failing(error)
    assert code == ExitCode.BUG == 70
    assert f"a bug in hvaeood {module.__version__}: {type(error).__name__}" in err
    assert "report it" in err and "--debug" in err and "Traceback" not in err
    assert "\x1b" not in err
    code, err = failing(error, "--debug")
    assert code == ExitCode.BUG and "Traceback" in err and type(error).__name__ in err


def test_what_is_no_bug_keeps_its_code_with_and_without_debug(failing):
    for error, code in ((StoreError("what", "do"), 3), (UsageError("what", "do"), 2)):
        assert failing(error) == (code, "error: what\nhint: do\n")
        found, err = failing(error, "--debug")
        assert found == code and "Traceback" in err, "1 would say that an image is flagged"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a\nb"),
            "a\\nb: No space left on device",
        ),
        (PermissionError(errno.EACCES, "Permission denied", b"\xff"), "\\xff: Permission denied"),
        (OSError("a library's"), "a library's"),
        (OSError(errno.EIO, "Input/output error", 7), "error: Input/output error"),
        (MemoryError(), "not enough memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "not enough memory"),
    ],
)
def test_the_machines_troubles_are_no_bugs(failing, error, words):
    code, err = failing(error)
    assert code == ExitCode.BAD_INPUT and words in err and "a bug" not in err


def test_an_interruption_anywhere(failing):
    code, err = failing(KeyboardInterrupt())
    assert code == ExitCode.INTERRUPTED == 130 and "Traceback" not in err and "a bug" not in err
    code, err = failing(module.typer.Abort())
    assert code == ExitCode.INTERRUPTED and err == "error: interrupted\n"


def test_every_command_is_known_by_its_name(run):
    assert models.models in [one.callback for one in module.app.registered_commands]
    code, _, err = run("modells")
    assert code == 2 and "models" in err


@pytest.mark.parametrize(
    "error",
    [
        StoreError("what", "do"),
        ImageError("damaged", "what", b"x"),
        BugError("what", "do"),
    ],
)
def test_an_error_comes_whole_out_of_another_process(error):
    again = copy.copy(error)  # by what another process gets
    assert type(again) is type(error) and str(again) == "what" and vars(again) == vars(error)
