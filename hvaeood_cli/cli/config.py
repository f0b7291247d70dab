"""hvaeood.toml: defaults for a folder. Flags win over HVAEOOD_* variables, those over the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hvaeood_cli.errors import UsageError

FILE = Path("hvaeood.toml")


def load_defaults(commands: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """What hvaeood.toml in this folder says, a table a command, checked against its options.

    commands: by command, its options' names and the parameters they set.
    Raises UsageError for a broken file or an unknown key.
    """
    if not FILE.is_file():
        return {}
    try:
        tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{FILE} cannot be read: {error}") from None
    for command, table in tables.items():
        if command not in commands or not isinstance(table, dict):
            known = ", ".join(f"[{name}]" for name in sorted(commands))
            raise UsageError(f"{FILE}: no command is called {command!r}", f"tables: {known}")
        unknown = table.keys() - commands[command].keys()
        if unknown:
            raise UsageError(
                f"{FILE}: [{command}] has no option {sorted(unknown)[0]!r}",
                f"hvaeood {command} --help lists them",
            )
    return {
        command: {commands[command][key]: value for key, value in table.items()}
        for command, table in tables.items()
    }
