"""A run: an engine scores a manifest, a journal keeps the rows, and one file is written at the end.

manifest  ->  plan     ->  engine   ->  journal    ->  merge      ->  decide      ->  score file
images        what is      batches      survives       with what      flags, where    whole, or
in order      unknown      of rows      a kill         is known       calibrated      not there
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from hvaeood_cli.allocator import return_memory
from hvaeood_cli.errors import StoreError, UsageError
from hvaeood_cli.files import NO_LOCKS
from hvaeood_cli.images.decode import Conversion
from hvaeood_cli.images.folder import stamp_of
from hvaeood_cli.images.preprocess import rules_of
from hvaeood_cli.images.remote import is_address
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.model.bundle import Bundle
from hvaeood_cli.scoring.engines.engine import Engine
from hvaeood_cli.scoring.update import Changes, Plan, placed
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.decision import Decision
from hvaeood_cli.store.header import OF_IMAGES, OF_SHARD, RunHeader, differences, how_to_agree
from hvaeood_cli.store.journal import Batch, Journal, check_next, journal_path
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.room import IN_MEMORY, Room
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.store.shard import Shard
from hvaeood_cli.store.status import STATUS_CODES
from hvaeood_cli.store.writer import write_decision, write_scores
from hvaeood_cli.version import __version__

Decide = Callable[[ScoreFile], Decision | None]
"""Decides a run. To return None, or the decision that the scores have, changes nothing."""

Progress = Callable[[int, int], None]
"""Called with the number of rows that are done, and of all rows."""


Tell = Callable[[Changes], None]
"""Called where a score file was brought up to date, with how the images had changed."""

Remark = Callable[[str], None]
"""Called with a sentence that the user should read while the run goes on."""


def _silent(*_: object) -> None:
    """Show nothing."""


def _undecided(scores: ScoreFile) -> None:
    """Make no decision."""


@dataclass(frozen=True)
class ScoringRun:
    """A manifest, with the model, settings and engine to score it with.

    make_engine: called only when there is something to score, since it loads the model; it takes
    `runtime`. device: the kind of device that the user named. If empty, a run that was finished on
    any kind counts as done. runtime: the one that the user named, as headers name it. If empty, a
    run that was begun goes on with its own, and for another the engine chooses.
    """

    manifest: Manifest
    bundle: Bundle
    settings: ScoreSettings
    make_engine: Callable[[str], Engine]
    label: Literal[0, 1] | None = None  # of all its images: 0 they belong, 1 they do not
    device: str = ""
    runtime: str = ""
    part: Mapping[str, int | str] = field(default_factory=dict)  # of a shard: `OF_SHARD`

    @cached_property
    def engine(self) -> Engine:
        return self.make_engine(self.runtime)

    def header(self, device: str, runtime: str = "torch") -> RunHeader:
        """The header of this run on a kind of device and a runtime."""
        config = self.bundle.config
        return RunHeader(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=__version__,
            torch_version=version("torch"),
            numpy_version=version("numpy"),
            pillow_version=version("pillow"),
            device=device,
            runtime=runtime,
            model_name=_storable(self.bundle.name),
            model_path=_storable(str(self.bundle.folder.absolute())),
            model_sha256=self.bundle.sha256,
            n_layers=config.n_layers,
            n_channels=config.n_channels,
            image_size=config.image_size,
            image_channels=config.image_channels,
            n_dims=config.n_dims,
            preprocessing=rules_of(config),
            fit=config.fit,
            tile_stride=config.tile_stride,
            tile_scale=config.tile_scale,
            n_images=len(self.manifest),
            listing_sha256=self.manifest.listing_sha256(),
            label=self.label,
            **self.settings.model_dump(mode="json"),
            **self.part,
        )

    def shard(self, shard: Shard) -> ScoringRun:
        """The run over a shard of these images alone. Raises UsageError where it has none."""
        n = len(self.manifest)
        places = shard.places(n)
        if not places:
            raise UsageError(f"shard {shard} of {n:,} images has none", "fewer shards")
        whole = (shard.number, shard.of, n, self.manifest.listing_sha256())
        return replace(
            self,
            manifest=self.manifest.pick(np.arange(places.start, places.stop)),
            part=dict(zip(OF_SHARD, whole, strict=True)),
        )

    def _new_header(self) -> RunHeader:
        return self.header(self.engine.device, self.engine.runtime)

    def in_memory(
        self, path: Path = Path("(in memory)"), progress: Progress = _silent
    ) -> ScoreFile:
        """Score everything and write no file. path: the name of the scores in messages."""
        header = self._new_header()
        if self.engine.note:
            warnings.warn(self.engine.note, stacklevel=2)
        batches = _shown(self.engine.score(self.manifest), len(self.manifest), progress)
        names = IN_MEMORY.names(self.manifest.name_blocks)
        return ScoreFile.of_batches(path, header, names, batches, _conversions())

    def to_file(
        self,
        out: Path,
        decide: Decide = _undecided,
        force: bool = False,
        progress: Progress = _silent,
        remark: Remark = _silent,
        tell: Tell = _silent,
    ) -> tuple[ScoreFile, bool]:
        """Score into a file, going on where an earlier start of the same run was interrupted.

        A file of the same model and settings is brought up to date: what is new or changed is
        scored, other rows are kept, and those whose images are gone are marked. It is then decided
        anew; where `decide` makes no decision, it has none.

        Returns the scores as they are in the file, and whether any row is another now. None is
        where the file already holds the same images; then only a new decision is written. Raises
        StoreError where the file or its journal holds another run, with what differs, or images
        that have nothing in common with these, and where another process writes the file
        meanwhile. force: score everything anew and replace them instead.
        """
        seen = stamp_of(out)
        found = read_scores(out) if out.exists() and not force else None
        begun = "" if force else Journal.runtime_of(journal_path(out))
        if not self.runtime and (there := found.header.runtime if found else begun):
            self = replace(self, runtime=there)  # noqa: PLW0642  the run that goes on
        header = self._header_as_in(found) if found else self._new_header()
        if found and not differences(found.identity, header) and not _did_not_come(found):
            return self._decided(found, decide), False
        with writing(out):
            journal = Journal.open(journal_path(out), header, force)
        with journal:
            if force or stamp_of(out) == seen:  # still
                if not journal.locked:
                    remark(NO_LOCKS)
                if journal.damage:
                    remark(journal.damage)
                plan = self._plan(journal, found)
                if "engine" in vars(self) and self.engine.note:
                    remark(self.engine.note)
                self._score(plan, journal, out, progress)
                return_memory()  # for the columns
                header, batches, room = journal.header, journal.batches(), Room(out.parent)
                scores = plan.merge(out, header, batches, _conversions(), room)
                changes = plan.changes(scores) if found else None
                scores = replace(scores, decision=_decide_anew(scores, changes, found, decide))
                with writing(out):
                    tiles = plan.tiles(found, journal)
                    scores = write_scores(out, scores, lambda: check_still(out, seen, force), tiles)
                    journal.remove()
                if changes:
                    tell(changes)
                return scores, changes is None or bool(changes)
            if journal.is_empty:
                journal.remove()
        return self.to_file(out, decide, force, progress, remark, tell)  # with what is there now

    def _plan(self, journal: Journal, found: ScoreFile | None) -> Plan:
        """What is to be scored, and what is known. Raises StoreError where it cannot be merged."""
        sizes, done = journal.header.sizes, journal.done
        plan = Plan.of(self.manifest, sizes, found, done, journal.earlier())
        differing: list[str] = []
        here = journal.header
        if found and not plan.has_common:
            differing = ["the images (none of them is in it, by name or by content)"]
        elif len(plan.missing(done)):
            ran = {"device": self.engine.device, "runtime": self.engine.runtime}
            here = here.model_copy(update=ran)  # which loads the model
            differing = differences(journal.header, here)
        if found and differing:
            if journal.is_empty:
                journal.remove()
            raise _made_from_others(found, differing, here)
        return plan

    def _score(self, plan: Plan, journal: Journal, out: Path, progress: Progress) -> None:
        """Score into the journal what is missing there."""
        missing, n_done = plan.missing(journal.done), 0
        n_known = len(self.manifest) - len(missing)
        progress(n_known, len(self.manifest))
        if len(missing):
            for batch in self.engine.score(self.manifest.pick(missing)):
                check_next(batch, n_done, len(missing))
                n_done += len(batch.rows)
                with writing(out):
                    for part in placed(batch, missing):
                        journal.append(part)
                progress(n_known + n_done, len(self.manifest))
        with writing(out):
            journal.sync()

    def _decided(self, found: ScoreFile, decide: Decide) -> ScoreFile:
        """The finished file, decided anew if `decide` gives another decision."""
        leftover = journal_path(found.path)
        if leftover.exists():  # a kill between the last two steps leaves the journal there
            with suppress(StoreError, OSError), Journal.open(leftover, found.identity) as journal:
                journal.remove()
        decision = decide(found)
        if decision is None or decision is found.decision:
            return found
        write_decision(found, decision)
        return replace(found, decision=decision)

    def _header_as_in(self, found: ScoreFile) -> RunHeader:
        """The header of this run, which a score file may be brought up to date with.

        Raises StoreError where more differs than the images.
        """
        there = found.identity
        here = self.header(self.device or there.device, self.runtime or there.runtime)
        if differences(there, here, OF_IMAGES):
            raise _made_from_others(found, differences(there, here), here)
        return here


def _shown(batches: Iterator[Batch], n_images: int, progress: Progress) -> Iterator[Batch]:
    """The same batches; progress is called after each."""
    for batch in batches:
        yield batch
        progress(batch.first + len(batch.rows), n_images)


def _did_not_come(found: ScoreFile) -> bool:
    """Whether images behind addresses could not be fetched, and are to be asked for again."""
    lacking = (found["status"] == STATUS_CODES["unreadable"]) & ~found.sha256.any(axis=1)
    return any(is_address(found.name(int(row))) for row in np.flatnonzero(lacking))


def _made_from_others(found: ScoreFile, differing: list[str], here: RunHeader) -> StoreError:
    return StoreError(
        f"{found.path} is there already, made from other inputs: " + "; ".join(differing),
        how_to_agree(found.identity, here)
        or "choose another file for them, or --force to replace it",
    )


def _decide_anew(
    scores: ScoreFile, changes: Changes | None, found: ScoreFile | None, decide: Decide
) -> Decision | None:
    """Decide merged scores. What was decided of the very same rows stands, as in a finished file.

    They are the same where files were only touched.
    """
    if found and not changes and np.array_equal(scores.names, found.names):
        return decide(replace(scores, decision=found.decision)) or found.decision
    return decide(scores)


def check_still(out: Path, seen: str, force: bool) -> None:
    """Raise StoreError if another process has written the file since it was `seen`."""
    if not force and stamp_of(out) != seen:
        raise StoreError(
            f"{out} was made by another process meanwhile",
            "run the same command again, or --force to replace it: what was scored here is kept",
        )


@contextmanager
def writing(out: Path) -> Iterator[None]:
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
