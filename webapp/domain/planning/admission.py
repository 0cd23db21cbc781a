"""Decides whether a launch fits on a device: free memory, memory limit, safety reserve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from webapp.domain.instance import Instance
from webapp.domain.plan import Verdict
from webapp.domain.units import MIB


@dataclass(frozen=True)
class AdmissionPolicy:
    """The thresholds; see the settings of the same names."""

    fits_percent: float = 80.0
    reserve_bytes: int = 512 * MIB
    reserve_percent: float = 5.0
    memory_limit_bytes: int | None = None

    def reserve_on(self, total_bytes: int) -> int:
        """The safety reserve on a device of ``total_bytes``."""
        return max(self.reserve_bytes, round(total_bytes * self.reserve_percent / 100))


def judge(needed_bytes: int, available_bytes: int, reserve_bytes: int, fits_percent: float) -> Verdict:
    """Return the verdict for ``needed_bytes`` on ``available_bytes``.

    Refused if less than the reserve would be left; ``fits`` up to ``fits_percent`` of what is available; otherwise
    tight.
    """
    if needed_bytes > available_bytes - reserve_bytes:
        return Verdict.REFUSED
    return Verdict.FITS if needed_bytes <= available_bytes * fits_percent / 100 else Verdict.TIGHT


def within_limit(free_bytes: int, own_bytes: int, limit_bytes: int | None) -> int:
    """Return the available bytes: the free memory, or what the limit leaves after ``own_bytes`` if that is less."""
    return free_bytes if limit_bytes is None else min(free_bytes, max(0, limit_bytes - own_bytes))


def own_bytes(instances: Iterable[Instance], device_id: str) -> int:
    """Return what Warden's own instances hold on a device."""
    return sum(instance.held_bytes(device_id) for instance in instances)
