"""The out-of-memory guard of a load: whether the load must stop because another process took memory that it still
needs. Pure.

The rule compares, on each device of the launch, a reading with the one on which the launch was decided:

- The load still needs the required bytes less what it holds: by the device's own figure for its processes; if that is
  unknown, by the change of the free memory that no other holder explains. A load that holds more than its requirement
  needs nothing more: its estimate was wrong, and the engine reports out-of-memory.
- The guard triggers if less than that is free. The safety reserve may be used up: it exists for other processes that
  grow, and while some of it is left the load succeeds.
- The growth of other holders must explain the shortfall: it must be at least as large, so that without it there would
  be room. Other changes of the free memory (the load itself, caches of the kernel, an unlisted process) stop nothing,
  since no culprit can be named.
- The condition must hold on two readings in a row: one reading may catch another process between releasing and taking
  memory, or a driver that updates late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from webapp.domain.growth import Growth, growths, net_bytes
from webapp.domain.memory import Reading, Sample, instance_bytes


@dataclass(frozen=True)
class MemoryShortage:
    """The shortfall on a device, and the holder that caused it."""

    device_id: str
    needed_bytes: int
    """Bytes that the load still needs on the device."""
    free_bytes: int
    grown: Growth
    """The holder that grew most."""

    @property
    def missing_bytes(self) -> int:
        """The shortfall in bytes."""
        return self.needed_bytes - self.free_bytes


@dataclass(frozen=True)
class OomGuard:
    """A launch in progress and the readings so far; each reading creates a new guard."""

    instance_id: str
    gates: Mapping[str, int]
    """The bytes with which the launch was admitted, by device."""
    since: Sample
    """The reading on which the launch was decided."""
    number: int = 0
    """The number of the sample that was judged last."""
    doubtful: frozenset[str] = field(default_factory=frozenset)
    """The devices with a shortfall in that sample."""

    def after(self, sample: Sample) -> tuple[OomGuard, MemoryShortage | None]:
        """Return the guard after ``sample``, and the shortage if it triggers; a sample that was already judged changes
        nothing.
        """
        if sample.number <= max(self.number, self.since.number):
            return self, None
        found = [breach for device_id in self.gates if (breach := self._breach(device_id, sample)) is not None]
        certain = next((breach for breach in found if breach.device_id in self.doubtful), None)
        doubtful = frozenset(breach.device_id for breach in found)
        return replace(self, number=sample.number, doubtful=doubtful), certain

    def _breach(self, device_id: str, sample: Sample) -> MemoryShortage | None:
        before, now = self.since.reading(device_id), sample.reading(device_id)
        if before is None or now is None:
            return None
        return breach_of(self.gates[device_id], self.instance_id, before, now)


def breach_of(required_bytes: int, instance_id: str, before: Reading, now: Reading) -> MemoryShortage | None:
    """Return the shortage on one device by the rule above; ``None`` if there is none or the readings cannot tell."""
    others = growths(before, now, instance_id)
    if not others or before.free_bytes is None or now.free_bytes is None:
        return None
    grown = net_bytes(others)
    held = instance_bytes(now, instance_id)
    if held is None:
        held = max(0, before.free_bytes - now.free_bytes - grown)
    needed = max(0, required_bytes - held)
    missing = needed - now.free_bytes
    if not 0 < missing <= grown:
        return None
    return MemoryShortage(now.device_id, needed, now.free_bytes, grown=others[0])
