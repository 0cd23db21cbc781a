"""Device memory: readings, holders, the ledger that adds up, and the level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from webapp.domain.units import gib
from webapp.message import Message

GOOD_FROM_BYTES = gib(4)
"""Founding guide: 4 GiB or more of free memory is enough."""
LOW_FROM_BYTES = gib(2)
"""Founding guide: from 2 to under 4 GiB of free memory is low, under 2 critical."""


class DeviceKind(StrEnum):
    """The kind of a device."""

    GPU = "gpu"
    """One GPU."""
    HOST = "host"
    """The host's RAM, on a machine that has no GPU."""


class Level(StrEnum):
    """How much memory is free, in the founding guide's three levels."""

    GOOD = "good"
    LOW = "low"
    CRITICAL = "critical"


class HolderKind(StrEnum):
    """The owner of a process that holds memory."""

    WORKER = "worker"
    """A worker that Warden started."""
    LAUNCHER = "launcher"
    """Warden's launcher, which holds the libraries that its workers share."""
    CONTAINER = "container"
    """A process in a container that Warden started."""
    FOREIGN = "foreign"
    """Anything that Warden did not start."""


@dataclass(frozen=True)
class Holder:
    """A process that holds device memory. ``None`` is unknown."""

    pid: int
    user: str | None
    command: str | None
    """The command line, shortened; never its environment."""
    used_bytes: int | None
    kind: HolderKind
    instance_id: str | None = None
    container_id: str | None = None
    """64 hex digits of the container that the process runs in."""
    process_state: str | None = None
    """One letter as in ps: R, S, D (uninterruptible), Z…"""


@dataclass(frozen=True)
class Reading:
    """One device's memory at one moment; every figure that could not be read is ``None``.

    ``total = reserved + used + free`` if the driver reports all of them. ``problem`` says why the device or a figure
    cannot be read; a device that is lost keeps its id and name and has no figures.
    """

    device_id: str
    """``gpu-0``…, or ``host``."""
    kind: DeviceKind
    name: str | None = None
    uuid: str | None = None
    total_bytes: int | None = None
    reserved_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    utilization_percent: float | None = None
    """The load of the processor, not the share of the memory."""
    temperature_c: float | None = None
    power_w: float | None = None
    holders: tuple[Holder, ...] = ()
    holders_known: bool = True
    """False if the process list could not be read."""
    problem: Message | None = None


@dataclass(frozen=True)
class Sample:
    """All devices at one moment. ``number`` rises by one with each sample of a monitor."""

    number: int
    taken_at: float
    """Seconds since the epoch."""
    monotonic_s: float
    readings: tuple[Reading, ...]
    problem: Message | None = None
    """Why no device could be read at all, or why the GPUs could not (the host is then shown)."""

    def reading(self, device_id: str) -> Reading | None:
        """Return the reading of ``device_id``, or ``None`` if there is none."""
        return next((r for r in self.readings if r.device_id == device_id), None)


@dataclass(frozen=True)
class HistoryPoint:
    """One device's used memory at a moment of the short history."""

    taken_at: float
    used_bytes: int | None
    total_bytes: int | None


class LedgerKind(StrEnum):
    """The kind of a part of a device's total; the kinds of holders are among them."""

    DRIVER = "driver"
    LAUNCHER = "launcher"
    CONTAINER = "container"
    WORKER = "worker"
    FOREIGN = "foreign"
    UNATTRIBUTED = "unattributed"
    FREE = "free"


@dataclass(frozen=True)
class LedgerPart:
    """One summand of a ledger. ``label`` is a model, a ``user · command``, or ``None`` if the kind is enough."""

    kind: LedgerKind
    label: str | None
    used_bytes: int
    instance_id: str | None = None
    user: str | None = None
    processes: int = 1


@dataclass(frozen=True)
class Ledger:
    """A device's total as a sum that adds up to ``total_bytes`` exactly.

    ``overcommitted_bytes`` is the amount that the processes claim beyond what the device reports as used (shared pages,
    readings taken a moment apart); it is subtracted from the largest parts so that the sum holds, and shown.
    """

    total_bytes: int
    parts: tuple[LedgerPart, ...]
    unattributed_bytes: int
    overcommitted_bytes: int = 0


def level_of(free_bytes: int) -> Level:
    """Return the level for ``free_bytes``: good from 4 GiB, low from 2 GiB, else critical (founding guide)."""
    if free_bytes >= GOOD_FROM_BYTES:
        return Level.GOOD
    if free_bytes >= LOW_FROM_BYTES:
        return Level.LOW
    return Level.CRITICAL


def used_percent(reading: Reading) -> float | None:
    """Return the share of the total that is not free, in percent, or ``None`` if it is unknown."""
    if not reading.total_bytes or reading.free_bytes is None:
        return None
    return 100.0 * (reading.total_bytes - reading.free_bytes) / reading.total_bytes


