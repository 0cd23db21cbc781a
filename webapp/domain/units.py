"""Units of memory: bytes internally, GiB in input and output."""

from __future__ import annotations

KIB = 2**10
MIB = 2**20
GIB = 2**30


def gib(value: float) -> int:
    """Return ``value`` GiB in bytes."""
    return round(value * GIB)
