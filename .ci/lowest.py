"""Print each direct dependency at the lowest version that pyproject.toml declares, a line each.

Pip takes the lines as requirements. Left out, and named on stderr, are the packages on the command
line: their minimum is proven by the versions that CI installs, or not at all.
"""

import re
import sys
import tomllib
from pathlib import Path


def lowest(requirement: str) -> tuple[str, str]:
    """("numpy", "2.2.1") of "numpy>=2.2.1". Raises ValueError for any other form."""
    match = re.fullmatch(r"([A-Za-z0-9-]+)(?:\[[a-z,]+\])?>=([0-9.]+)", requirement)
    if match is None:
        raise ValueError(f"{requirement!r}: declare it as NAME>=VERSION")
    return match[1], match[2]


project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
left_out = sys.argv[1:]
for name, version in map(lowest, requirements):
    if name in left_out:
        print(f"as CI installs it: {name} (declared >={version})", file=sys.stderr)
    else:
        print(f"{name}=={version}")
