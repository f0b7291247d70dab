"""The details of one image, and the chips that judge it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual.content import Content, Span
from textual.widgets import Static

from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.store.judgements import MARKS
from hvaeood_cli.text import printable
from hvaeood_cli.tui.cells import MARK_WORDS
from hvaeood_cli.tui.run import COMBINED, Axis
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.chips import Chip, Chips

Line = list[Content | str | tuple[str, str]]

_ODD = 0.05  # p, up to which the reason for a rank is worth reading


class Detail(Static):
    """Path, scores, p-values, percentiles and judgement of a row."""

    DEFAULT_CSS = "Detail { height: auto; width: 1fr; }"
    _shown: tuple[str, Sequence[Span]] = ("", [])

    def show(self, snapshot: Snapshot, row: int, wide: bool = False) -> None:
        """Describe a row. wide: with more figures, and without the path, which stands above."""
        run, scores = snapshot.run, snapshot.run.scores
        path = Content(printable(bytes(scores.names[row]))).stylize("bold")
        lines: list[Content] = [] if wide else [path]
        if scores.status[row] != 0:
            lines += self._unreadable(snapshot, row)
        else:
            lines.append(self._rank(snapshot, row))
            lines.append(Content.assemble((_head(run.has_p, wide), "$text-muted")))
            lines += [self._of_k(snapshot, row, k, wide) for k in range(run.n_layers)]
            if why := why_odd(snapshot, row):
                lines.append(Content.assemble((why, "$text-warning")))
        judgement = snapshot.judgements.of(scores, row)
        if judgement:
            mark = MARK_WORDS[MARKS.index(judgement.mark) + 1] if judgement.mark else ""
            parts: Line = [(mark, "bold $text-accent"), "  " if mark else ""]
            lines.append(Content.assemble(*parts, (printable(judgement.note), "italic")))
        content = Content("\n").join(lines)
        shown = (content.plain, content.spans)
        if shown != self._shown:
            self._shown = shown
            self.update(content)

    def _rank(self, snapshot: Snapshot, row: int) -> Content:
        run = snapshot.run
        flagged = bool(snapshot.flags.flagged[row])
        said = ("● flagged", "bold $text-error") if flagged else ("not flagged", "$text-success")
        p = run.p_of(row, 0)
        if p is None:
            text = f"  combined {float(run.combined[row]):.1f} nats"
        else:
            percentile = run.percentile(row, COMBINED)
            text = f"  p {p:.2g}"
            if percentile is not None:
                text += f", odder than {_percent(percentile)} of usual"
        return Content.assemble(said, text)

    def _of_k(self, snapshot: Snapshot, row: int, k: int, wide: bool) -> Content:
        run, scores = snapshot.run, snapshot.run.scores
        bound = f"{scores.lower_bound[row, k]:10.1f}"
        nats_per_bit = scores.header.n_dims * math.log(2.0)
        bits = f"{-scores.lower_bound[row, k] / nats_per_bit:9.3f}" if wide else ""
        kl = f"{scores['kl'][row, k]:9.1f}{scores['log_px'][row, k]:12.1f}" if wide else ""
        ratio, p, percentile = " " * 9, "", ""
        if k:
            ratio = f"{scores.llr[row, k - 1]:9.1f}"
            here = run.p_of(row, k)
            p = f"{here:9.2g}" if here is not None else ""
            place = run.percentile(row, Axis("llr", k))
            percentile = f"{_percent(place):>8}" if place is not None else ""
        differs = k > 0 and k == run.k[row]
        text = f"{k:2}{ratio}{bound}{p}{percentile}"
        if wide:
            text = f"{k:2}{ratio}{bound}{bits}{kl}{p:>9}{percentile:>8}"
        parts: Line = [(text, "bold $text-warning" if differs else "")]
        if differs and wide:
            parts.append(("  ◂ most", "$text-warning"))
        return Content.assemble(*parts)

    def _unreadable(self, snapshot: Snapshot, row: int) -> list[Content]:
        scores = snapshot.run.scores
        status = printable(scores.status_name(row).replace("_", " "))
        return [
            Content.assemble((f"not scored: {status}", "bold $text-warning")),
            Content(printable(scores.errors[row])),
            Content.assemble(("mend the file, then hvaeood score again", "$text-muted")),
        ]


def why_odd(snapshot: Snapshot, row: int) -> str:
    """Why an image is odd, in words; empty where it is not, or where there is no calibration.

    Every image has a least usual statistic. It is a reason only for one that stands out.
    """
    run = snapshot.run
    p = run.p_of(row, 0)
    if run.calibration is None or p is None:
        return ""
    if not snapshot.flags.flagged[row] and p > _ODD:
        return ""
    (reason,) = reasons(run.calibration, run.scores, [row])
    return "" if reason is None else printable(reason.sentence)


class MarkChips(Chips):
    """Chips for the marks."""

    def show_marks(self, snapshot: Snapshot, row: int, wide: bool = False) -> None:
        """Show the mark of a row as chosen. wide: there is room for more than marks."""
        here = int(snapshot.marks[row])
        chips = [
            Chip(f"{number} {MARK_WORDS[number]}", f"screen.mark('{mark}')", here == number)
            for number, mark in enumerate(MARKS, start=1)
        ]
        chips += [Chip("0 none", "screen.mark('')"), Chip("n note", "screen.note")]
        if wide:
            chips += [
                Chip("y copy path", "screen.copy"),
                Chip("d differences", "screen.differences"),
            ]
        self.show(("", chips))


def _head(calibrated: bool, wide: bool) -> str:
    ratio, bound = "LLR>k", "L>k"
    end = f"{'p':>9}{'pctile':>8}" if calibrated else ""
    middle = f"{'bits/dim':>9}{'KL':>9}{'log p(x|z)':>12}" if wide else ""
    return f" k{ratio:>9}{bound:>10}{middle}{end}"


def _percent(value: float) -> str:
    if value in (0, 100):
        return f"{value:.0f} %"
    return f"{min(max(value, 0.1), 99.9):.1f} %"
