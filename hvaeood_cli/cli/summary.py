"""What `score` and `decide` show people: counts, the oddest images, a histogram for each k."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hvaeood_cli.calibration.foreign import OWN_MODEL, Foreign, foreign
from hvaeood_cli.calibration.ranking import AGAINST_BATCH, Ranking
from hvaeood_cli.calibration.reasons import Reason, reasons
from hvaeood_cli.errors import ModelError
from hvaeood_cli.images.remote import is_address
from hvaeood_cli.store.decision import Decision
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.text import format_p, printable, shorten

_FLAG = "●"
_BLOCKS = " ▁▂▃▄▅▆▇█"
_MAX_ERRORS = 5
_OF_FILE = ("--model", "--calibration", "--data-root")  # options that `report` takes too


def draw(
    scores: ScoreFile,
    ranking: Ranking,
    top: int,
    done: str,
    width: int,
    options: Mapping[str, str],
    page: Path | None = None,
) -> Iterator[RenderableType]:
    """The whole summary for a terminal of this width, from top to bottom.

    done: when and where the images were scored, in words. options: those that the next command
    must repeat. page: the report, where there is one.
    """
    yield _headline(scores, done)
    unknown = foreign(scores, ranking.calibration)
    order = ranking.order()
    if unknown:
        yield ""
        yield from _foreign(unknown)
    else:
        if scores.decision:
            yield _decision(scores, scores.decision)
        else:
            yield Text(f"not decided: {AGAINST_BATCH}", style="yellow")
        if ranking.drift:
            yield Text(f"batch: {ranking.drift}", style="yellow" if ranking.drift.drifted else "")
        if top and len(order):
            once = order[scores.first_copies[order] == order]  # copies of an image are one find
            yield ""
            yield _table(scores, ranking, once[:top], width)
            yield _explanation(scores, ranking)
    if len(order):
        yield ""
        yield from _histograms(scores, ranking, width)
    bad = np.flatnonzero(scores.unreadable)
    if len(bad):
        yield ""
        yield from _unreadable(scores, bad, width)
    yield ""
    yield _tail(scores, order, options, unknown is not None, page)


def _headline(scores: ScoreFile, done: str) -> Text:
    run, n = scores.header, scores.header.n_images
    text = Text.assemble(
        (f"{scores.n_scored:,}", "bold"), f" of {n:,} images scored {printable(done)}"
    )
    text.append(
        f"\nmodel {printable(run.model_name)} ({run.model_sha256[:12]}), "
        f"S = {run.n_importance_samples}, proposal {run.proposal}, seed {run.seed}"
    )
    return text


def _decision(scores: ScoreFile, decision: Decision) -> Text:
    """How many are flagged, by which rule, and what that rule promises."""
    n, n_flagged = scores.n_scored, decision.n_flagged
    rule = decision.by
    text = Text.assemble((f"{n_flagged:,} flagged", "bold red" if n_flagged else "bold"))
    n_different = len(np.unique(scores.first_copies[decision.flagged]))
    if n_different < n_flagged:
        text.append(f" ({n_different:,} different {'image' if n_different == 1 else 'images'})")
    text.append(f" at {rule}: ")
    if rule.kind == "fpr":
        text.append(f"if all {n:,} belonged, about {rule.level * n:,.1f} would be")
    elif n_flagged:
        text.append(f"of these, about {rule.level * n_flagged:,.1f} at most belong, on average")
    else:
        text.append("no image stands out enough among so many")
    text.append(
        f"\ncalibration {printable(decision.calibration_id)}, {decision.n_calibration:,} images: "
        f"no p below {decision.least_p:.2g}",
        style="dim",
    )
    return text


def _foreign(unknown: Foreign) -> Iterator[RenderableType]:
    """That the model does not know these images, and in which ways they are foreign to it."""
    yield Text(printable(unknown.headline), style="bold red")
    ways = Table.grid(padding=(0, 1))
    for way in unknown.ways:
        ways.add_row("-", Text(printable(way)))
    yield ways
    yield Text("None of them is a find. A model of your own images can tell which are odd.")


def _table(scores: ScoreFile, ranking: Ranking, rows: NDArray[np.int64], width: int) -> Table:
    """What ranks each row, and why it is odd; its scores instead where that is not known."""
    if scores.decision and ranking.calibration:
        why = reasons(ranking.calibration, scores, rows)
        return _table_of_reasons(scores, ranking, rows, why, width)
    return _table_of_scores(scores, ranking, rows, width)


def _table_of_reasons(
    scores: ScoreFile,
    ranking: Ranking,
    rows: NDArray[np.int64],
    why: list[Reason | None],
    width: int,
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", width=1)
    table.add_column("p", justify="right")
    table.add_column("image, and why it is odd", overflow="fold")
    for i, reason in zip(rows, why, strict=True):
        lines = [_name(scores, i, max(20, width - 12))]
        if reason:
            lines.append(Text(reason.brief, style="dim"))
        table.add_row(*_rank(scores, ranking, i), Text("\n").join(lines))
    return table


def _table_of_scores(
    scores: ScoreFile, ranking: Ranking, rows: NDArray[np.int64], width: int
) -> Table:
    decision = scores.decision
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    if decision:
        table.add_column("", width=1)
    table.add_column("p" if decision else "combined", justify="right")
    for k in range(1, scores.n_layers):
        table.add_column(f"LLR>{k}", justify="right")
    table.add_column("k", justify="right")
    table.add_column("image", no_wrap=True)
    room = max(20, width - 11 - 10 * scores.n_layers - 3)
    for i in rows:
        cells: list[Text | str] = list(_rank(scores, ranking, i))
        for k in range(1, scores.n_layers):
            style = "yellow" if k == ranking.k[i] else ""
            cells.append(Text(f"{scores.llr[i, k - 1]:.1f}", style=style))
        table.add_row(*cells, str(ranking.k[i]), _name(scores, i, room))
    return table


def _name(scores: ScoreFile, row: np.int64, room: int) -> Text:
    """The image's name in so many characters, and how many copies of it there are."""
    n_copies = int((scores.first_copies == row).sum())
    note = f" ({n_copies:,} copies)" if n_copies > 1 else ""
    name = Text(shorten(printable(bytes(scores.names[row])), room - len(note)))
    return name.append(note, style="dim")


