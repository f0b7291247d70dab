"""The report as Markdown: for issues, merge requests and chat. No pictures."""

from __future__ import annotations

from collections.abc import Iterator

from hvaeood_cli.calibration.ranking import AGAINST_BATCH
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
        yield f"\n{remark}\n"


def _section(section: Section) -> Iterator[str]:
    scores, run = section.scores, section.scores.header
    yield f"# {_code(str(scores.path))}\n\n"
    flagged = f", **{section.n_flagged:,} flagged** at {section.rule}" if section.rule else ""
    yield f"{scores.n_scored:,} of {len(scores):,} images scored{flagged}.\n"
    if not section.rule:
        yield f"Without a calibration, {AGAINST_BATCH}.\n"
    if section.drift:
        yield f"Batch: {section.drift}.\n"
    if section.gallery:
        ks = [f"LLR>{k}" for k in range(1, scores.n_layers)]
        yield "\n"
        yield from _table(["image", "flagged", "p", "k", *ks])
        for odd in section.gallery:
            cells = [_code(odd.name), "yes" if odd.flagged else "", format_p(odd.p_combined)]
            yield _row([*cells, str(odd.k), *(format_number(value) for value in odd.llr)])
    if section.judged_images:
        yield f"\n{section.n_judged:,} judged by hand:\n\n"
        yield from _table(["image", "judgement", "note"])
        for name, judgement in section.judged_images:
            yield _row([_code(name), judgement.mark, _code(judgement.note)])
    if section.n_bad:
        yield f"\n{section.n_bad:,} could not be read:\n\n"
        yield from _table(["image", "what is wrong", "more"])
        for name, status, why in section.bad:
            yield _row([_code(name), status.replace("_", " "), _code(why)])
    yield (
        f"\nModel {_code(run.model_name)} ({run.model_sha256[:12]}), "
        f"S = {run.n_importance_samples}, proposal {_code(run.proposal)}, "
        f"seed {run.seed}"
    )
    if scores.decision:
        decision = scores.decision
        yield f"; calibration {_code(decision.calibration_id)}, {decision.n_calibration:,} images"
    yield ".\n\n"


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
