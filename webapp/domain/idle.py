"""When an idle model is unloaded, and when its owner's silence releases it. Pure; elapsed times are arguments.

A duration is never the difference of two times of day, since the clock can be changed. Only a lease ends by the time of
day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from webapp.domain.instance import Instance, InstanceState

LAST_MINUTE_S: Final = 60.0
"""An idle model is counted down for this long before it is unloaded, so that a person can keep it."""


@dataclass(frozen=True)
class Quiet:
    """Durations of an instance's present condition, in seconds of a monotonic clock."""

    unused_s: float = 0.0
    """Since it answered a request, was kept by a click, or became ready."""
    counted_s: float = 0.0
    """Since it was found, its lease ended, its idle time was set, or nobody could see the countdown."""
    asked_s: float = 0.0
    """Since the open release request."""


def idle_minutes(instance: Instance, server_minutes: float) -> float | None:
    """Return after how many idle minutes ``instance`` is unloaded; ``None`` is never."""
    chosen = instance.lease.idle_minutes
    minutes = server_minutes if chosen is None else chosen
    return minutes if minutes > 0 else None


def idle_unload_in(instance: Instance, server_minutes: float, quiet: Quiet, now: float) -> float | None:
    """Return in how many seconds ``instance`` is unloaded as idle; ``None`` if it never is, answers a request, or is
    not ready.

    A lease prevents it. The last minute is always counted down, or all of an idle time that is shorter. ``now`` is the
    time of day.
    """
    minutes = idle_minutes(instance, server_minutes)
    if minutes is None or instance.may_be_busy or instance.state is not InstanceState.READY:
        return None
    idle_s, until = minutes * 60, instance.lease.until
    countdown_s = min(idle_s, LAST_MINUTE_S)
    left_s = max(0.0, idle_s - quiet.unused_s, countdown_s - quiet.counted_s)
    return left_s if until is None or until <= now else max(left_s, until - now + countdown_s)


def silence_releases(instance: Instance, now: float, silence_s: float, quiet: Quiet) -> bool:
    """Return whether the owner's silence releases the model: it is idle, its lease is over, and the release request is
    old enough.
    """
    if instance.lease.asked is None or instance.may_be_busy or instance.lease.runs(now):
        return False
    return min(quiet.asked_s, quiet.unused_s) >= silence_s