def without_figures(reading: Reading, problem: Message) -> Reading:
    """Return ``reading`` as that of a device that cannot be read: its identity is kept, its figures are dropped."""
    return Reading(reading.device_id, reading.kind, reading.name, reading.uuid, holders_known=False, problem=problem)


def instance_bytes(reading: Reading, instance_id: str) -> int | None:
    """Return the bytes that the processes of an instance hold on a device, or ``None`` if any part is unknown."""
    if not reading.holders_known:
        return None
    claims = [holder.used_bytes for holder in reading.holders if holder.instance_id == instance_id]
    return None if None in claims else sum(claim for claim in claims if claim is not None)


def instances_bytes(reading: Reading) -> Mapping[str, int]:
    """Return the bytes that the processes of each instance hold on a device; instances with an unknown part are left
    out.
    """
    claims: dict[str, list[int | None]] = {}
    for holder in reading.holders if reading.holders_known else ():
        if holder.instance_id is not None:
            claims.setdefault(holder.instance_id, []).append(holder.used_bytes)
    known = {instance_id: [size for size in sizes if size is not None] for instance_id, sizes in claims.items()}
    return {instance_id: sum(sizes) for instance_id, sizes in known.items() if len(sizes) == len(claims[instance_id])}


def build_ledger(reading: Reading, instances: Mapping[str, str]) -> Ledger | None:
    """Return the device's total as a sum, or ``None`` if the total or the free memory is unknown.

    ``instances`` gives the label of each instance id. A process whose bytes are unknown is not a part: its memory is in
    the unattributed rest. The driver's reserve is a part only if the driver reports it; otherwise it is in the rest
    too.
    """
    if reading.total_bytes is None or reading.free_bytes is None:
        return None
    total = max(reading.total_bytes, 0)
    free = min(max(reading.free_bytes, 0), total)
    reserved = min(max(reading.reserved_bytes or 0, 0), total - free)
    used = total - free - reserved
    claims = _claims(reading.holders, instances)
    sizes = _fit([part.used_bytes for part in claims], used)
    held = tuple(replace(part, used_bytes=size) for part, size in zip(claims, sizes, strict=True))
    unattributed = used - sum(sizes)
    rest = (
        LedgerPart(LedgerKind.UNATTRIBUTED, None, unattributed, processes=0),
        LedgerPart(LedgerKind.FREE, None, free, processes=0),
    )
    driver = LedgerPart(LedgerKind.DRIVER, None, reserved, processes=0)
    return Ledger(
        total_bytes=total,
        parts=tuple(part for part in (driver, *held, *rest) if part.used_bytes or part.kind is LedgerKind.FREE),
        unattributed_bytes=unattributed,
        overcommitted_bytes=sum(part.used_bytes for part in claims) - sum(sizes),
    )


_LEDGER_ORDER = tuple(LedgerKind)


def _claims(holders: tuple[Holder, ...], instances: Mapping[str, str]) -> list[LedgerPart]:
    """Group the processes by instance, and those of other people by user; within a kind, largest first."""
    groups: dict[tuple[HolderKind, str | None], list[Holder]] = {}
    for holder in holders:
        if holder.used_bytes:
            owner = holder.user if holder.kind is HolderKind.FOREIGN else holder.instance_id
            groups.setdefault((holder.kind, owner), []).append(holder)
    parts = [_part(group, instances) for group in groups.values()]
    return sorted(parts, key=lambda part: (_LEDGER_ORDER.index(part.kind), -part.used_bytes, part.label or ""))


def _part(group: list[Holder], instances: Mapping[str, str]) -> LedgerPart:
    first = group[0]
    if first.kind is HolderKind.FOREIGN:
        label, user = _foreign_label(group), first.user
    else:
        label, user = instances.get(first.instance_id or ""), None
    return LedgerPart(
        kind=LedgerKind(first.kind.value),
        label=label,
        used_bytes=sum(holder.used_bytes or 0 for holder in group),
        instance_id=None if first.kind is HolderKind.FOREIGN else first.instance_id,
        user=user,
        processes=len(group),
    )


def _foreign_label(group: list[Holder]) -> str | None:
    """Return ``user · command`` for one process, the user for several."""
    words = [group[0].user] if len(group) > 1 else [group[0].user, group[0].command]
    return " · ".join(word for word in words if word) or None


def _fit(sizes: list[int], room: int) -> list[int]:
    """Cap ``sizes`` at one common level so that their sum is at most ``room``; sizes below the level are kept."""
    fitted = [0] * len(sizes)
    for position, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        fitted[index] = min(sizes[index], room // (len(sizes) - position))
        room -= fitted[index]
    return fitted