def _rank(scores: ScoreFile, ranking: Ranking, i: np.int64) -> Iterator[Text]:
    """The cells for what ranks a row: its p-value, marked if flagged, or its combined score."""
    if scores.decision is None:
        yield Text(f"{ranking.combined[i]:.1f}", style="bold")
        return
    flagged = scores.decision.flagged[i]
    yield Text(_FLAG if flagged else "", style="bold red")
    p = float(scores.decision.p_combined[i])
    yield Text(format_p(p), style="bold red" if flagged else "")


def _explanation(scores: ScoreFile, ranking: Ranking) -> Text:
    words = "combined: how rare such scores are in this batch; all in nats"
    if scores.decision:
        words = f"{_FLAG} flagged; p: how often an image that belongs scores as odd"
    if ranking.within:
        words = f"{_FLAG} flagged; p: the share of these images that are at least as odd"
    return Text(words, style="dim")


def _histograms(scores: ScoreFile, ranking: Ranking, width: int) -> Iterator[RenderableType]:
    """For each k, the images scored here, below the calibration's if they are at hand."""
    n_bins = max(20, min(60, width - 30))
    for k in range(1, scores.n_layers):
        here = _finite(scores.llr[scores.scored, k - 1])
        usual = None if ranking.usual_llr is None else _finite(ranking.usual_llr[:, k - 1])
        both = here if usual is None else np.concatenate([here, usual])
        low, high = np.quantile(both, [0.001, 0.999]) if len(both) else (0.0, 0.0)
        edges = np.linspace(low, max(high, low + 1e-6), n_bins + 1)
        if usual is not None:
            yield Text.assemble((f"LLR>{k}  ", "bold"), ("usual  ", "dim"), _bars(usual, edges))
            yield Text.assemble("       here   ", (_bars(here, edges), "yellow"))
        else:
            yield Text.assemble((f"LLR>{k}  ", "bold"), "here   ", (_bars(here, edges), "yellow"))
        left, right = f"{low:.0f}", f"{high:.0f} nats"
        gap = " " * max(1, n_bins - len(left) - len(right))
        yield Text(f"              {left}{gap}{right}", style="dim")


