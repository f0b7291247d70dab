"""The bar of filters: which images the table lists, and how many each filter lets through."""

from __future__ import annotations

from hvaeood_cli.text import printable
from hvaeood_cli.tui.view import Snapshot
from hvaeood_cli.tui.widgets.chips import Chip, Chips


class FilterBar(Chips):
    """Chips for every filter."""

    def show_filters(self, snapshot: Snapshot) -> None:
        wanted, run = snapshot.view.filter, snapshot.run
        shown = [
            Chip(f"{name} {n:,}", f"screen.only('{name}')", name == wanted.shown)
            for name, n in snapshot.n_shown.items()
        ]
        ks = [Chip(str(k), f"screen.differing({k})", k == wanted.k) for k in range(1, run.n_layers)]
        text = f"“{printable(wanted.text)}”" if wanted.text else "find"
        end = [Chip(text, "screen.find", bool(wanted.text))]
        if wanted:
            end.append(Chip(f"clear ({len(snapshot.rows):,} listed)", "screen.clear"))
        self.show(("f u J", shown), ("d most at", ks), ("/", end))
