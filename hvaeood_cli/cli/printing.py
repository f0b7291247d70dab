"""Prints scores on standard output: a summary for people, JSON or CSV for programs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hvaeood_cli.cli import console
from hvaeood_cli.errors import UsageError

if TYPE_CHECKING:
    from hvaeood_cli.calibration.ranking import Ranking
    from hvaeood_cli.store.score_file import ScoreFile


class Printing(Enum):
    """The form in which a command prints scores."""

    SUMMARY = "summary"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    NOTHING = "nothing"

    @classmethod
    def chosen(cls, json_: bool, jsonl: bool, csv: bool, quiet: bool) -> Self:
        """The form that the options ask for. Raises UsageError for two of them at once."""
        if json_ + jsonl + csv > 1:
            raise UsageError("--json, --jsonl and --csv exclude one another", "choose one")
        named = {cls.JSON: json_, cls.JSONL: jsonl, cls.CSV: csv, cls.NOTHING: quiet}
        return next((printing for printing, asked in named.items() if asked), cls.SUMMARY)

    def show(
        self,
        scores: ScoreFile,
        ranking: Ranking,
        top: int,
        done: str,
        again: Mapping[str, str] | None = None,
        page: Path | None = None,
    ) -> None:
        """Print scores in this form.

        The others are for the summary alone. top: how many odd images it lists. done: when they
        were scored, in words. again: the options that the next command must repeat. page: the
        report, where there is one.
        """
        from hvaeood_cli.cli import summary
        from hvaeood_cli.report import rows

        listing = rows.Listing(scores, ranking)

        if self is Printing.JSON:
            console.emit(rows.as_json(listing))
        elif self is Printing.JSONL:
            console.emit(rows.as_jsonl(listing))
        elif self is Printing.CSV:
            console.emit(rows.as_csv(listing))
        elif self is Printing.SUMMARY:
            width = console.out().width
            console.show(*summary.draw(scores, ranking, top, done, width, again or {}, page))
