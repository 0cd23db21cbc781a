"""Why a model ran out of memory: what every holder had before and at the moment, and the likely cause by the figures. Pure.

The moment is the reading in which the model held the most. A device that had room for the plan (free memory, and what the model held there
already, at least the gate) can have lost it in three ways, told apart by whose figure moved:

- a neighbour grew by more than the room that was to spare;
- the model held more than the plan said, or it wanted more while nothing of what the plan counted with was gone: the estimate was too low;
- more than twice the gate was at its hand all the time: not the device refused but a limit of the process itself.

Where there was no room from the start (it was loaded all the same) the peak of the load is above what was free. What fails in the KV cache,
while the engine makes it or while requests fill it, within what the plan said, is the KV cache's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from webapp.domain.growth import Growth, growths, net_bytes
from webapp.domain.memory import HolderKind, Reading, Sample, instance_bytes
from webapp.domain.plan import SwitchRequest, WayOut

LINES = 16
"""Holders that are kept one by one, a device: the model itself, and those that moved or hold the most."""
LIMIT_FACTOR = 2
"""So many times the gate at hand is no low estimate: it lies within a few percent where files are read in full."""


class Cause(StrEnum):
    """What most likely took the memory."""

    NEIGHBOUR_GREW = "neighbour_grew"
    """Somebody else took what was to spare, and more."""
    ESTIMATE_LOW = "estimate_low"
    """The model needed more than the plan said."""
    LOAD_PEAK = "load_peak"
    """The load needs more for a moment than was free when it began."""
    KV_CACHE = "kv_cache"
    """The keys and values of the requests did not fit."""
    PROCESS_LIMIT = "process_limit"
    """The device had memory left: a limit of the process refused it."""
    UNKNOWN = "unknown"
    """The figures do not tell."""


class Phase(StrEnum):
    """What the model was doing."""

    STARTING = "starting"
    """The engine compared what is free with what it was to take."""
    LOADING = "loading"
    """The weights were on their way, or the engine tried the model out."""
    KV_CACHE = "kv_cache"
    """The engine gave its KV cache the memory that was left."""
    ANSWERING = "answering"
    """It was ready and answered requests."""


@dataclass(frozen=True)
class HolderLine:
    """A holder then and at the moment; ``None`` is unknown."""

    before_bytes: int | None
    after_bytes: int | None
    kind: HolderKind | None = None
    """``None`` for the rest, all smaller holders together."""
    is_own: bool = False
    """The model that ran out of memory."""
    model_id: str | None = None
    pid: int | None = None
    user: str | None = None
    command: str | None = None
    instance_id: str | None = None
    container_id: str | None = None


@dataclass(frozen=True)
class Account:
    """One device before and at the moment; bytes, ``None`` is unknown."""

    device_id: str
    total_bytes: int | None
    gate_bytes: int
    """What the plan counted with."""
    free_before_bytes: int | None
    free_after_bytes: int | None
    held_before_bytes: int | None
    """By the model itself: nothing, where a launch began."""
    held_bytes: int | None
    grown_bytes: int | None
    """By which all others grew together; negative when they gave back."""
    lines: tuple[HolderLine, ...] = ()

    @property
    def room_bytes(self) -> int | None:
        """What the model could have had in all, had nobody else moved."""
        if self.free_before_bytes is None or self.held_before_bytes is None:
            return None
        return self.free_before_bytes + self.held_before_bytes

    @property
    def spare_bytes(self) -> int | None:
        """What of that was beyond the plan; negative where the plan did not fit."""
        return None if self.room_bytes is None else self.room_bytes - self.gate_bytes

    @property
    def at_hand_bytes(self) -> int | None:
        """What the model held at the moment and what was free beside it."""
        return None if self.free_after_bytes is None else self.free_after_bytes + (self.held_bytes or 0)


@dataclass(frozen=True)
class PostMortem:
    """How a model ran out of memory. Times are seconds since the epoch."""

    taken_at: float
    """The moment."""
    since: float
    """The reading that it is compared with: the one that the launch was decided on, or one from a minute before."""
    phase: Phase
    cause: Cause
    device_id: str
    """The device that the cause was seen on."""
    accounts: tuple[Account, ...]
    log: tuple[str, ...] = ()
    way_out: WayOut | None = None
    """The cheapest change to what was asked for that fits the memory that there was."""
    asked: SwitchRequest | None = None

    @property
    def account(self) -> Account:
        """The device that the cause was seen on."""
        return next(account for account in self.accounts if account.device_id == self.device_id)


def moment_of(samples: Sequence[Sample], instance_id: str, device_ids: Sequence[str]) -> Sample | None:
    """Return the sample in which the instance held the most, the last of equals; ``None`` of none."""

    def held(sample: Sample) -> int:
        readings = (sample.reading(device_id) for device_id in device_ids)
        return sum(instance_bytes(reading, instance_id) or 0 for reading in readings if reading is not None)

    return max(reversed(samples), key=held, default=None)


def account_of(before: Reading, now: Reading, gate_bytes: int, instance_id: str, models: Mapping[str, str]) -> Account:
    """Return one device's account; ``models`` gives the model of each instance."""
    others = growths(before, now, instance_id)
    return Account(
        device_id=now.device_id,
        total_bytes=now.total_bytes or before.total_bytes,
        gate_bytes=gate_bytes,
        free_before_bytes=before.free_bytes,
        free_after_bytes=now.free_bytes,
        held_before_bytes=instance_bytes(before, instance_id),
        held_bytes=instance_bytes(now, instance_id),
        grown_bytes=None if others is None else net_bytes(others),
        lines=_lines(growths(before, now) or (), instance_id, models),
    )


