"""Settle: wait until a device's memory has come back and stands still, and say how much came back in what time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from webapp.domain.memory import DeviceKind, HistoryPoint, Reading, Sample
from webapp.domain.units import MIB

STILL_BYTES = 16 * MIB
"""Two readings this near to each other are called equal: the host's free memory is never quite still."""
HOST_NOISE_BYTES = 64 * MIB
"""By so much the free memory of a host in use moves within a second, by processes too small to be named: more than a small model that
shares its libraries holds. That the kernel took its memory back is proved by the end of the process, which comes before."""


class DeviceMonitor(Protocol):
    """What the controller needs of the monitor."""

    def latest(self) -> Sample | None:
        """The latest sample; never waits."""

    def age_s(self) -> float | None:
        """Seconds since the latest sample, ``None`` before the first."""

    def is_stale(self) -> bool:
        """Whether the latest sample is too old to decide on."""

    def lately(self) -> tuple[Sample, ...]:
        """The samples of the last minute and a half, oldest first; never waits."""

    def fresh(self, timeout_s: float, *, anew: bool = False) -> Sample | None:
        """Wait for a sample whose reading began after this call; ``None`` when none came in time.

        ``anew`` is for a figure that is kept: nothing in it is of an earlier reading.
        """

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        """The short history of a device, oldest first."""

    def faster(self) -> AbstractContextManager[None]:
        """Read at the busy interval inside the block."""


@dataclass(frozen=True)
class SettlePolicy:
    """The figures that decide; see the settings of the same names."""

    poll_s: float
    share: float
    """Of the expected bytes, 0 to 1."""
    warn_s: float
    deadline_s: float


@dataclass(frozen=True)
class Stock:
    """What a device has free, and what the processes that are not looked at hold on it; ``None`` is unknown."""

    free_bytes: int
    others_bytes: int | None


@dataclass(frozen=True)
class Settled:
    """How the wait ended on one device. ``freed_bytes`` is ``None`` when the device could not be read.

    ``freed_bytes`` is by how much the free memory rose, plus ``others_bytes``: by how much everybody else grew meanwhile. So a
    neighbour who takes what was given back does not make a receipt lie. An end takes no memory: where the sum is below 0, somebody grew
    whom the device does not name; that counts among the others, and nothing was freed as far as is known.
    """

    device_id: str
    expected_bytes: int
    freed_bytes: int | None
    seconds: float
    settled: bool
    others_bytes: int | None = None


def free_by_device(sample: Sample | None) -> Mapping[str, int]:
    """Return the free bytes of each device that could be read."""
    if sample is None:
        return {}
    return {r.device_id: r.free_bytes for r in sample.readings if r.free_bytes is not None}


def stock_by_device(sample: Sample | None, leaving: frozenset[str]) -> Mapping[str, Stock]:
    """Return each readable device's stock; the processes of what is ``leaving`` do not count among the others."""
    readings = () if sample is None else sample.readings
    return {r.device_id: Stock(r.free_bytes, _others(r, leaving)) for r in readings if r.free_bytes is not None}


def _others(reading: Reading, leaving: frozenset[str]) -> int | None:
    used = [h.used_bytes for h in reading.holders if not leaving & {h.instance_id, h.container_id}]
    if not reading.holders_known or None in used:
        return None
    return sum(u for u in used if u is not None)


def settle(
    monitor: DeviceMonitor,
    before: Mapping[str, Stock],
    expected: Mapping[str, int],
    policy: SettlePolicy,
    *,
    leaving: frozenset[str],
    clock: Callable[[], float],
    wait: Callable[[float], None],
    on_slow: Callable[[], None] | None = None,
) -> tuple[Settled, ...]:
    """Wait until every device of ``expected`` has given back ``share`` of the bytes and two readings in a row are equal.

    ``before`` is each device's stock before the unloading of the instances and containers whose ids are ``leaving``, ``clock``
    monotonic seconds;
    ``wait(seconds)`` may raise to end the wait. After ``deadline_s`` the devices are reported as they are, ``settled=False``. Never
    raises by itself.
    """
    began = clock()
    last: dict[str, int] = {}
    done: dict[str, Settled] = {}
    warned = False
    while True:
        now = stock_by_device(monitor.fresh(policy.poll_s * 4), leaving)
        seconds = round(clock() - began, 3)
        looks = {d: _look(d, wanted, before.get(d), now.get(d), seconds) for d, wanted in expected.items()}
        for device_id, look in looks.items():
            if device_id not in done and _is_settled(look, last.get(device_id), policy.share):
                done[device_id] = replace(look, settled=True)
        if len(done) == len(expected) or seconds >= policy.deadline_s:
            return tuple(_without_loss(done.get(device_id, look)) for device_id, look in looks.items())
        if seconds >= policy.warn_s and not warned:
            warned = True
            if on_slow is not None:
                on_slow()
        last = {d: look.freed_bytes for d, look in looks.items() if look.freed_bytes is not None}
        wait(policy.poll_s)


def wait_still(
    monitor: DeviceMonitor,
    device_ids: Collection[str],
    policy: SettlePolicy,
    *,
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> bool:
    """Wait until two readings in a row say the same free memory of each device; False when the deadline came first.

    ``wait(seconds)`` may raise to end the wait.
    """
    began = clock()
    last: Mapping[str, int] = {}
    while True:
        now = free_by_device(monitor.fresh(policy.poll_s * 4))
        if all(d in now and d in last and abs(now[d] - last[d]) <= STILL_BYTES for d in device_ids):
            return True
        if clock() - began >= policy.deadline_s:
            return False
        last = now
        wait(policy.poll_s)


def _look(device_id: str, wanted: int, before: Stock | None, now: Stock | None, seconds: float) -> Settled:
    if now is None or before is None:
        return Settled(device_id, wanted, None, seconds, settled=False)
    others = None
    if now.others_bytes is not None and before.others_bytes is not None:
        others = now.others_bytes - before.others_bytes
    freed = now.free_bytes - before.free_bytes + (others or 0)
    return Settled(device_id, wanted, freed, seconds, settled=False, others_bytes=others)


def _without_loss(result: Settled) -> Settled:
    """Count what is missing beyond nothing to others who grew unseen; rise and others still add up to what was freed."""
    if result.freed_bytes is None or result.freed_bytes >= 0:
        return result
    return replace(result, freed_bytes=0, others_bytes=(result.others_bytes or 0) - result.freed_bytes)


def _is_settled(look: Settled, last: int | None, share: float) -> bool:
    if look.freed_bytes is None or last is None or abs(look.freed_bytes - last) > STILL_BYTES:
        return False
    noise = HOST_NOISE_BYTES if look.device_id == DeviceKind.HOST else STILL_BYTES
    return look.freed_bytes >= look.expected_bytes * share - noise
