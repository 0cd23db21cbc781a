"""Readings of a GPU whose figures follow from who holds it."""

from __future__ import annotations

from dataclasses import replace

from webapp.domain.memory import DeviceKind, Holder, HolderKind, Reading, Sample
from webapp.domain.units import gib

TOTAL = gib(24)


def holder(
    pid: int, used_bytes: int | None, *, instance_id: str | None = None, container_id: str | None = None
) -> Holder:
    """A process: a worker where it has an instance, else somebody else's."""
    kind = HolderKind.FOREIGN if instance_id is None else HolderKind.WORKER
    return Holder(pid, "alice", "train.py", used_bytes, kind, instance_id, container_id)


def reading(*holders: Holder, device_id: str = "gpu-0", total: int = TOTAL, **changes: object) -> Reading:
    """A GPU; what nobody holds is free, unless ``changes`` say otherwise."""
    used = sum(each.used_bytes or 0 for each in holders)
    made = Reading(
        device_id=device_id,
        kind=DeviceKind.GPU,
        name="Fake GPU",
        uuid=None,
        total_bytes=total,
        reserved_bytes=0,
        used_bytes=used,
        free_bytes=max(0, total - used),
        utilization_percent=None,
        temperature_c=None,
        power_w=None,
        holders=holders,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def sample(number: int, *readings: Reading) -> Sample:
    """The devices at a moment, a quarter of a second after the one before."""
    return Sample(number, 1000.0 + number / 4, number / 4, readings)
