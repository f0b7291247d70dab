"""The report as a page: one HTML file that loads nothing, under a strict content policy."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from hvaeood_cli.calibration.foreign import OWN_MODEL
from hvaeood_cli.files import open_regular
from hvaeood_cli.report import figures
from hvaeood_cli.report.contents import Contents
from hvaeood_cli.report.evaluation import Comparison
from hvaeood_cli.text import printable

_HERE = Path(__file__).parent
_FINGERPRINT = re.compile('<meta name="hvaeood-report" content="([0-9a-f]{64})"')


def render(contents: Contents, fingerprint: str) -> str:
    """The page's HTML. fingerprint: a hash of all inputs, which `fingerprint_of` reads again."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("hvaeood_cli", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": printable, "p": format_p, "number": format_number}
    environment.filters["shell"] = lambda text: shlex.quote(printable(text))
    return environment.get_template("page.html.j2").render(
        report=contents,
        style=style,
        style_hash=f"sha256-{digest}",
        fingerprint=fingerprint,
        roc=lambda comparison: _curves(comparison, "roc"),
        precision_recall=lambda comparison: _curves(comparison, "precision_recall"),
        colour=line_class,
        own_model=OWN_MODEL,
    )


def fingerprint_of(path: Path) -> str | None:
    """The fingerprint in a page that this program made; None for any other file."""
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with open(open_regular(path), encoding="utf-8") as file:
            head = file.read(2000)
    except (OSError, UnicodeDecodeError):
        return None
    found = _FINGERPRINT.search(head)
    return found[1] if found else None


def format_p(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"


def format_number(value: float) -> str:
    """A number with one decimal from 100 on, else with three significant digits."""
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def line_class(score: str) -> str | None:
    """The CSS class of a score's curve; None for scores without a curve, to keep figures clear."""
    if score in ("combined", "L"):
        return {"combined": "combined", "L": "likelihood"}[score]
    kind, _, k = score.partition(">")
    return f"llr{min(int(k), 4)}" if kind == "LLR" and k.isdigit() else None


def _curves(comparison: Comparison, which: str) -> str:
    """An SVG of the curves of all scores with a `line_class`. which: an attribute of `Figures`."""
    axes = {
        "roc": ("false-positive rate", "true-positive rate"),
        "precision_recall": ("recall", "precision"),
    }
    classes = [(line_class(figure.score), figure) for figure in comparison.figures]
    lines = [(name, getattr(figure, which)) for name, figure in classes if name]
    return figures.curve(lines, *axes[which])
