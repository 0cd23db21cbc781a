"""Decides whether a clean-up or an emergency stop would free enough memory for a refused launch. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.domain.instance import Instance, InstanceState
from webapp.domain.memory import HolderKind, Reading, Sample, instances_bytes
from webapp.domain.plan import DevicePlan, Plan

KEPT = (InstanceState.STUCK, InstanceState.DEAD)
"""States whose memory an emergency stop does not free: a stuck instance survived every signal, a dead one holds
none."""

Gain = Callable[[DevicePlan, Reading], int]


@dataclass(frozen=True)
class Relief:
    """Whether a clean-up, and whether an emergency stop, would make a refused launch fit."""

    by_clean: bool
    by_emergency: bool


def relief_of(plan: Plan, instances: Sequence[Instance], sample: Sample | None) -> Relief:
    """Return what would free the missing memory of ``plan``; unknown memory does not count."""
    if sample is None:
        return Relief(False, False)
    going = {eviction.instance_id for eviction in plan.unload}
    staying = [instance for instance in instances if instance.id not in going]
    known = {instance.id for instance in instances}

    def cleaned(device: DevicePlan, reading: Reading) -> int:
        given = sum(_idle_bytes(instance) for instance in staying if device.device_id in instance.devices)
        return given + _leftover_bytes(device, reading, known)

    def ended(device: DevicePlan, reading: Reading) -> int:
        held = instances_bytes(reading)
        given = sum(
            held.get(instance.id) or instance.held_bytes(device.device_id)
            for instance in staying
            if device.device_id in instance.devices and instance.state not in KEPT
        )
        return given + device.promised_bytes + _leftover_bytes(device, reading, known)

    return Relief(_is_enough(plan, sample, cleaned), _is_enough(plan, sample, ended))


def _is_enough(plan: Plan, sample: Sample, gain: Gain) -> bool:
    return bool(plan.devices) and all(
        _is_met(device, sample.reading(device.device_id), gain) for device in plan.devices
    )


def _is_met(device: DevicePlan, reading: Reading | None, gain: Gain) -> bool:
    if reading is None or device.available_bytes is None:
        return False
    needed = device.footprint.required_bytes + device.reserve_bytes
    most = (reading.total_bytes or 0) - (reading.reserved_bytes or 0)
    return needed <= min(device.available_bytes + gain(device, reading), most)


def _idle_bytes(instance: Instance) -> int:
    """Return the bytes that a model's allocator holds but does not use, on one of its devices."""
    memory = instance.memory
    if instance.state is not InstanceState.READY or memory is None:
        return 0
    if memory.reserved_bytes is None or memory.allocated_bytes is None:
        return 0
    return max(0, memory.reserved_bytes - memory.allocated_bytes) // max(1, len(instance.devices))


def _leftover_bytes(device: DevicePlan, reading: Reading, known: set[str]) -> int:
    """Return the bytes held by Warden's processes without a model; those outside the memory limit do not matter."""
    if device.free_before_bytes != reading.free_bytes:
        return 0
    left = (each for each in reading.holders if each.kind is not HolderKind.FOREIGN and each.instance_id not in known)
    return sum(each.used_bytes or 0 for each in left if each.instance_id is not None)
