"""Units of memory: bytes inside, GiB at the edge."""

from __future__ import annotations

KIB = 2**10
MIB = 2**20
GIB = 2**30


def gib(value: float) -> int:
    """Return ``value`` GiB in bytes."""
    return round(value * GIB)
