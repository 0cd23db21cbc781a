"""The state that plans are computed from, and the headroom on each device after given evictions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from webapp.domain.calibration import UNCALIBRATED, Calibration
from webapp.domain.footprint import Footprint
from webapp.domain.instance import ANSWERING, Instance, InstanceState
from webapp.domain.memory import DeviceKind, Reading, Sample, instances_bytes
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.domain.plan import DevicePlan, Eviction, Reach, SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy, judge, within_limit
from webapp.domain.returning import no_return
from webapp.errors import UnknownDevice
from webapp.message import Message


@dataclass(frozen=True)
class Cooldown:
    """The pause after a failed load: how many loads failed in a row, and until when (monotonic seconds) it lasts."""

    failures: int
    until: float


@dataclass(frozen=True)
class PlanningState:
    """Everything that a plan depends on, at one moment."""

    now: float
    """Seconds since the epoch."""
    sample: Sample | None
    sample_is_stale: bool
    instances: tuple[Instance, ...]
    models: Mapping[str, CachedModel]
    policy: AdmissionPolicy
    mode_problems: Mapping[Mode, Message | None] = field(default_factory=dict)
    cooldowns: Mapping[str, Cooldown] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    calibration: Calibration = UNCALIBRATED
    monotonic: float = 0.0
    """The time of the monotonic clock, by which pauses are counted."""
    actor: str | None = None
    """The person who plans; other people's models are protected from them. ``None`` stands for nobody in particular."""

    def seen_by(self, actor: str) -> PlanningState:
        """Return the state for plans of ``actor``."""
        return self if actor == self.actor else replace(self, actor=actor)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """All existing devices, even unreadable ones."""
        return () if self.sample is None else tuple(r.device_id for r in self.sample.readings)

    @cached_property
    def held_bytes(self) -> Mapping[tuple[str, str], int]:
        """Bytes that an instance holds on a device, by both ids: as read from the device, or else measured or
        predicted."""
        readings = () if self.sample is None else self.sample.readings
        said = {reading.device_id: instances_bytes(reading) for reading in readings}
        return {
            (instance.id, device_id): by_instance.get(instance.id) or instance.held_bytes(device_id)
            for device_id, by_instance in said.items()
            for instance in self.instances
            if device_id in instance.devices or instance.id in by_instance
        }

    @cached_property
    def own_bytes(self) -> Mapping[str, int]:
        """Bytes that all instances hold on a device now."""
        own: dict[str, int] = dict.fromkeys(self.device_ids, 0)
        for (_, device_id), held in self.held_bytes.items():
            own[device_id] += held
        return own

    @cached_property
    def promised_bytes(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes that instances may still take if they stay, by device and instance, without zeros.

        An instance was admitted for its prediction and starts with an empty KV cache.
        """
        promised: dict[str, dict[str, int]] = {device_id: {} for device_id in self.device_ids}
        for (instance_id, device_id), held in self.held_bytes.items():
            more = self._still_taking.get(instance_id, {}).get(device_id, 0) - held
            if more > 0:
                promised[device_id][instance_id] = more
        return promised

    @cached_property
    def evictions(self) -> tuple[Eviction, ...]:
        """Everything that can be unloaded. A dead instance frees nothing and is only removed.

        A stuck one is left out: it survived every signal, so other models would be unloaded for nothing.
        """
        return tuple(_eviction(i, self) for i in self.instances if i.state is not InstanceState.STUCK)

    @cached_property
    def evictions_from(self) -> Mapping[str, tuple[Eviction, ...]]:
        """The possible evictions of each device: all instances that hold memory on it."""
        return {d: tuple(each for each in self.evictions if d in each.freed_bytes) for d in self.device_ids}

    @cached_property
    def _still_taking(self) -> Mapping[str, Mapping[str, int]]:
        growing = (i for i in self.instances if i.is_live and i.state is not InstanceState.STUCK)
        return {instance.id: instance.predicted_bytes for instance in growing}


@dataclass(frozen=True)
class Headroom:
    """The most that a launch may take on one device, in bytes; ``None`` if the device's memory is unknown."""

    device_id: str
    kind: DeviceKind
    usable_bytes: int
    """Total minus the driver's reserve, as CUDA counts it."""
    free_now_bytes: int | None
    """With all loaded models kept; ``None`` also if the request would be refused for a model in use."""
    free_after_unload_bytes: int | None
    """After all of Warden's models on the device are unloaded."""
    device_name: str | None = None
    calibration: Calibration = UNCALIBRATED


def headrooms(planning_state: PlanningState, request: SwitchRequest | None = None) -> tuple[Headroom, ...]:
    """Return the headroom of every device, or of those named in ``request``; empty if one of these does not exist.

    Nothing can be loaded now on a device where ``request`` would unload a model of the person's own that is in use or
    cannot be ended.
    """
    named = None if request is None else request.devices
    if not set(named or ()) <= set(planning_state.device_ids):
        return ()
    return tuple(
        _room(reading_of(planning_state, device_id), planning_state, request)
        for device_id in named or planning_state.device_ids
    )


def _room(reading: Reading, planning_state: PlanningState, request: SwitchRequest | None) -> Headroom:
    there = planning_state.evictions_from[reading.device_id]
    now, after = (most_bytes(_after(unload, reading, planning_state)) for unload in ((), there))
    own = [] if request is None else [e for e in there if e.goes(request, Reach.OWN)]
    if request is not None and any(e.is_kept_from(request) or e.is_unendable_for(request) for e in own):
        now = None
    return Headroom(
        reading.device_id, reading.kind, usable_of(reading), now, after, reading.name, planning_state.calibration
    )


class DeviceClass(NamedTuple):
    """The properties of a device that a footprint depends on."""

    kind: DeviceKind
    name: str | None
    usable_bytes: int


@dataclass(frozen=True)
class DeviceGroup:
    """One or several devices as a launch finds them after given evictions."""

    devices: tuple[DevicePlan, ...]
    """Their arithmetic before the launch."""
    headrooms: tuple[int, ...]
    """The most that a launch may take on each; 0 if the memory is unknown."""
    places: tuple[DeviceClass, ...]
    unload: tuple[Eviction, ...]

    @property
    def device_ids(self) -> tuple[str, ...]:
        return tuple(device.device_id for device in self.devices)

    @property
    def narrowest(self) -> int:
        """The smallest headroom of the devices."""
        return min(self.headrooms)

    @property
    def is_readable(self) -> bool:
        """Whether the memory of every device is known."""
        return all(device.available_bytes is not None for device in self.devices)

    def is_kept_from(self, request: SwitchRequest) -> bool:
        """Whether the group holds a model that ``request`` must not unload."""
        return any(eviction.is_kept_from(request) for eviction in self.unload)


def joined(groups: Sequence[DeviceGroup], planning_state: PlanningState) -> DeviceGroup:
    """Return single devices as one group.

    The figures of a device do not depend on the other devices: an eviction for one of them frees its memory on all of
    them.
    """
    if len(groups) == 1:
        return groups[0]
    evicted = {eviction.instance_id for group in groups for eviction in group.unload}
    return DeviceGroup(
        devices=tuple(group.devices[0] for group in groups),
        headrooms=tuple(group.headrooms[0] for group in groups),
        places=tuple(group.places[0] for group in groups),
        unload=tuple(eviction for eviction in planning_state.evictions if eviction.instance_id in evicted),
    )


def is_claimed(group: DeviceGroup, planning_state: PlanningState) -> bool:
    """Return whether an operation is running on one of the devices."""
    return any(device_id in planning_state.claims for device_id in group.device_ids)


def place_of(reading: Reading) -> DeviceClass:
    """Return the class of a device."""
    return DeviceClass(reading.kind, reading.name, usable_of(reading))


def usable_of(reading: Reading) -> int:
    """Return a device's total minus the driver's reserve, as CUDA counts it; 0 if unknown."""
    return (reading.total_bytes or 0) - (reading.reserved_bytes or 0)


def most_bytes(device: DevicePlan) -> int | None:
    """Return the most that a launch may take without being refused by ``judge``; ``None`` if unknown."""
    return None if device.available_bytes is None else device.available_bytes - device.reserve_bytes


def reading_of(planning_state: PlanningState, device_id: str) -> Reading:
    """Return the reading of a device. Raises UnknownDevice if there is none."""
    reading = None if planning_state.sample is None else planning_state.sample.reading(device_id)
    if reading is None:
        raise UnknownDevice(device=device_id, known=", ".join(planning_state.device_ids))
    return reading


def held_on(instance: Instance, device_id: str, planning_state: PlanningState) -> int:
    """Return the bytes that an instance holds on a device, from the instance's own figures if the device is missing."""
    held = planning_state.held_bytes.get((instance.id, device_id))
    return instance.held_bytes(device_id) if held is None else held


def promised_on(instance: Instance, device_id: str, planning_state: PlanningState) -> int:
    """Return the bytes that an instance may still take on a device if it stays."""
    return planning_state.promised_bytes.get(device_id, {}).get(instance.id, 0)


def _eviction(instance: Instance, planning_state: PlanningState) -> Eviction:
    return Eviction(
        instance_id=instance.id,
        model_id=instance.model_id,
        mode=instance.mode,
        owner=instance.owner,
        in_flight=instance.in_flight,
        freed_bytes={d: held_on(instance, d, planning_state) for d in instance.devices},
        is_others=planning_state.actor not in (None, instance.owner),
        is_resting=instance.state in ANSWERING,
        idle_s=max(0.0, planning_state.now - instance.used_at),
        is_foreign=instance.is_live and instance.is_foreign_to(planning_state.actor),
        lease_until=instance.lease.until if instance.lease.runs(planning_state.now) else None,
        reason=instance.lease.reason,
        no_return=no_return(instance, planning_state.models, planning_state.mode_problems),
    )


def group_of(reading: Reading, unload: tuple[Eviction, ...], planning_state: PlanningState) -> DeviceGroup:
    """Return one device after the evictions ``unload``, all of which free memory on it."""
    device = _after(unload, reading, planning_state)
    return DeviceGroup((device,), (most_bytes(device) or 0,), (place_of(reading),), unload)


def _after(unload: Sequence[Eviction], reading: Reading, planning_state: PlanningState) -> DevicePlan:
    device_id, policy, nothing = reading.device_id, planning_state.policy, Footprint(reading.device_id, ())
    freed = sum(eviction.freed_bytes.get(device_id, 0) for eviction in unload)
    reserve = policy.reserve_on(reading.total_bytes or 0)
    if reading.free_bytes is None or planning_state.sample_is_stale:
        return DevicePlan(device_id, nothing, reading.total_bytes, None, freed, None, reserve, Verdict.REFUSED)
    evicted = {eviction.instance_id for eviction in unload}
    own = planning_state.own_bytes[device_id]
    promised = sum(
        more for instance_id, more in planning_state.promised_bytes[device_id].items() if instance_id not in evicted
    )
    before = within_limit(reading.free_bytes, own, policy.memory_limit_bytes)
    free_then = min(reading.free_bytes + freed, max(usable_of(reading), reading.free_bytes))
    available = within_limit(free_then, own - freed, policy.memory_limit_bytes) - promised
    return DevicePlan(
        device_id=device_id,
        footprint=nothing,
        total_bytes=reading.total_bytes,
        free_before_bytes=before,
        freed_bytes=available + promised - before,
        free_after_bytes=available,
        reserve_bytes=reserve,
        verdict=judge(0, available, reserve, policy.fits_percent),
        promised_bytes=promised,
    )
