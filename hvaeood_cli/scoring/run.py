"""A run: an engine scores a manifest, a journal keeps the rows, and one file is written at the end.

manifest  ->  engine   ->  journal       ->  decide        ->  score file
images        batches      survives          flags, where      whole, or
in order      of rows      a kill            calibrated        not there
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from hvaeood_cli.errors import StoreError
from hvaeood_cli.images.decode import Conversion
from hvaeood_cli.images.preprocess import RULES
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.bundle import Bundle
from hvaeood_cli.scoring.engines.engine import Engine
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.decision import Decision
from hvaeood_cli.store.header import RunHeader, differences
from hvaeood_cli.store.journal import NO_LOCKS, Journal, journal_path
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.writer import write_decision, write_scores
from hvaeood_cli.version import __version__

Decide = Callable[[ScoreFile], Decision | None]
"""Decides a run. To return None, or the decision that the scores have, changes nothing."""

Progress = Callable[[int, int], None]
"""Called with the number of rows that are done, and of all rows."""


Remark = Callable[[str], None]
"""Called with a sentence that the user should read while the run goes on."""


def _silent(*_: object) -> None:
    """Show nothing."""


def _undecided(scores: ScoreFile) -> None:
    """Make no decision."""


@dataclass(frozen=True)
class ScoringRun:
    """A manifest, with the model, settings and engine to score it with.

    make_engine: called only when there is something to score, since it loads the model. device:
    the kind of device that the user named. If empty, a run that was finished on any kind counts as
    done.
    """

    manifest: Manifest
    bundle: Bundle
    settings: ScoreSettings
    make_engine: Callable[[], Engine]
    label: Literal[0, 1] | None = None  # of all its images: 0 they belong, 1 they do not
    device: str = ""

    @cached_property
    def engine(self) -> Engine:
        return self.make_engine()

    def header(self, device: str) -> RunHeader:
        """The header of this run on a kind of device."""
        config = self.bundle.config
        return RunHeader(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=__version__,
            torch_version=version("torch"),
            device=device,
            model_name=self.bundle.name,
            model_path=str(self.bundle.folder.absolute()),
            model_sha256=self.bundle.sha256,
            n_layers=config.n_layers,
            image_size=config.image_size,
            image_channels=config.image_channels,
            n_dims=config.n_dims,
            preprocessing=RULES,
            n_images=len(self.manifest),
            listing_sha256=self.manifest.listing_sha256(),
            label=self.label,
            **self.settings.model_dump(mode="json"),
        )

    def in_memory(self, path: Path = Path("(in memory)")) -> ScoreFile:
        """Score everything and write no file. path: the name of the scores in messages."""
        header = self.header(self.engine.device)
        batches = self.engine.score(self.manifest)
        return ScoreFile.of_batches(path, header, self.manifest.names(), batches, _conversions())

    def to_file(
        self,
        out: Path,
        decide: Decide = _undecided,
        force: bool = False,
        progress: Progress = _silent,
        remark: Remark = _silent,
    ) -> tuple[ScoreFile, bool]:
        """Score into a file, going on where an earlier start of the same run was interrupted.

        Returns the scores as they are in the file, and whether they were made now. They were not if
        the file already holds the same images, model and settings; then only a new decision is
        written. Raises StoreError where the file or its journal holds another run, with what
        differs. force: replace them instead.
        """
        if out.exists() and not force:
            found = self._found_done(out)
            decision = decide(found)
            if decision is None or decision is found.decision:
                return found, False
            write_decision(found, decision)
            return replace(found, decision=decision), False
        try:
            return self._score(out, decide, force, progress, remark), True
        except OSError as error:
            raise StoreError(
                f"cannot write {out}: {error.strerror or error}",
                "make room or choose another -o, then run the same command again: what was "
                "scored is kept",
            ) from None

    def _score(
        self, out: Path, decide: Decide, force: bool, progress: Progress, remark: Remark
    ) -> ScoreFile:
        header, total = self.header(self.engine.device), len(self.manifest)
        with Journal.open(journal_path(out), header, force) as journal:
            if not journal.locked:
                remark(NO_LOCKS)
            progress(journal.n_done, total)
            if journal.n_done < total:
                for batch in self.engine.score(self.manifest, journal.n_done):
                    journal.append(batch)
                    progress(journal.n_done, total)
            journal.sync()
            scores = ScoreFile.of_batches(
                out, journal.header, self.manifest.names(), journal.batches(), _conversions()
            )
            scores = write_scores(out, replace(scores, decision=decide(scores)))
            journal_path(out).unlink()  # while it is still locked
        return scores

    def _found_done(self, out: Path) -> ScoreFile:
        """The scores at `out`, if they are of this very run. Raises StoreError otherwise."""
        found = read_scores(out)
        label = None if found.label is None else int(found.label[0])
        there = found.header.model_copy(update={"label": label})
        differing = differences(there, self.header(self.device or there.device))
        if differing:
            raise StoreError(
                f"{out} is there already, made from other inputs: " + "; ".join(differing),
                "choose another file for them, or --force to replace it",
            )
        with suppress(StoreError):  # a kill between the last two steps leaves the journal there
            if journal_path(out).exists():
                Journal.open(journal_path(out), there).close()
                journal_path(out).unlink()
        return found


def _conversions() -> dict[str, int]:
    """The names of the bits in /images/conversions."""
    return {flag.name.lower(): flag.value for flag in Conversion if flag.name}