def likely_cause(phase: Phase, accounts: Sequence[Account]) -> tuple[Cause, str]:
    """Return the cause and the device that shows it best; see above for the rule."""
    found = {account.device_id: _cause_on(phase, account) for account in accounts}
    device_id = min(found, key=lambda device: _ORDER.index(found[device]))
    return found[device_id], device_id


_ORDER = (
    Cause.NEIGHBOUR_GREW,
    Cause.ESTIMATE_LOW,
    Cause.LOAD_PEAK,
    Cause.KV_CACHE,
    Cause.PROCESS_LIMIT,
    Cause.UNKNOWN,
)
"""Of several devices the one speaks for all whose figures say the most."""


def _cause_on(phase: Phase, account: Account) -> Cause:
    spare, grown, held, at_hand = account.spare_bytes, account.grown_bytes, account.held_bytes, account.at_hand_bytes
    if spare is not None and grown is not None and 0 <= spare < grown:
        return Cause.NEIGHBOUR_GREW
    if phase is not Phase.STARTING and held is not None and held > account.gate_bytes:
        return Cause.ESTIMATE_LOW
    if phase in (Phase.KV_CACHE, Phase.ANSWERING):
        return Cause.KV_CACHE
    if phase is Phase.STARTING or (spare is not None and spare < 0):
        return Cause.LOAD_PEAK
    if spare is None or at_hand is None:
        return Cause.UNKNOWN
    return Cause.PROCESS_LIMIT if at_hand > LIMIT_FACTOR * account.gate_bytes else Cause.ESTIMATE_LOW


def room_for_another(cause: Cause, account: Account) -> int | None:
    """Return the free memory that a plan may count with on a device to have fitted there; ``None`` is unknown.

    What neighbours took is gone. Where it was not theirs, the very plan that failed must not fit again: no more than its gate is there,
    and of a process that was refused memory no more than it had got.
    """
    room = account.room_bytes
    if room is None:
        return None
    left = max(0, room - max(0, account.grown_bytes or 0))
    if cause is Cause.PROCESS_LIMIT:
        return min(left, account.held_bytes or account.gate_bytes)
    return left if cause in (Cause.NEIGHBOUR_GREW, Cause.LOAD_PEAK) else min(left, account.gate_bytes)


def _lines(found: Sequence[Growth], instance_id: str, models: Mapping[str, str]) -> tuple[HolderLine, ...]:
    """The holders, the model itself first and then what moved or holds the most; the smallest together."""

    def weight(growth: Growth) -> tuple[bool, int]:
        return growth.holder.instance_id != instance_id, -max(growth.before_bytes, growth.after_bytes)

    ordered = sorted(found, key=weight)
    kept, rest = ordered[:LINES], ordered[LINES:]
    lines = [_line(growth, instance_id, models) for growth in kept]
    if rest:
        lines.append(HolderLine(sum(g.before_bytes for g in rest), sum(g.after_bytes for g in rest)))
    return tuple(lines)


def _line(growth: Growth, instance_id: str, models: Mapping[str, str]) -> HolderLine:
    holder = growth.holder
    return HolderLine(
        before_bytes=growth.before_bytes,
        after_bytes=growth.after_bytes,
        kind=holder.kind,
        is_own=holder.instance_id == instance_id,
        model_id=models.get(holder.instance_id or ""),
        pid=holder.pid,
        user=holder.user,
        command=holder.command,
        instance_id=holder.instance_id,
        container_id=holder.container_id,
    )
