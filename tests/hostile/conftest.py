"""What the sweeps share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.forked import Server, serving


@pytest.fixture(scope="module")
def server(request, tmp_path_factory) -> Iterator[Server]:
    """Runs a module's commands; with faults where the module has WITH_FAULTS."""
    with_faults = getattr(request.module, "WITH_FAULTS", False)
    with serving(tmp_path_factory.mktemp("server"), with_faults) as one:
        yield one
