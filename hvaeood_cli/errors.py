"""Errors for people: what happened, what to do next, and the exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of every command; scripts may rely on them."""

    DONE = 0
    FLAGGED = 1  # only with --fail-on-flagged
    USAGE = 2
    BAD_INPUT = 3  # a bad model, score file or source
    SOME_UNREADABLE = 4  # done, but some images could not be read, or taken
    BUG = 70  # a mistake in this program; sysexits.h calls it EX_SOFTWARE
    INTERRUPTED = 130  # by Ctrl-C, SIGTERM or a closed terminal


class HvaeoodError(Exception):
    """The base of every error that this package raises on purpose.

    message: what was found, and what was expected. hint: what to type or change next,
    empty where that is of no help. exit_code: of the command that the error ends.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, for another process: Python would call `__init__` with the message alone."""
        return type(self).__new__, (type(self), *self.args), vars(self)


class UsageError(HvaeoodError):
    """The command line or a parameter asks for something impossible."""

    exit_code = ExitCode.USAGE


class SourceError(HvaeoodError):
    """A source of images that does not exist, holds no images or cannot be opened."""


class ImageError(HvaeoodError):
    """An image that cannot be read. It becomes a row with a status, never the end of a run.

    code: a name from `hvaeood_cli.store.status.STATUS_CODES`. sha256: the hash of the bytes that
    could not be decoded, if any were read.
    """

    def __init__(self, code: str, message: str, sha256: bytes | None = None) -> None:
        super().__init__(message, "")
        self.code = code
        self.sha256 = sha256


class ModelError(HvaeoodError):
    """A model bundle that is missing, broken or does not fit what is asked of it."""


class StoreError(HvaeoodError):
    """A score file or journal that cannot be read, written or resumed."""


class CalibrationError(HvaeoodError):
    """A calibration that is missing, broken, too small, or made with other settings."""


class TrainingError(HvaeoodError):
    """Training that cannot start or must stop."""


class BugError(HvaeoodError):
    """A mistake in this program: it raised an exception that it should never raise."""

    exit_code = ExitCode.BUG
