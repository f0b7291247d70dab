"""What the benchmarks' command lines have in common."""

from __future__ import annotations

from collections.abc import Sequence


def named(pairs: Sequence[str]) -> dict[str, str]:
    """The arguments NAME=VALUE by name, in their order. Exits where one is none."""
    by_name = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise SystemExit(f"NAME=VALUE is wanted, not {pair!r}")
        by_name[name] = value
    return by_name