def _finite(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(values[np.isfinite(values)], np.float64)


def _bars(values: NDArray[np.float64], edges: NDArray[np.float64]) -> str:
    """Counts as a line of blocks, by their square root, so that a few odd images are seen."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    heights = np.sqrt(counts / max(counts.max(), 1))
    return "".join(_BLOCKS[int(np.ceil(height * (len(_BLOCKS) - 1)))] for height in heights)


def _unreadable(scores: ScoreFile, bad: NDArray[np.int64], width: int) -> Iterator[RenderableType]:
    yield Text(f"{len(bad):,} could not be read", style="bold red")
    for i in bad[:_MAX_ERRORS]:
        kind = printable(scores.status_name(i).replace("_", " "))
        path = shorten(printable(bytes(scores.names[i])), max(20, width - 20))
        yield Text(f"  {kind:13} {path}")
    if len(bad) > _MAX_ERRORS:
        yield Text(f"  and {len(bad) - _MAX_ERRORS:,} more; --jsonl lists them all", style="dim")


def _tail(
    scores: ScoreFile,
    order: NDArray[np.int64],
    options: Mapping[str, str],
    unknown: bool,
    page: Path | None,
) -> Text:
    """Where the scores are, and what to type next, if a shell can take the names in it.

    unknown: whether the model does not know these images. page: the report, where there is one.
    """
    text = Text.assemble("scores  ", (printable(str(scores.path)), "bold"))
    if page:
        text.append("\nreport  ").append(printable(str(page)), style="bold")
    verb = "tui" if page else "report"
    behind = len(order) and is_address(scores.name(order[0]))
    shown_by = [*_given(options, *_OF_FILE), *(["--remote"] if behind else [])]
    commands = [["hvaeood", verb, str(scores.path), *shown_by]]
    if unknown:
        commands = [*map(str.split, OWN_MODEL), *commands]
    elif len(order) and (model := _model(scores, options)) is not None:
        others = (name for name in options if name not in ("--calibration", "--model"))
        of_image = [scores.name(order[0]), *model, *_given(options, *others)]
        commands.append(["hvaeood", "reconstruct", *of_image, "-o", "grid.png"])
    shown = [command for command in commands if all(part.isprintable() for part in command)]
    for number, command in enumerate(shown):
        text.append("\n        " if number else "\nnext    ")
        text.append(shlex.join(command), style="bold")
    return text


def _model(scores: ScoreFile, options: Mapping[str, str]) -> list[str] | None:
    """The option that names the model that scored; none for the usual one. None if it is gone."""
    from hvaeood_cli.looks.looker import bundle_of
    from hvaeood_cli.model.bundle import DEFAULT_MODEL, folder_named

    if "--model" in options:
        return _given(options, "--model")
    try:
        bundle = bundle_of(scores, None)
    except ModelError:
        return None
    if folder_named(bundle.name) == bundle.folder:
        return [] if bundle.name == DEFAULT_MODEL else ["--model", bundle.name]
    return ["--model", os.path.relpath(bundle.folder)]


def _given(options: Mapping[str, str], *names: str) -> list[str]:
    """Those of the named options that have a value, as words of a command line."""
    return [word for name in names if name in options for word in (name, options[name])]
