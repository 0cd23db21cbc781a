"""How a model's layers are divided over several devices in Transformers mode: the plan and the worker go by it. Imports nothing here."""

from __future__ import annotations

from functools import cache


@cache
def layer_counts(layers: int, devices: int) -> tuple[int, ...]:
    """Return how many of ``layers`` stand on each of ``devices``: evenly, and the first, where the embeddings are, takes none more."""
    each, more = divmod(layers, devices)
    return tuple(each + (1 <= n <= more) for n in range(devices))
