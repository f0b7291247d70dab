"""What a contributor meets first: a debugger that works, documents that are true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_xdist_auto_num_workers

ROOT = Path(__file__).parents[1]


# -- running tests --------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [True, False], ids=["one test", "one file"])
def test_a_breakpoint_stops_where_it_stands(tmp_path, one):
    file = tmp_path / "test_stops.py"
    file.write_text("def test_it():\n    six = 6\n    breakpoint()\n    assert six == 6\n")
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
