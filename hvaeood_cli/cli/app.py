"""`hvaeood`: the commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, NoReturn

import typer

from hvaeood_cli.cli import console
from hvaeood_cli.cli.calibrate import calibrate
from hvaeood_cli.cli.config import load_defaults
from hvaeood_cli.cli.decide import decide
from hvaeood_cli.cli.models import models
from hvaeood_cli.cli.reconstruct import reconstruct
from hvaeood_cli.cli.report import report
from hvaeood_cli.cli.score import score
from hvaeood_cli.cli.train import train
from hvaeood_cli.cli.tui import tui
from hvaeood_cli.errors import ExitCode, HvaeoodError, UsageError
from hvaeood_cli.version import __version__

app = typer.Typer(
    name="hvaeood",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: **hvaeood score FOLDER**",
)
app.command()(score)
app.command()(tui)
app.command()(report)
app.command()(decide)
app.command()(calibrate)
app.command()(train)
app.command()(models)
app.command()(reconstruct)


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
    group = context.command
    commands = {
        name: {
            option.lstrip("-"): parameter.name
            for parameter in command.params
            for option in parameter.opts
            if parameter.name
        }
        for name, command in getattr(group, "commands", {}).items()
    }
    context.default_map = load_defaults(commands)


def main() -> NoReturn:
    """Entry point. Exit codes: `hvaeood_cli.errors.ExitCode`."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]  # in any place
    if not debug:
        warnings.simplefilter("ignore")  # libraries' remarks are for developers
    try:
        code = app(prog_name="hvaeood", standalone_mode=False)
    except HvaeoodError as error:
        if debug:
            raise
        console.fail(error)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "hvaeood")
        if message := error.format_message():  # there is none where the help was shown instead
            console.fail(UsageError(message, f"{path} --help"))
        sys.exit(ExitCode.USAGE)
    except Exception as error:
        if debug:
            raise
        console.fail(
            HvaeoodError(f"{type(error).__name__}: {error}", "run with --debug for the details")
        )
        sys.exit(ExitCode.BAD_INPUT)
    sys.exit(code or ExitCode.DONE)
