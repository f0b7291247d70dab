"""hvaeood.toml: default options for a folder, in one table for each command.

Options on the command line win over HVAEOOD_* variables, and those over the file. The file may
have come with somebody else's images, so it may set only how things are computed and shown
(`MAY_BE_SET`). What is read or written, what replaces or downloads files, what lifts a refusal
and the form of the output are for the command line alone. The file may set a model by its name,
never by its folder, and each command says what the file sets for it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from hvaeood_cli.cli import console
from hvaeood_cli.errors import HvaeoodError, UsageError

FILE = Path("hvaeood.toml")
_MAX_BYTES = 1 << 20

MAY_BE_SET = frozenset(
    (
        # of a run: which model, how it samples, and on which device
        *("model", "samples", "samples-k", "proposal", "seed", "precision"),
        *("device", "runtime", "batch-size", "workers", "engine"),
        # of a decision, and of what is shown
        *("fpr", "fdr", "by", "top", "images"),
        # of a training
        *("preset", "image-size", "channels", "epochs", "minutes", "validation", "calibrate"),
        *("learning-rate", "semantic-weight", "set", "devices", "strategy", "compile"),
        "checkpoint-every",
    )
)


class Option(NamedTuple):
    """A parameter of a command, as hvaeood.toml sees it."""

    parameter: str  # its name in the command's function
    may_be_set: bool  # whether a file may set it
    many: bool  # whether it may be given more than once


class ConfiguredCommand(TyperCommand):
    """A command that says on standard error what hvaeood.toml sets for it."""

    def invoke(self, ctx: Any) -> Any:
        options = {parameter.name: max(parameter.opts, key=len) for parameter in self.params}
        settings = {
            options[name]: (name, [value] if isinstance(value, str) else value)
            for name, value in (ctx.default_map or {}).items()
            if source_of(ctx, name) == "DEFAULT_MAP"
        }
        if settings and not ctx.params.get("quiet"):
            said = (f"{one.lstrip('-')} = {' '.join(of)}" for one, (_, of) in settings.items())
            console.say(f"{FILE} sets {', '.join(said)}")
        try:
            return super().invoke(ctx)
        except HvaeoodError as error:
            for option, (name, values) in settings.items():
                if _speaks_of(error, option, name, values):
                    where = place_of(str(ctx.info_name), [option])
                    error.hint = f"{error.hint} ({where} sets {option.lstrip('-')})".strip()
            raise


def _speaks_of(error: HvaeoodError, option: str, name: str, values: list[str]) -> bool:
    """Whether an error names an option, its parameter or one of its values."""
    message = error.message
    if re.search(rf"{option}(?![\w-])", f"{message} {error.hint}"):
        return True
    named = message.startswith((f"{name}: ", f"n_importance_{name}: "))
    return named or any(repr(value) in message for value in values)


def source_of(context: typer.Context, parameter: str) -> str:
    """Where a parameter's value is from: COMMANDLINE, ENVIRONMENT, DEFAULT_MAP or DEFAULT."""
    source = context.get_parameter_source(parameter)
    return source.name if source else "DEFAULT"


def is_given(context: typer.Context, parameter: str) -> bool:
    """Whether somebody set a parameter, if only to its default."""
    return source_of(context, parameter) != "DEFAULT"


def load_defaults(group: object) -> dict[str, dict[str, str | list[str]]]:
    """The defaults that hvaeood.toml in the current folder sets, by command and parameter.

    group: Typer's group of all commands. Values are returned as text, as the command line would
    give them, so that the command itself checks them. Raises UsageError for a broken file, an
    unknown key, or a key that no file may set.
    """
    if not FILE.is_file():
        return {}
    commands = {name: _options(one) for name, one in getattr(group, "commands", {}).items()}
    defaults: dict[str, dict[str, str | list[str]]] = {}
    for command, table in _read().items():
        if command not in commands or not isinstance(table, dict):
            known = ", ".join(f"[{name}]" for name in sorted(commands))
            strange = f"no command is called {command!r}"
            wrong = f"{command} is no table" if command in commands else strange
            raise UsageError(f"{_place_of_table(command)}: {wrong}", f"tables: {known}")
        defaults[command] = {}
        for key, value in table.items():
            option = _checked(command, key, commands[command])
            if key == "model":
                _check_name(command, value)
            defaults[command][option.parameter] = _value(command, key, value, option.many)
    return defaults


