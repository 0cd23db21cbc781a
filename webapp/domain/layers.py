"""How a model's layers are divided over several devices in Transformers mode, for the plan and the worker alike.
Imports nothing.
"""

from __future__ import annotations

from functools import cache


@cache
def layer_counts(layers: int, devices: int) -> tuple[int, ...]:
    """Return how many of ``layers`` each of ``devices`` holds: evenly, and the first, which has the embeddings, never
    gets an extra one.
    """
    each, more = divmod(layers, devices)
    return tuple(each + (1 <= n <= more) for n in range(devices))
