"""What the workbench writes, for a process that is to be killed meanwhile."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from hvaeood_cli.errors import HvaeoodError
from hvaeood_cli.store.judgements import judge
from hvaeood_cli.store.reader import read_scores


def judge_some(path: str, first: str, last: str) -> None:
    """Judge the rows first ... last - 1, and say of each that it is kept, as the workbench does.

    An error is shown there and ends nothing.
    """
    scores = read_scores(Path(path)).present
    for row in range(int(first), int(last)):
        try:
            judge(scores, row, "ood", f"note {row}")
            print(row, flush=True)
        except HvaeoodError as error:
            print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
            raise SystemExit(int(error.exit_code)) from None


def end_after(number: int, what: str, nth: int, *command: str) -> None:
    """Run a command, and send this process a signal when a function is called for the n-th time.

    what: `module:function` or `module:Class.method`.
    """
    module, _, path = what.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    plain, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == int(nth):
            os.kill(os.getpid(), int(number))
        return plain(*arguments, **options)

    setattr(owner, name, counted)
    from hvaeood_cli.cli.app import main

    sys.argv = ["hvaeood", *command]
    main()
