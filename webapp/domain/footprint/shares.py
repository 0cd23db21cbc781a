"""The share of a GPU that vLLM is given: the share that holds a footprint, and what vLLM then takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from webapp.domain.footprint.parts import Footprint, PartName

UTILIZATION_SCALE = 10_000
"""The number of parts of a GPU in which a share for vLLM is expressed."""

_ROUNDING = 2
"""Bytes by which a budget computed from a share may exceed it: whole bytes, and the last digit of a float."""


def budget_bytes(footprint: Footprint) -> int:
    """Return the part of a footprint that vLLM counts as its own: all but the context, which exists before vLLM looks
    at the GPU.
    """
    return footprint.total_bytes - footprint.part(PartName.CONTEXT)


def share_of(footprints: Sequence[Footprint], totals: Sequence[int]) -> int:
    """Return the share of every GPU, in ten thousandths, that holds the budget of each; ``totals`` as CUDA counts, in
    bytes.
    """
    return max(
        -(-(budget_bytes(f) - _ROUNDING) * UTILIZATION_SCALE // t) for f, t in zip(footprints, totals, strict=True)
    )


def in_whole_shares(footprints: Sequence[Footprint], totals: Sequence[int]) -> tuple[Footprint, ...]:
    """Return the footprints as vLLM takes them: one share for all GPUs, so the excess is added to the KV cache."""
    share = share_of(footprints, totals)
    budgets = [-(-total * share // UTILIZATION_SCALE) + _ROUNDING - 1 for total in totals]
    return tuple(_grown(f, budget - budget_bytes(f)) for f, budget in zip(footprints, budgets, strict=True))


def _grown(footprint: Footprint, more: int) -> Footprint:
    parts = tuple(
        replace(p, bytes=p.bytes + more) if p.name is PartName.KV_CACHE and more > 0 else p for p in footprint.parts
    )
    return replace(footprint, parts=parts)
