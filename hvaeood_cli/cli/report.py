"""`hvaeood report`: make one page of score files to pass on, or rows for a script."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from hvaeood_cli.cli import console, deciding, options
from hvaeood_cli.cli.scoring import seen_in_training
from hvaeood_cli.errors import CalibrationError, HvaeoodError, StoreError, UsageError
from hvaeood_cli.files import check_output
from hvaeood_cli.text import printable
from hvaeood_cli.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hvaeood_cli.calibration.calibration import Calibration
    from hvaeood_cli.looks.look import Looker
    from hvaeood_cli.report.contents import Section
    from hvaeood_cli.report.labels import Labels
    from hvaeood_cli.store.judgements import Judgements
    from hvaeood_cli.store.score_file import ScoreFile

_FORMATS = ("html", "json", "csv", "parquet", "md")
_OTHER_CALIBRATION = (
    "not all of these files were decided by one calibration: their combined scores are not "
    "compared. hvaeood decide FILE --calibration FILE decides them alike"
)


def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.h5", help="Score files.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where it goes.",
            show_default="report.html; stdout for the other formats",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(_FORMATS),
            help="A page, or data.",
            show_default="by the ending of -o, else html",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Columns path and label (0 belongs, 1 does not): how well are they told apart? "
            "If all in it are 1, the rest belongs.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", min=0, max=500, help="How many odd images are shown.")
    ] = 24,
    model: options.ModelOfScores = None,
    calibration: options.CalibrationFile = None,
    data_root: options.DataRoot = None,
    remote: options.Remote = False,
    device: options.Device = "auto",
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a report of score files: one page that needs nothing else.

    Example: **hvaeood report photos.scores.h5 -o report.html**

    Shows what is flagged and by which rule, the distributions, the oddest images beside their
    reconstructions, your judgements, and whether the batch as a whole has drifted. With --labels,
    or with several files (the first belongs, the others do not), also how well they are told
    apart.

    Next: open report.html, or **hvaeood decide FILE.h5 --fdr 0.05** and report again.
    """
    format_ = format_ or _format_of(output)
    out = _output(output, format_)
    from hvaeood_cli.report.labels import read_labels
    from hvaeood_cli.store.judgements import judgements_path, read_judgements
    from hvaeood_cli.store.reader import read_scores

    scored = [read_scores(path).present for path in files]
    known = read_labels(labels) if labels else None
    named = _named(calibration, scored) if calibration else None
    warn = console.warner(quiet)
    found = []
    for scores in scored:
        decided_by = named if deciding.made(scores.decision, named) else None
        decided_by = decided_by or deciding.calibration_that_decided(scores, model, warn)
        found.append(Input(scores, decided_by, read_judgements(scores.path)))
    fingerprint = _fingerprint(found, labels, (format_, top, __version__))
    if out and out.exists():
        _check_no_input(out, [*files, *map(judgements_path, files), labels, calibration])
    if out and out.exists() and not force:
        _check_done(out, fingerprint)
        if not quiet:
            console.say(f"{out} is there already, made from these very scores")
        return
    remarks = list(_remarks(scored, known))
    for remark in remarks:
        warn(remark)
    if out and format_ == "parquet":
        with _replacing(out) as temporary:
            _write_parquet(temporary, found, known)
    else:
        if format_ in ("json", "csv"):
            lines = _data(format_, found, known, remarks)
        else:
            show = (
                _Show(model, data_root, remote, device, calibration)
                if format_ == "html" and top
                else None
            )
            lines = _written(format_, found, known, top, show, fingerprint, remarks, warn)
        if out is None:
            console.emit(lines)
            return
        with (
            _replacing(out) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            file.writelines(lines)
    if not quiet:
        console.say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def _remarks(files: list[ScoreFile], labels: Labels | None) -> Iterator[str]:
    """What must be known of the report as a whole. Raises SourceError for labels of other files."""
    from hvaeood_cli.report.evaluation import have_one_calibration
    from hvaeood_cli.report.labels import match_files

    if not have_one_calibration(files):
        yield _OTHER_CALIBRATION
    if labels is not None and (remark := match_files(labels, files).remark):
        yield remark


class Input(NamedTuple):
    """One score file, with its calibration and judgements."""

    scores: ScoreFile
    calibration: Calibration | None  # the one that decided it, if it is at hand
    judgements: Judgements


class _Show(NamedTuple):
    """What it takes to show images: the model, where data sets are, the device, and a calibration.

    What is usual of a map is kept beside a calibration: of one that is named, or of the model's.
    """

    model: str | None
    data_root: Path | None
    remote: bool
    device: str
    calibration: Path | None


def _format_of(output: Path | None) -> str:
    """The format that a file's name ends with; a page otherwise."""
    ending = output.suffix[1:].lower() if output else ""
    return ending if ending in _FORMATS else "html"


def _output(output: Path | None, format_: str) -> Path | None:
    """The file that the report goes to; None for standard output. Raises UsageError."""
    if format_ not in _FORMATS:
        raise UsageError(f"no format is called {format_!r}", f"formats: {', '.join(_FORMATS)}")
    out = output or (Path("report.html") if format_ == "html" else None)
    if out is None and format_ == "parquet":
        raise UsageError("a Parquet file is not for a terminal", "name a file: -o scores.parquet")
    if out:
        check_output(out, f"report.{format_}")
    return out


def _one_calibration(inputs: list[Input]) -> Calibration | None:
    """The calibration that decided all of the files; None where there is no such one."""
    found = {one.calibration.id: one.calibration for one in inputs if one.calibration}
    is_one = len(found) == 1 and all(one.calibration for one in inputs)
    return next(iter(found.values())) if is_one else None


def _named(path: Path, files: list[ScoreFile]) -> Calibration:
    """The calibration that is named. Raises CalibrationError where it did not decide them."""
    from hvaeood_cli.calibration.calibration import Calibration

    named = Calibration.load(path)
    others = {scores.path: scores.decision for scores in files if scores.decision}
    if others and not any(deciding.made(decision, named) for decision in others.values()):
        file, decision = next(iter(others.items()))
        raise CalibrationError(
            f"{file} is decided by the calibration {decision.calibration_id}, not by {path}, "
            f"which is {named.id}",
            f"hvaeood decide {file} --calibration {path}, or leave --calibration out",
        )
    for scores in files:
        if deciding.made(scores.decision, named):
            named.check_statistics(scores)
    return named


def _data(
    format_: str, inputs: list[Input], labels: Labels | None, remarks: list[str]
) -> Iterator[str]:
    from hvaeood_cli.calibration.ranking import Ranking
    from hvaeood_cli.report import rows
    from hvaeood_cli.report.evaluation import evaluate

    listings = [
        rows.Listing(scores, Ranking.of(scores, calibration), judgements)
        for scores, calibration, judgements in inputs
    ]
    files = [one.scores for one in inputs]
    if format_ == "csv":
        yield from rows.files_as_csv(listings, _labels_of(files, labels))
        return
    compared = evaluate(files, _names(files), labels, _one_calibration(inputs))
    yield from rows.files_as_json(listings, [one.facts() for one in compared], remarks)


def _write_parquet(place: Path, inputs: list[Input], labels: Labels | None) -> None:
    from hvaeood_cli.report.frame import Part, to_parquet

    known = _labels_of([one.scores for one in inputs], labels)
    to_parquet(place, [Part(*one, of_file) for one, of_file in zip(inputs, known, strict=True)])


def _labels_of(files: list[ScoreFile], labels: Labels | None) -> list[NDArray[np.int8] | None]:
    """The labels of each file's rows, (N,): those that are given, else its own, if it has any."""
    from hvaeood_cli.report.labels import match_files

    if labels is None:
        return [scores.label for scores in files]
    return list(match_files(labels, files).labels)


def _written(
    format_: str,
    inputs: list[Input],
    labels: Labels | None,
    top: int,
    show: _Show | None,
    fingerprint: str,
    remarks: list[str],
    warn: deciding.Warn,
) -> Iterator[str]:
    from hvaeood_cli.report import markdown, page
    from hvaeood_cli.report.contents import Contents, gather
    from hvaeood_cli.report.evaluation import evaluate
    from hvaeood_cli.report.gallery import PAGE

    files = [one.scores for one in inputs]
    compared = evaluate(
        files, _names(files), labels, _one_calibration(inputs)
    )  # raises for wrong labels: so it comes first
    room = PAGE // len(inputs)
    sections = []
    for one in inputs:
        look, glance = _lookers(one.scores, show, remarks) if show else (None, None)
        sections.append(gather(*one, look, glance, top, room))
        _warn_of_missing(sections[-1], warn)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    contents = Contents(sections, compared, created, __version__, remarks)
    if format_ == "md":
        yield from markdown.render(contents)
    else:
        yield page.render(contents, fingerprint)


def _lookers(scores: ScoreFile, show: _Show, remarks: list[str]) -> tuple[Looker, Looker]:
    """What shows this file's images beside their reconstructions, and what shows them alone.

    Where there is no model to reconstruct them, both show them alone, and a remark says why.
    """
    from hvaeood_cli.images.reader import ImageReader
    from hvaeood_cli.looks.looker import Glancing, Looking

    reader = ImageReader(show.data_root, scores.path, show.remote)
    glance = Glancing(scores, reader)
    try:
        look = Looking(scores, reader, show.model, show.device, show.calibration)
        if look.why_nats and look.why_nats not in remarks:
            remarks.append(f"Maps are in nats: {look.why_nats}.")
        if seen := seen_in_training(look.bundle, scores):
            remarks.append(f"{scores.path.name}: {seen}.")
        return look, glance
    except HvaeoodError as error:
        if show.model is not None:
            raise
        if error.message not in remarks:
            remarks.append(f"{error.message}: reconstructions are not shown. {error.hint}")
        return glance, glance


def _warn_of_missing(section: Section, warn: deciding.Warn) -> None:
    """Say how many pictures could not be shown, and why the first of them could not."""
    if section.missing:
        name, why = section.missing[0]
        more = " ..." if len(section.missing) > 1 else ""
        warn(
            f"{len(section.missing):,} of {section.n_pictures:,} pictures are missing: "
            f"{why.rstrip('.')}: {printable(name)}{more}"
        )


def _names(files: list[ScoreFile]) -> list[str]:
    return [str(scores.path) for scores in files]


def _fingerprint(inputs: list[Input], labels: Path | None, settings: tuple[object, ...]) -> str:
    """A hash of everything that the report is made from, except the images."""
    digest = hashlib.sha256(json.dumps([str(setting) for setting in settings]).encode())
    for path in [*(one.scores.path for one in inputs), *([labels] if labels else [])]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for one in inputs:
        digest.update(repr(one.judgements.by_key).encode())
        digest.update((one.calibration.id if one.calibration else "none").encode())
    return digest.hexdigest()


def _check_no_input(out: Path, inputs: list[Path | None]) -> None:
    """Raise UsageError where the report would replace what it is made from."""
    for path in inputs:
        if path is not None and path.exists() and out.samefile(path):
            raise UsageError(f"{out} is what the report is made from", "choose another -o")


def _check_done(out: Path, fingerprint: str) -> None:
    """Raise StoreError unless `out` is the very report that was asked for."""
    from hvaeood_cli.report.page import fingerprint_of

    if fingerprint_of(out) != fingerprint:
        raise StoreError(f"{out} is there already", "choose another -o, or --force to replace it")


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `out` when it is whole. Raises StoreError."""
    from hvaeood_cli.files import replacing

    try:
        with replacing(out) as temporary:
            yield temporary
    except OSError as error:
        raise StoreError(
            f"cannot write {out}: {error.strerror or error}", "make room, or choose another -o"
        ) from None
