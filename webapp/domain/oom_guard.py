"""The fence around a load: whether it has to stop because somebody else took the memory that it still needs. Pure.

The rule, on each device of the launch, of a reading against the one that the launch was decided on:

- It still needs its gate less what it holds: by the device's own figure for its processes, and where that is unknown by the movement of
  the free memory that nobody else explains. A load that holds more than its gate needs nothing more: its estimate was at fault, and the
  engine's own out-of-memory says so.
- The fence trips when less is free than that. The safety reserve may be eaten whole: it is there for neighbours that grow, and until it is
  gone the load goes well.
- …and when the growth of others explains it: by itself it is at least what lacks, so without it there would be room. Whatever else moved
  the free memory (the load itself, caches of the kernel, a process that is not listed) stops nothing, for it has no name to tell.
- …on two readings in a row: one reading may catch a neighbour between giving back and taking, or a driver that books late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from webapp.domain.growth import Growth, growths, net_bytes
from webapp.domain.memory import Reading, Sample, instance_bytes


@dataclass(frozen=True)
class MemoryShortage:
    """What lacks on a device, and who took it."""

    device_id: str
    needed_bytes: int
    """What the load still needs there."""
    free_bytes: int
    grown: Growth
    """The one that grew most."""

    @property
    def missing_bytes(self) -> int:
        """What lacks."""
        return self.needed_bytes - self.free_bytes


@dataclass(frozen=True)
class OomGuard:
    """A launch under way and what was read of it so far; each reading makes a new one."""

    instance_id: str
    gates: Mapping[str, int]
    """The bytes that the launch was admitted with, by device."""
    since: Sample
    """The reading that it was decided on."""
    number: int = 0
    """The sample that was judged last."""
    doubtful: frozenset[str] = field(default_factory=frozenset)
    """The devices where something lacked then."""

    def after(self, sample: Sample) -> tuple[OomGuard, MemoryShortage | None]:
        """Return the fence after ``sample`` and what trips it; a sample that was judged already changes nothing."""
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
    """Return what lacks on one device by the rule above, ``None`` where nothing does or the readings cannot tell."""
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
