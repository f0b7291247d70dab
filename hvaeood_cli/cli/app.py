"""`hvaeood`: all commands, and the only place where an error becomes an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import Annotated, NoReturn

import typer

from hvaeood_cli.cli import console
from hvaeood_cli.cli.cache import cache
from hvaeood_cli.cli.calibrate import calibrate
from hvaeood_cli.cli.config import ConfiguredCommand, load_defaults, place_of, source_of
from hvaeood_cli.cli.decide import decide
from hvaeood_cli.cli.find import find
from hvaeood_cli.cli.merge import merge
from hvaeood_cli.cli.models import models
from hvaeood_cli.cli.reconstruct import reconstruct
from hvaeood_cli.cli.report import report
from hvaeood_cli.cli.score import score
from hvaeood_cli.cli.train import train
from hvaeood_cli.cli.tui import tui
from hvaeood_cli.errors import BugError, ExitCode, HvaeoodError, UsageError
from hvaeood_cli.version import __version__

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="hvaeood",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: **hvaeood score FOLDER**",
)
app.command(cls=ConfiguredCommand)(score)
app.command(cls=ConfiguredCommand)(merge)
app.command(cls=ConfiguredCommand)(find)
app.command(cls=ConfiguredCommand)(tui)
app.command(cls=ConfiguredCommand)(report)
app.command(cls=ConfiguredCommand)(decide)
app.command(cls=ConfiguredCommand)(calibrate)
app.command(cls=ConfiguredCommand)(train)
app.command(cls=ConfiguredCommand)(models)
app.command(cls=ConfiguredCommand)(reconstruct)
app.command(cls=ConfiguredCommand)(cache)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.emit([f"hvaeood {__version__}\n"])
        raise typer.Exit


@app.callback()
def hvaeood(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Find the images that do not belong.

    A hierarchical VAE asks of each image whether it is in-distribution at every level of its
    features, by the likelihood ratios LLR>k of Havtorn et al. (2021). No labels, no examples of
    what is odd.
    """
    try:
        context.default_map = dict(load_defaults(context.command))
    except UsageError:
        if not {"-h", "--help"} & set(sys.argv):  # help must work beside a broken file
            raise


def main() -> NoReturn:
    """Entry point. Exit codes: `hvaeood_cli.errors.ExitCode`."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]  # anywhere
    if not debug:
        warnings.simplefilter("ignore")  # libraries' warnings are for developers
    _end_as_by_ctrl_c()
    try:
        code = app(prog_name="hvaeood", standalone_mode=False)
    except Exception as raised:
        error = _explained(raised)
        if debug:
            traceback.print_exc()
        elif error.message:
            console.fail(error)
        sys.exit(error.exit_code)
    sys.exit(code or ExitCode.DONE)


def _end_as_by_ctrl_c() -> None:
    """Let SIGTERM, and SIGHUP of a closed terminal, end the program in order, as Ctrl-C does.

    What is half written is removed, and a training run keeps a checkpoint. Where a signal is
    ignored, as under nohup, it stays so.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)


def _explained(raised: Exception) -> HvaeoodError:
    """The error to show to the user for an exception that ended the program."""
    if isinstance(raised, typer.Abort) and isinstance(raised.__cause__, EOFError):
        raised = raised.__cause__  # Typer takes any EOFError for the end of standard input
    if isinstance(raised, HvaeoodError):
        return raised
    if isinstance(raised, typer.TyperException):
        return _misused(raised)
    if isinstance(raised, typer.Abort):
        error = HvaeoodError("interrupted", "")
        error.exit_code = ExitCode.INTERRUPTED
        return error
    if isinstance(raised, MemoryError) or type(raised).__name__ == "OutOfMemoryError":  # torch's
        return HvaeoodError("not enough memory", "a smaller --batch-size, or fewer --samples")
    if isinstance(raised, OSError):
        name = raised.filename  # None or a descriptor, unless a file was opened by its name
        where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) else ""
        hint = "run it with --debug to see where it happened"
        if raised.errno in _NO_ROOM:
            hint = "make room, then run the same command again"
        return HvaeoodError(f"{where}{raised.strerror or raised}", hint)
    return BugError(
        f"a bug in hvaeood {__version__}: {type(raised).__name__}: {raised}",
        "please report it: the command, and what it prints with --debug",
    )


def _misused(raised: typer.TyperException) -> UsageError:
    """The error for a wrong command line; if hvaeood.toml has the bad value, with its line."""
    context, parameter = getattr(raised, "ctx", None), getattr(raised, "param", None)
    path = getattr(context, "command_path", "hvaeood")
    message = raised.format_message()  # empty where the help was shown instead
    if context and parameter and source_of(context, parameter.name) == "DEFAULT_MAP":
        message = f"{place_of(context.info_name, parameter.opts)}: {message}"
    return UsageError(message, f"{path} --help")
