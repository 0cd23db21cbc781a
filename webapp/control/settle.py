"""Settle: wait until a device's memory is freed and stable, and report how much was freed and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from webapp.domain.memory import DeviceKind, HistoryPoint, Reading, Sample
from webapp.domain.units import MIB

STILL_BYTES = 16 * MIB
"""Two readings this close to each other count as equal: the host's free memory is never quite stable."""
HOST_NOISE_BYTES = 64 * MIB
"""The free memory of a host in use changes by this much within a second, through processes too small to be listed: more
than a small model that shares its libraries holds. The end of the process, which comes before, proves that the
kernel reclaimed its memory.
"""


class DeviceMonitor(Protocol):
    """The monitor's methods that the controller uses."""

    def latest(self) -> Sample | None:
        """Return the latest sample; never waits."""

    def age_s(self) -> float | None:
        """Return the seconds since the latest sample, ``None`` before the first."""

    def is_stale(self) -> bool:
        """Return whether the latest sample is too old to decide on."""

    def lately(self) -> tuple[Sample, ...]:
        """Return the samples of the last minute and a half, oldest first; never waits."""

    def fresh(self, timeout_s: float, *, anew: bool = False) -> Sample | None:
        """Wait for a sample whose reading began after this call; ``None`` if none arrived in time.

        ``anew`` is for a figure that is stored: nothing in it comes from an earlier reading.
        """

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        """Return the short history of a device, oldest first."""

    def faster(self) -> AbstractContextManager[None]:
        """Read at the busy interval inside the block."""


@dataclass(frozen=True)
class SettlePolicy:
    """The thresholds; see the settings of the same names."""

    poll_s: float
    share: float
    """Share of the expected bytes, 0 to 1."""
    warn_s: float
    deadline_s: float


@dataclass(frozen=True)
class Stock:
    """A device's free memory, and the memory that all other processes hold on it; ``None`` is unknown."""

    free_bytes: int
    others_bytes: int | None


@dataclass(frozen=True)
class Settled:
    """How the wait ended on one device. ``freed_bytes`` is ``None`` if the device could not be read.

    ``freed_bytes`` is the rise of the free memory plus ``others_bytes``, the growth of all other holders in the
    meantime. So another process that takes the freed memory does not distort a receipt. Ending a process takes no
    memory: if the sum is below 0, a holder grew that the device does not list; that counts among the others, and
    nothing was freed as far as is known.
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
    """Return each readable device's stock; the processes of the ids in ``leaving`` do not count among the others."""
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
    """Wait until every device of ``expected`` has freed ``share`` of the bytes and two readings in a row are equal.

    ``before`` is each device's stock before the unloading of the instances and containers whose ids are ``leaving``,
    ``clock`` returns monotonic seconds; ``wait(seconds)`` may raise to end the wait. After ``deadline_s`` the devices
    are reported as they are, ``settled=False``. Raises nothing of its own.
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
    """Wait until two readings in a row agree on the free memory of each device; False if the deadline came first.

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
    """Attribute a negative result to the growth of unlisted holders; rise and others still add up to what was freed."""
    if result.freed_bytes is None or result.freed_bytes >= 0:
        return result
    return replace(result, freed_bytes=0, others_bytes=(result.others_bytes or 0) - result.freed_bytes)


def _is_settled(look: Settled, last: int | None, share: float) -> bool:
    if look.freed_bytes is None or last is None or abs(look.freed_bytes - last) > STILL_BYTES:
        return False
    noise = HOST_NOISE_BYTES if look.device_id == DeviceKind.HOST else STILL_BYTES
    return look.freed_bytes >= look.expected_bytes * share - noise
