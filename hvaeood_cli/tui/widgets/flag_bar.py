"""The bar of flags: how many images are flagged, by which rule, and what that promises."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from hvaeood_cli.text import printable
from hvaeood_cli.tui.threshold import kind_of, kinds, promise, words
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.chips import Chip, Chips

_NAMES = {"fpr": "FPR", "fdr": "FDR", "fdr-by": "FDR-BY", "score": "score"}


class FlagBar(Vertical):
    """Three lines: the flags; the file, model and calibration; the rules to choose from."""

    DEFAULT_CSS = """
    FlagBar {
        height: 3;
        padding: 0 1;
        background: $surface;
        border-left: outer $success;
        &.-flagged { border-left: outer $error; }
        Static { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static(id="flags")
        yield Static(id="source")
        yield Chips(id="rules")

    def show(self, snapshot: Snapshot, others: bool) -> None:
        """others: whether there is a second file."""
        run, flags = snapshot.run, snapshot.flags
        self.set_class(flags.n_flagged > 0, "-flagged")
        tone = "bold $text-error" if flags.n_flagged else "bold $text-success"
        self.query_one("#flags", Static).update(
            Content.assemble(
                (f"{flags.n_flagged:,} flagged", tone),
                f" of {run.n_scored:,}",
                (f"  {words(run, flags.threshold)}", "bold"),
                f": {promise(run, flags)}",
            ),
            layout=False,
        )
        header = run.scores.header
        model = printable(header.model_name)
        usual = (
            f"calibration {printable(run.calibration.id)}, {len(run.calibration.combined):,} images"
            if run.calibration
            else run.why_not
        )
        self.query_one("#source", Static).update(
            Content.assemble(
                (run.title, "bold"),
                (f"  model {model} ({header.model_sha256[:8]})  ", "$text-muted"),
                (usual, "$text-muted" if run.calibration else "$text-warning"),
            ),
            layout=False,
        )
        here = kind_of(flags.threshold)
        rules = [Chip(_NAMES[kind], f"screen.rule('{kind}')", kind == here) for kind in kinds(run)]
        steps = [
            Chip("◂ looser", "screen.nudge(-1)"),
            Chip("stricter ▸", "screen.nudge(1)"),
            Chip("type it", "screen.type_threshold"),
        ]
        views = [Chip("all k", "app.all_k")]
        if others:
            views += [Chip("compare", "app.compare"), Chip("other file", "app.other_file")]
        self.query_one(Chips).show(("r", rules), ("", steps), ("a", views))