def place_of(command: str, names: Iterable[str]) -> str:
    """Where hvaeood.toml sets the first of these options: `hvaeood.toml, line 3`, or the file."""
    keys = "|".join(re.escape(name.lstrip("-")) for name in names)
    setting = rf"\s*[\"']?({keys})[\"']?\s*="
    dotted = rf"\s*{_quoted(command)}\s*(\.|=.*?[{{,]){setting}"  # score.fpr = 1
    inside = False
    for number, line in enumerate(_lines(), 1):
        if line.lstrip().startswith("["):
            inside = bool(re.match(rf"\s*\[\s*{_quoted(command)}\s*\]", line))
        elif re.match(setting if inside else dotted, line):
            return f"{FILE}, line {number}"
    return str(FILE)


def _place_of_table(command: str) -> str:
    """Where hvaeood.toml first speaks of a command, or of what is none."""
    for number, line in enumerate(_lines(), 1):
        if re.match(rf"[\s\[]*{_quoted(command)}\s*[].=]", line):
            return f"{FILE}, line {number}"
    return str(FILE)


def _lines() -> list[str]:
    return FILE.read_text(encoding="utf-8").splitlines()


def _quoted(key: str) -> str:
    """A pattern for a key of the file, in quotes or not."""
    return rf"[\"']?{re.escape(key)}[\"']?"


def _read() -> dict[str, Any]:
    try:
        if FILE.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{FILE} is larger than a MiB", "it may hold only a table per command")
        return tomllib.loads(FILE.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{FILE} cannot be read: {error}", "mend it, or move it away") from None


def _options(command: Any) -> dict[str, Option]:
    """All parameters of a command by name, without dashes. Its arguments are never settings."""
    found = {}
    for parameter in command.params:
        for name in (name.lstrip("-") for name in parameter.opts):
            may = parameter.param_type_name == "option" and name in MAY_BE_SET
            found[name] = Option(parameter.name, may, getattr(parameter, "multiple", False))
    return found


def _checked(command: str, key: str, options: Mapping[str, Option]) -> Option:
    """The option called `key`. Raises UsageError if there is none, or no file may set it."""
    option = options.get(key)
    if option is None:
        raise UsageError(
            f"{place_of(command, [key])}: [{command}] has no option {key!r}",
            f"hvaeood {command} --help lists them",
        )
    if not option.may_be_set:
        may = ", ".join(sorted(name for name in options if options[name].may_be_set)) or "nothing"
        raise UsageError(
            f"{place_of(command, [key])}: [{command}] may not set {key!r}",
            f"give it on the command line; a file may set {may}",
        )
    return option


def _check_name(command: str, model: object) -> None:
    """Raise UsageError for a model's folder: one beside somebody's images brings what decides."""
    from hvaeood_cli.model.bundle import folder_named

    text = str(model).partition("\0")[0]
    if folder_named(text) is None and (os.sep in text or os.path.isdir(text)):
        raise UsageError(
            f"{place_of(command, ['model'])}: [{command}] model may be a name, and {text} is a "
            "folder",
            f"hvaeood models lists names; a folder is for the command line: --model {text}",
        )


def _value(command: str, key: str, value: object, many: bool) -> str | list[str]:
    """A value as the command line would give it. Raises UsageError for a table, a date, a NUL."""
    if many and isinstance(value, list):
        return [text for one in value if isinstance(text := _value(command, key, one, False), str)]
    if not isinstance(value, str | int | float) or "\0" in str(value):
        raise UsageError(
            f"{place_of(command, [key])}: [{command}] {key} has a value that no option takes",
            "give a number, a text, true or false",
        )
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return [text] if many else text
