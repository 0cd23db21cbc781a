"""A point of the timeline as the short text that a row holds: a week of eight GPUs has eight thousand of them."""

from __future__ import annotations

import json
from functools import lru_cache

from webapp.domain.memory import LedgerKind
from webapp.domain.timeline import Held, Point, Who
from webapp.store.documents import DocumentError


def dump_point(point: Point) -> str:
    """Return ``[total, free sum, readings, [[kind, used, most, instance, model, mode, user], …]]``, without unknown ends; ASCII only."""
    held = [_short([h.who.kind.value, h.used_bytes, h.most_bytes, *h.who[1:]]) for h in point.held]
    return json.dumps([point.total_bytes, point.free_sum_bytes, point.readings, held], separators=(",", ":"))


def load_point(taken_at: float, text: str) -> Point:
    """Return what ``dump_point`` wrote. Raises DocumentError."""
    try:
        total, free_sum, readings, parts = json.loads(text)
        held = tuple(Held(_who(kind, *who), used, most) for kind, used, most, *who in parts)
    except (ValueError, TypeError) as exc:
        raise DocumentError(f"Point: {exc}") from exc
    return Point(taken_at, total, held, free_sum, readings)


def _short(values: list[object]) -> list[object]:
    while values[-1] is None:
        values.pop()
    return values


@lru_cache(maxsize=1024)
def _who(kind: str, *names: str | None) -> Who:
    return Who(LedgerKind(kind), *names)
