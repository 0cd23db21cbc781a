"""Compare two readings of a device, holder by holder: which of them grew. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from webapp.domain.memory import Holder, Reading


@dataclass(frozen=True)
class Growth:
    """The memory of a holder before and now: of a process, or of all processes of a model or a container."""

    holder: Holder
    """The largest of its processes now; for a holder that has ended, the largest before."""
    before_bytes: int
    after_bytes: int

    @property
    def grown_bytes(self) -> int:
        """By how much it grew; negative if it released memory."""
        return self.after_bytes - self.before_bytes


def growths(before: Reading, now: Reading, without: str | None = None) -> tuple[Growth, ...] | None:
    """Return every holder of either reading except the instance ``without``, largest growth first; ``None`` if a
    reading has no list.

    A holder whose bytes are unknown in one of them is left out: it may have grown by an unknown amount.
    """
    if not (before.holders_known and now.holders_known):
        return None
    then, after = _by_name(before.holders), _by_name(now.holders)
    found = [_growth(then.get(name, []), after.get(name, [])) for name in {**then, **after} if name != without]
    return tuple(sorted((growth for growth in found if growth is not None), key=lambda g: -g.grown_bytes))


def net_bytes(growths: Iterable[Growth]) -> int:
    """Return the sum of all growths."""
    return sum(growth.grown_bytes for growth in growths)


def _by_name(holders: Iterable[Holder]) -> Mapping[object, list[Holder]]:
    """Group holders by their stable identity: the processes of a model or a container change."""
    groups: dict[object, list[Holder]] = {}
    for holder in holders:
        groups.setdefault(holder.instance_id or holder.container_id or holder.pid, []).append(holder)
    return groups


def _growth(then: list[Holder], now: list[Holder]) -> Growth | None:
    before, after = _sum(then), _sum(now)
    if before is None or after is None:
        return None
    return Growth(max(now or then, key=lambda holder: holder.used_bytes or 0), before, after)


def _sum(holders: list[Holder]) -> int | None:
    sizes = [holder.used_bytes for holder in holders]
    return None if None in sizes else sum(size for size in sizes if size is not None)
