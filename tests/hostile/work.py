"""What the workbench writes, for a process that is to be killed meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path

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
