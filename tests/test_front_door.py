"""What a contributor meets first: a debugger that works, documents that are true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hvaeood_cli
from tests.conftest import pytest_xdist_auto_num_workers

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hvaeood_cli"
DOCUMENTS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md", "docs/api.md")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# -- running tests --------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [True, False], ids=["one test", "one file"])
def test_a_breakpoint_stops_where_it_stands(tmp_path, one):
    file = tmp_path / "test_stops.py"
    # Without gc.disable, pdb may stop in a generator of pytest's that is thrown away just then.
    lines = ("import gc", "def test_it():", "    gc.disable()", "    six = 6", "    breakpoint()")
    file.write_text("\n".join([*lines, "    assert six == 6\n"]))
    options = ["-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"{file}::test_it" if one else file],
        check=False,
        cwd=ROOT,
        input="p six * 7\ncontinue\n",
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert ran.returncode == 0 and "42" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        (["tests"], None),
        ([], None),
        (["tests/test_bounds.py", "tests/test_noise.py"], None),
        (["tests/test_bounds.py"], 0),
        (["tests/test_bounds.py::test_a", "tests/test_noise.py::test_b"], 0),
    ],
)
def test_only_a_large_run_takes_all_cores(arguments, workers, monkeypatch):
    monkeypatch.setattr(sys, "gettrace", lambda: None)  # whoever debugs this test
    monkeypatch.delitem(sys.modules, "pydevd", raising=False)
    config = SimpleNamespace(args=arguments, option=SimpleNamespace(trace=False))
    assert pytest_xdist_auto_num_workers(config) == workers
    config.option.trace = True
    assert pytest_xdist_auto_num_workers(config) == 0


# -- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_a_document_is_there(document):
    paths = re.findall(r"`([\w./-]+(?:\.py|\.md|\.toml|/))`", text(document))
    gone = {path for path in paths if not ((ROOT / path).exists() or (PACKAGE / path).exists())}
    assert not gone - {"hvaeood.toml"}  # a user's own
    links = re.findall(r"\]\(([\w./-]+)\)", text(document))
    assert not [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]


def test_the_architecture_names_every_room():
    rooms = [f"{path.parent.relative_to(PACKAGE)}/" for path in PACKAGE.rglob("*/__init__.py")]
    modules = [path.name for path in PACKAGE.glob("[!_]*.py")]
    document = text("docs/architecture.md")
    assert not [name for name in rooms + modules if f"`{name}`" not in document]


def test_the_picture_of_imports_is_the_contract():
    stanza = text("pyproject.toml").partition("layers = [")[2].partition("]")[0]
    contract = [re.findall(r"hvaeood_cli\.(\w+)", line) for line in stanza.split("\n")]
    picture = text("docs/architecture.md").partition("## Who may import whom")[2]
    drawn = [
        line.partition("  run >")[0].split()
        for line in re.findall(r"^    (\w.*)$", picture.partition("- `")[0], re.MULTILINE)
    ]
    assert drawn == [layer for layer in contract if layer]


def test_api_md_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "make_api.py"))["page"]()
    assert made == text("docs/api.md"), "python docs/make_api.py"


def test_api_md_has_every_public_name():
    page = text("docs/api.md")
    assert {name for name in hvaeood_cli.__all__ if f"`{name}`" not in page} == set()
    methods = {name for name in vars(hvaeood_cli.Detector) if not name.startswith("_")}
    assert set(re.findall(r"^#### `Detector\.(?!__init__)(\w+)`", page, re.MULTILINE)) == methods


def test_one_word_for_one_thing():
    """What the glossary retired comes back nowhere."""
    retired = re.compile(r"\b(oddness|suspicion)\b", re.IGNORECASE)
    files = [
        *PACKAGE.rglob("*.py"),
        *PACKAGE.rglob("*.j2"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
    ]
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in files
        if file.name != "CHANGELOG.md"
        for line in file.read_text(encoding="utf-8").splitlines()
        if retired.search(line)
    ]
    assert found == []


def test_the_citation_is_of_this_version():
    assert f"\nversion: {hvaeood_cli.__version__}\n" in text("CITATION.cff")


def test_the_score_files_page_has_every_attribute_and_dataset():
    from hvaeood_cli.store.columns import TABLE
    from hvaeood_cli.store.header import FORMAT_VERSION, RunHeader

    text = (ROOT / "docs" / "score-file.md").read_text()
    kinds = {"image": "(N,)", "k": "(N, L)", "layer": "(N, L)", "k > 0": "(N, L-1)"}
    kinds |= {"byte": "(N, 32)", "residual": "(N, 4)", "channel": "(N, n_channels)"}
    kinds["perturbation"] = "(N, 2)"
    for column in TABLE:
        assert f"| `{column.dataset}` | {kinds[column.each]} {column.dtype}" in text, column.name
    for name in RunHeader.model_fields:
        assert f"`{name}`" in text or name in ("n_images", "label"), name
    assert f"format_version = {FORMAT_VERSION}`" in text
