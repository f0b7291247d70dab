"""The report as Markdown: for issues, merge requests and chat. No pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hvaeood_cli.calibration.foreign import OWN_MODEL, Foreign
from hvaeood_cli.report.contents import Contents, Section
from hvaeood_cli.report.evaluation import Comparison
from hvaeood_cli.report.page import format_number, format_p
from hvaeood_cli.text import printable


def render(contents: Contents) -> Iterator[str]:
    """The lines of the report, from top to bottom."""
    for section in contents.sections:
        yield from _section(section)
    for comparison in contents.comparisons:
        yield from _comparison(comparison)
    for remark in contents.remarks:
        yield f"\n{_plain(remark)}\n"


def _section(section: Section) -> Iterator[str]:
    scores, run = section.scores, section.scores.header
    yield f"# {_code(str(scores.path))}\n\n"
    flagged = f", **{section.n_flagged:,} flagged** at {section.rule}" if section.rule else ""
    yield f"{scores.n_scored:,} of {len(scores):,} images scored{flagged}.\n"
    if not section.rule:
        yield "Nothing is decided: this is a ranking of the batch against itself alone.\n"
    if section.foreign:
        yield from _foreign(section.foreign)
    elif section.drift:
        yield f"Batch: {section.drift}.\n"
    if section.gallery and not section.foreign:
        yield "\n"
        yield from _images(section)
    if section.judged_images:
        yield f"\n{section.n_judged:,} judged by hand:\n\n"
        yield from _table(["image", "judgement", "note"])
        for name, judgement in section.judged_images:
            yield _row([_code(name), judgement.mark, _code(judgement.note)])
    if section.n_bad:
        yield f"\n{section.n_bad:,} could not be read:\n\n"
        yield from _table(["image", "what is wrong", "more"])
        for name, status, why in section.bad:
            yield _row([_code(name), _plain(status.replace("_", " ")), _code(why)])
    yield (
        f"\nModel {_code(run.model_name)} ({run.model_sha256[:12]}), "
        f"S = {run.n_importance_samples}, proposal {_code(run.proposal)}, "
        f"seed {run.seed}"
    )
    if scores.decision:
        decision = scores.decision
        yield f"; calibration {_code(decision.calibration_id)}, {decision.n_calibration:,} images"
    yield ".\n\n"


def _foreign(foreign: Foreign) -> Iterator[str]:
    model, flagged = _code(foreign.model), f"{foreign.n_flagged:,} of {foreign.n_scored:,}"
    yield f"\n**The model {model} does not know these images: {flagged} are flagged.**\n\n"
    yield from (f"- {_plain(way)}\n" for way in foreign.ways)
    find, *others = map(_code, OWN_MODEL)
    yield f"\nNext: {find}, or {' and '.join(others)}\n"


def _images(section: Section) -> Iterator[str]:
    """The oddest images by what ranks them, with the reason why each is flagged."""
    decided = section.rule is not None
    yield from _table(["image", "copies", "flagged", "p", "why"] if decided else ["image", "score"])
    for odd in section.gallery:
        rank = format_p(odd.p_combined) if decided else format_number(odd.combined)
        copies = f"{len(odd.copies):,}" if odd.copies else ""
        cells = [copies, "yes" if odd.flagged else "", rank, odd.why.replace("|", "\\|")]
        yield _row([_code(odd.name), *(cells if decided else [rank])])
    if section.more:
        yield f"\n{len(section.more):,} more are flagged; `--format csv` lists all.\n"


def _comparison(comparison: Comparison) -> Iterator[str]:
    n = comparison.figures[0].metrics.n
    yield f"## {_code(comparison.inside)} against {_code(comparison.outside)}\n\n"
    yield f"{n:,} images of each; bootstrap 95 % intervals; bounds negated.\n\n"
    yield from _table(["score", "AUROC", "AUPRC", "FPR80"])
    for figure in comparison.figures:
        figures = zip(figure.metrics[:3], figure.intervals[:3], strict=True)
        cells = [f"{value:.4f} ({low:.3f}-{high:.3f})" for value, (low, high) in figures]
        yield _row([_code(figure.score), *cells])
    yield "\n"


def _table(header: list[str]) -> Iterator[str]:
    yield _row(header)
    yield _row(["---"] * len(header))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _plain(text: str) -> str:
    """The text as Markdown that is nothing but text."""
    return re.sub(r"([\\`*_\[\]<>&|#~])", r"\\\1", printable(text))


def _code(text: str | bytes) -> str:
    """The text as Markdown code, fenced by more backticks than it holds, so that none is markup."""
    safe = printable(text).replace("|", "\\|")
    if not safe:
        return ""
    fence = "`"
    while fence in safe:
        fence += "`"
    pad = " " if "`" in safe else ""
    return f"{fence}{pad}{safe}{pad}{fence}"
