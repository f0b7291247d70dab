"""The command line, built once for all commands that are tried: most of their time goes there."""

from __future__ import annotations

import typer.main

from hvaeood_cli.cli.app import app


def build() -> None:
    """From now on Typer takes what it has made of the program's commands."""
    made = typer.main.get_command(app)
    typer.main.get_command = lambda typer_instance: made
