"""Writes docs/api.md from the docstrings of the public names: `python docs/make_api.py`.

Nothing of the package is imported: signatures, fields and docstrings are taken as they stand in
the source. A name that is public is entered in `PUBLIC`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"

PUBLIC = {
    "A detector": {"detector.py": ["Detector"], "assembly.py": ["Assembly"]},
    "Score files": {
        "store/reader.py": ["read_scores"],
        "store/score_file.py": ["ScoreFile"],
        "store/header.py": ["RunHeader"],
        "store/decision.py": ["Decision", "Rule"],
        "store/columns.py": ["Column", "columns", "column"],
    },
    "Calibration and decisions": {
        "calibration/calibration.py": ["Calibration", "find_calibration"],
        "calibration/rules.py": ["decide"],
        "calibration/ranking.py": ["Ranking"],
    },
    "Tables": {"report/frame.py": ["to_frame", "to_parquet", "Part"]},
    "Runs, engines and sources": {
        "scoring/run.py": ["ScoringRun"],
        "scoring/engines/engine.py": ["Engine"],
        "images/sources.py": ["open_sources", "Manifest", "Source"],
    },
    "Errors": {
        "errors.py": [
            "HvaeoodError",
            "UsageError",
            "SourceError",
            "ImageError",
            "ModelError",
            "StoreError",
            "CalibrationError",
            "TrainingError",
            "ExitCode",
        ]
    },
}

INTRODUCTION = """\
# The Python API

Made from the docstrings by `python docs/make_api.py`; do not edit it by hand. `Detector` comes from
`hvaeood_cli` itself, as does `__version__`; the other names from the modules that are named. L is
the number of stochastic layers, N of images. The words are explained in [glossary.md](glossary.md).
"""


def page() -> str:
    """The whole of docs/api.md."""
    parts = [INTRODUCTION]
    for title, modules in PUBLIC.items():
        parts.append(f"## {title}\n")
        for module, names in modules.items():
            source = (ROOT / "hvaeood_cli" / module).read_text(encoding="utf-8")
            found = {getattr(node, "name", None): node for node in ast.parse(source).body}
            for name in names:
                parts += _entry(found[name], source.splitlines(), module)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))  # where there is no docstring


def _entry(node: ast.stmt, lines: list[str], module: str) -> Iterator[str]:
    """A function, or a class with its fields and its public members."""
    assert isinstance(node, ast.ClassDef | ast.FunctionDef), f"{module}: neither class nor function"
    where = module.removesuffix(".py").replace("/", ".")
    yield f"### `{node.name}`\n\n`hvaeood_cli.{where}`\n"
    if isinstance(node, ast.FunctionDef):
        yield from _signature(node, lines)
        yield _docstring(node)
        return
    yield _docstring(node)
    fields = [line for part in node.body if _is_field(part) for line in _source(part, lines)]
    if fields:
        yield _code(fields)
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and _is_public(part):
            yield f"#### `{node.name}.{part.name}`\n"
            yield from _signature(part, lines)
            yield _docstring(part)


def _is_field(node: ast.stmt) -> bool:
    """A field of a dataclass, a value of an enumeration, an attribute of a class."""
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) != "model_config"


def _is_public(node: ast.FunctionDef) -> bool:
    overload = any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
    return node.name == "__init__" or not (node.name.startswith("_") or overload)


def _signature(node: ast.FunctionDef, lines: list[str]) -> Iterator[str]:
    """Decorators and the head, as they stand in the source."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    last = max(node.lineno, node.body[0].lineno - 1)
    head = lines[first - 1 : last]
    head[-1] = re.sub(r":( \.\.\.)?$", "", head[-1])
    yield _code(head)


def _source(node: ast.stmt, lines: list[str]) -> list[str]:
    return lines[node.lineno - 1 : node.end_lineno]


def _code(lines: list[str]) -> str:
    return "```python\n" + dedent("\n".join(lines)) + "\n```\n"


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    """As Markdown: what a prompt stands before is code."""
    text = ast.get_docstring(node) or ""
    return re.sub(r"((?:^>>>.*\n?)+)", r"```python\n\1\n```", text, flags=re.MULTILINE) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
