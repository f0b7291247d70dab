"""A run: an engine scores a manifest, a journal keeps the rows, and one file is written at the end.

manifest  ->  engine   ->  journal       ->  decide        ->  score file
images        batches      survives          flags, where      whole, or
in order      of rows      a kill            calibrated        not there
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from hvaeood_cli.store.header import RunHeader, differences, how_to_agree
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
            numpy_version=version("numpy"),
            pillow_version=version("pillow"),
            device=device,
            model_name=_storable(self.bundle.name),
            model_path=_storable(str(self.bundle.folder.absolute())),
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
        differs, and where another process makes the file meanwhile. force: replace them instead.
        """
        if out.exists() and not force:
            return self._decided(out, decide), False
        header = self.header(self.engine.device)  # which loads the model
        with _writing(out):
            journal = Journal.open(journal_path(out), header, force)
        with journal:
            if force or not out.exists():  # still
                return self._score(journal, out, decide, force, progress, remark), True
            if not journal.n_done:
                journal.remove()
        return self._decided(out, decide), False

    def _score(
        self,
        journal: Journal,
        out: Path,
        decide: Decide,
        force: bool,
        progress: Progress,
        remark: Remark,
    ) -> ScoreFile:
        """Score the rows that are missing; then the score file takes the journal's place."""

        def check() -> None:
            if out.exists() and not force:
                raise StoreError(
                    f"{out} was made by another process meanwhile",
                    "--force replaces it by what was scored here, which is kept",
                )

        if not journal.locked:
            remark(NO_LOCKS)
        total = len(self.manifest)
        progress(journal.n_done, total)
        if journal.n_done < total:
            for batch in self.engine.score(self.manifest, journal.n_done):
                with _writing(out):
                    journal.append(batch)
                progress(journal.n_done, total)
        with _writing(out):
            journal.sync()
        scores = ScoreFile.of_batches(
            out, journal.header, self.manifest.names(), journal.batches(), _conversions()
        )
        scores = replace(scores, decision=decide(scores))
        with _writing(out):
            scores = write_scores(out, scores, check)
            journal.remove()
        return scores

    def _decided(self, out: Path, decide: Decide) -> ScoreFile:
        """The finished file, decided anew if `decide` gives another decision."""
        found = self._found_done(out)
        decision = decide(found)
        if decision is None or decision is found.decision:
            return found
        write_decision(found, decision)
        return replace(found, decision=decision)

    def _found_done(self, out: Path) -> ScoreFile:
        """The scores at `out`, if they are of this very run. Raises StoreError otherwise."""
        found = read_scores(out)
        label = None if found.label is None else int(found.label[0])
        there = found.header.model_copy(update={"label": label})
        here = self.header(self.device or there.device)
        differing = differences(there, here)
        if differing:
            raise StoreError(
                f"{out} is there already, made from other inputs: " + "; ".join(differing),
                how_to_agree(there, here)
                or "choose another file for them, or --force to replace it",
            )
        leftover = journal_path(out)
        if leftover.exists():  # a kill between the last two steps leaves the journal there
            with suppress(StoreError, OSError), Journal.open(leftover, there) as journal:
                journal.remove()
        return found


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raise StoreError for what keeps the journal or the score file from being written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {out}: {error.strerror or error}",
            "make room or choose another -o, then run the same command again: what was "
            "scored is kept",
        ) from None


def _storable(name: str) -> str:
    """With escapes for what is no Unicode: a folder's name may be of any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _conversions() -> dict[str, int]:
    """The names of the bits in /images/conversions."""
    return {flag.name.lower(): flag.value for flag in Conversion if flag.name}
