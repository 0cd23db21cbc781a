"""When an idle model goes, and when its owner's silence gives it up. Pure; the clock is passed in."""

from __future__ import annotations

from typing import Final

from webapp.domain.instance import Instance, InstanceState

LAST_MINUTE_S: Final = 60.0
"""An idle model is counted down for this long before it goes, so that somebody can keep it."""


def idle_minutes(instance: Instance, server_minutes: float) -> float | None:
    """Return after how many minutes without use ``instance`` goes; ``None`` is never."""
    chosen = instance.lease.idle_minutes
    minutes = server_minutes if chosen is None else chosen
    return minutes if minutes > 0 else None


def idle_unload_at(instance: Instance, server_minutes: float) -> float | None:
    """Return when ``instance`` goes for being idle, or ``None``: it is never to go, answers somebody, or is not ready.

    A lease holds it. The last minute is always counted down: after an adoption, a change of the idle time, or the end of a lease there is
    that much left at least.
    """
    minutes = idle_minutes(instance, server_minutes)
    if minutes is None or instance.may_be_busy or instance.state is not InstanceState.READY:
        return None
    news = (instance.adopted_at, instance.lease.idle_set_at, instance.lease.until)
    return max(instance.used_at + minutes * 60, *(at + LAST_MINUTE_S for at in news if at is not None), 0.0)


def silence_releases(instance: Instance, now: float, silence_s: float) -> bool:
    """Return whether the owner's silence gives the model up: nobody uses it, its lease is over, and the ask is old enough."""
    asked = instance.lease.asked
    if asked is None or instance.may_be_busy or instance.lease.runs(now):
        return False
    return now - max(asked.asked_at, instance.used_at) >= silence_s
