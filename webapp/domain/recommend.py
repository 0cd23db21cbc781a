"""The founding guide's advice: mode, precision, tokens and batch size for an amount of free memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from webapp.domain.modes import Mode, Precision
from webapp.domain.units import gib
from webapp.message import Message


class Mark(StrEnum):
    """How good the advised settings are."""

    OK = "ok"
    """Nothing is restricted."""
    LIMITED = "limited"
    """It works, but with restrictions."""
    NONE = "none"
    """Nothing fits with the chosen model; the advice is the smallest request."""


@dataclass(frozen=True)
class Advice:
    """The recommended choice. ``reasons`` say why, most important first.

    ``mode`` is the table's; ``usable_mode`` is the one that can be chosen on this server now.
    """

    mode: Mode
    precision: Precision
    max_tokens: int
    batch_size: int
    mark: Mark
    usable_mode: Mode
    reasons: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row of the founding table."""

    from_bytes: int
    mode: Mode
    precision: Precision
    max_tokens: int
    batch_size: int
    mark: Mark


FOUNDING_TABLE = (
    Row(gib(8), Mode.VLLM, Precision.FP16, 2048, 4, Mark.OK),
    Row(gib(6), Mode.VLLM, Precision.FP16, 1024, 2, Mark.LIMITED),
    Row(gib(4), Mode.TRANSFORMERS, Precision.FP16, 1024, 1, Mark.LIMITED),
    Row(0, Mode.TRANSFORMERS, Precision.INT8, 512, 1, Mark.LIMITED),
)
"""Each row is valid from its free memory up to the row above; the lower boundary belongs to the row."""


def row_for(free_bytes: int) -> Row:
    """Return the table's row for ``free_bytes`` of free memory."""
    return next(row for row in FOUNDING_TABLE if max(free_bytes, 0) >= row.from_bytes)


def recommend(free_bytes: int, *, vllm_unavailable: Message | None = None) -> Advice:
    """Return the founding table's row for ``free_bytes`` of free memory on the chosen device.

    If the row names vLLM mode and that cannot be chosen here, the row's figures apply to Transformers mode, which is
    then the ``usable_mode``, and the reasons say so.
    """
    row = row_for(free_bytes)
    reasons = [Message("advice_free", {"free_bytes": free_bytes, "from_bytes": row.from_bytes})]
    usable = row.mode
    if usable is Mode.VLLM and vllm_unavailable is not None:
        usable = Mode.TRANSFORMERS
        reasons += [Message("advice_vllm_unavailable"), vllm_unavailable]
    return Advice(row.mode, row.precision, row.max_tokens, row.batch_size, row.mark, usable, tuple(reasons))
