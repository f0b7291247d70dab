"""What commands make of the sources that they are given: a manifest, counted while it grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvaeood_cli.cli import console, options

if TYPE_CHECKING:
    from hvaeood_cli.images.sources import Manifest


def listed(
    sources: list[str],
    null: bool = False,
    data_root: Path | None = None,
    download: bool = False,
    talk: bool = True,
) -> Manifest:
    """All images of the sources. Raises as `open_sources` does."""
    from hvaeood_cli.images.sources import open_sources

    with console.counting("listing", talk) as count:
        return open_sources(sources, options.stdin_paths(sources, null), data_root, download, count)
