"""Why a model ran out of memory: what every holder had before and at that moment, and the likely cause. Pure.

The moment is the reading in which the model held the most. If a device had room for the plan (its free memory, and what
the model held there already, are at least the required bytes), there are three causes, told apart by the figure that
changed:

- another process grew by more than the spare room;
- the model held more than planned, or it wanted more while the planned memory was still available: the estimate was too
  low;
- more than twice the required bytes were available all the time: the device did not refuse, but a limit of the process
  did.

If there was no room from the start (the model was loaded anyway), the peak of the load exceeds the free memory. A
failure in the KV cache within the plan, while the engine creates the cache or requests fill it, is attributed to the KV
cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from webapp.domain.growth import Growth, growths, net_bytes
from webapp.domain.memory import HolderKind, Reading, Sample, instance_bytes
from webapp.domain.plan import SwitchRequest, WayOut
from webapp.message import Message, Param

LINES = 16
"""Holders that are kept individually per device: the model itself, and those that changed most or hold the most."""
LIMIT_FACTOR = 2
"""With this multiple of the required bytes available, the estimate cannot be the cause: it is within a few percent if
the files are read in full.
"""


class Cause(StrEnum):
    """The most likely cause. Of several devices, the one whose figures say the most decides: the causes are in that
    order.
    """

    NEIGHBOUR_GREW = "neighbour_grew"
    """Another process took the spare memory, and more."""
    ESTIMATE_LOW = "estimate_low"
    """The model needed more than planned."""
    LOAD_PEAK = "load_peak"
    """The load needed more for a moment than was free when it started."""
    KV_CACHE = "kv_cache"
    """The keys and values of the requests did not fit."""
    PROCESS_LIMIT = "process_limit"
    """The device had free memory: a limit of the process was reached."""
    UNKNOWN = "unknown"
    """The figures do not tell."""


class Phase(StrEnum):
    """What the model was doing."""

    STARTING = "starting"
    """The engine was comparing the free memory with its share."""
    LOADING = "loading"
    """The weights were being loaded, or the engine was warming up."""
    KV_CACHE = "kv_cache"
    """The engine was allocating its KV cache in the remaining memory."""
    ANSWERING = "answering"
    """It was ready and answering requests."""


@dataclass(frozen=True)
class HolderLine:
    """A holder's bytes before memory ran out and at that moment; ``None`` is unknown."""

    before_bytes: int | None
    after_bytes: int | None
    kind: HolderKind | None = None
    """``None`` for the rest, all smaller holders together."""
    is_own: bool = False
    """Whether it is the model that ran out of memory."""
    model_id: str | None = None
    pid: int | None = None
    user: str | None = None
    command: str | None = None
    instance_id: str | None = None
    container_id: str | None = None


@dataclass(frozen=True)
class Account:
    """One device before its memory ran out and at that moment; bytes, ``None`` is unknown."""

    device_id: str
    total_bytes: int | None
    gate_bytes: int
    """The planned amount."""
    free_before_bytes: int | None
    free_after_bytes: int | None
    held_before_bytes: int | None
    """Held by the model itself; 0 at the start of a launch."""
    held_bytes: int | None
    grown_bytes: int | None
    """Total growth of all others; negative if they released memory."""
    lines: tuple[HolderLine, ...] = ()

    @property
    def room_bytes(self) -> int | None:
        """The total that the model could have had if no other holder had changed."""
        if self.free_before_bytes is None or self.held_before_bytes is None:
            return None
        return self.free_before_bytes + self.held_before_bytes

    @property
    def spare_bytes(self) -> int | None:
        """The part of that which exceeded the plan; negative if the plan did not fit."""
        return None if self.room_bytes is None else self.room_bytes - self.gate_bytes

    @property
    def at_hand_bytes(self) -> int | None:
        """What the model held at the moment, plus the free memory."""
        return None if self.free_after_bytes is None else self.free_after_bytes + (self.held_bytes or 0)


@dataclass(frozen=True)
class PostMortem:
    """How a model ran out of memory. Times are seconds since the epoch."""

    taken_at: float
    """The moment."""
    since: float
    """The time of the reading that it is compared with: the one on which the launch was decided, or one a minute
    earlier.
    """
    phase: Phase
    cause: Cause
    device_id: str
    """The device that shows the cause."""
    accounts: tuple[Account, ...]
    log: tuple[str, ...] = ()
    way_out: WayOut | None = None
    """The cheapest change to the request that would have fitted the available memory."""
    asked: SwitchRequest | None = None

    @property
    def account(self) -> Account:
        """The account of the device that shows the cause."""
        return next(account for account in self.accounts if account.device_id == self.device_id)


def cause_message(report: PostMortem) -> Message:
    """Return the likely cause with the figures that support it."""
    account = report.account
    params: dict[str, Param] = {
        "device": account.device_id,
        "gate_bytes": account.gate_bytes,
        "held_bytes": account.held_bytes,
        "free_bytes": account.free_after_bytes,
        "room_bytes": account.room_bytes,
        "left_bytes": _left(account),
        "grown_bytes": account.grown_bytes,
        "excess_bytes": max(0, (account.held_bytes or 0) - account.gate_bytes),
        "who": _who(report),
    }
    return Message(f"why_{report.cause}", params)


def _left(account: Account) -> int | None:
    if account.room_bytes is None or account.grown_bytes is None:
        return None
    return max(0, account.room_bytes - account.grown_bytes)


def _who(report: PostMortem) -> str | None:
    """Return the other process that grew most."""
    others = [line for line in report.account.lines if not line.is_own and line.kind is not None]
    line = max(others, key=_growth, default=None)
    if line is None:
        return None
    return " · ".join(word for word in (line.user, line.model_id or line.command, f"pid {line.pid}") if word)


def _growth(line: HolderLine) -> int:
    return (line.after_bytes or 0) - (line.before_bytes or 0)


def moment_of(samples: Sequence[Sample], instance_id: str, device_ids: Sequence[str]) -> Sample | None:
    """Return the sample in which the instance held the most, the last of equals; ``None`` if it appears in none."""

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
    """Return the cause and the device that shows it best; the rule is in the module's docstring."""
    found = {account.device_id: _cause_on(phase, account) for account in accounts}
    device_id = min(found, key=lambda device: _ORDER.index(found[device]))
    return found[device_id], device_id


_ORDER = tuple(Cause)


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
    """Return the free memory that a plan may assume on a device so that it would have fitted; ``None`` is unknown.

    Memory that other processes took is gone. For any other cause the plan that failed must not fit again: at most the
    required bytes are assumed, and for a process that was refused memory at most what it had got.
    """
    room = account.room_bytes
    if room is None:
        return None
    left = max(0, room - max(0, account.grown_bytes or 0))
    if cause is Cause.PROCESS_LIMIT:
        return min(left, account.held_bytes or account.gate_bytes)
    return left if cause in (Cause.NEIGHBOUR_GREW, Cause.LOAD_PEAK) else min(left, account.gate_bytes)


def _lines(found: Sequence[Growth], instance_id: str, models: Mapping[str, str]) -> tuple[HolderLine, ...]:
    """Return the holders: the model itself, then those that changed most or hold the most; the smallest are merged."""

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
