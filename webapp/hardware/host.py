"""The host's RAM as a device, for a machine that has no GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from webapp.domain.memory import DeviceKind, Holder, Reading
from webapp.domain.units import KIB, MIB
from webapp.errors import ProbeFailed
from webapp.hardware.holders import Holders, ProcessRound, read_quickly
from webapp.hardware.shared_pages import SharedPages

HOST_ID = "host"
HOLDER_FROM_BYTES = 32 * MIB
"""Processes with less anonymous memory are left in the unattributed rest; Warden's own are always listed."""

_WAITING_PAGES = re.compile(rb"^\s+count:\s+(\d+)$", re.MULTILINE)
"""The length of a processor's list of free pages, in /proc/zoneinfo."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_V2_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
_V1_RECLAIMABLE = ("total_active_file", "total_inactive_file")


@dataclass(frozen=True)
class _MemoryBound:
    """The memory at one level (the machine, a control group) and the available part of it."""

    total_bytes: int
    free_bytes: int


class HostProbe:
    """Reads the RAM that is available to Warden's models: the machine's, or the limit of this process's control group.

    Memory that the kernel can reclaim (the page cache) counts as free, as in ``MemAvailable``.
    """

    def __init__(self, holders: Holders, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._holders = holders
        self._proc = proc
        self._cgroup = cgroup
        self._shared = SharedPages(str(proc))
        self._name: str | None = None
        self._ticks: tuple[int, int] | None = None

    def open(self) -> None:
        """Read the constant value: the processor's name."""
        self._name = _processor_name(self._proc / "cpuinfo")
        self._ticks = None

    def read(self, *, anew: bool = False) -> tuple[Reading, ...]:
        """Read the RAM and its holders.

        Raises:
            ProbeFailed: /proc cannot be read.
        """
        try:
            room = self._room()
            holders = tuple(self._find_holders(self._holders.look(), anew=anew))
        except (OSError, KeyError, ValueError) as exc:
            raise ProbeFailed(device=HOST_ID, detail=str(exc)) from exc
        return (
            Reading(
                device_id=HOST_ID,
                kind=DeviceKind.HOST,
                name=self._name,
                total_bytes=room.total_bytes,
                reserved_bytes=0,
                used_bytes=room.total_bytes - room.free_bytes,
                free_bytes=room.free_bytes,
                utilization_percent=self._utilization(),
                holders=holders,
            ),
        )

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def _room(self) -> _MemoryBound:
        """Return the tightest of the machine and each control group of this process."""
        rooms = [self._machine(), *self._groups()]
        total = min(room.total_bytes for room in rooms)
        return _MemoryBound(total, min(max(min(room.free_bytes for room in rooms), 0), total))

    def _machine(self) -> _MemoryBound:
        figures = _figures((self._proc / "meminfo").read_text())
        return _MemoryBound(figures["MemTotal"] * KIB, figures["MemAvailable"] * KIB + self._waiting_bytes())

    def _waiting_bytes(self) -> int:
        """Return the bytes of free pages in the processors' own lists.

        Since Linux 6.7 these lists may hold up to an eighth of the memory, and MemFree and MemAvailable leave them out:
        after a process of 1.2 GiB had ended, 0.2 to 0.8 GiB appeared as free only seconds later; with the lists, the
        difference was 2 MiB at once.
        """
        try:
            zones = (self._proc / "zoneinfo").read_bytes()
        except OSError:
            return 0  # hidden in some containers; the figure is then late, as everywhere else
        return sum(int(count) for count in _WAITING_PAGES.findall(zones)) * _PAGE_BYTES

    def _groups(self) -> Iterator[_MemoryBound]:
        """Yield the groups with a limit. Their ancestors limit a group too; a folder that is not mounted here is
        skipped.
        """
        for controllers, path in _memberships(self._proc / "self" / "cgroup"):
            if controllers == "":
                for folder in _upwards(self._v2_root(), path):
                    yield from _v2_room(folder)
            elif "memory" in controllers.split(","):
                for folder in _upwards(self._cgroup / "memory", path):
                    yield from _v1_room(folder)

    def _v2_root(self) -> Path:
        hybrid = self._cgroup / "unified"
        return hybrid if hybrid.is_dir() else self._cgroup

    def _find_holders(self, look: ProcessRound, *, anew: bool) -> Iterator[Holder]:
        """Yield every process with much memory of its own.

        Memory that a worker shares with the launcher is attributed to the launcher, or to its heir. For other people's
        processes, pages that a fork shares with its parent count for both, as the kernel counts them.
        """
        self._shared.keep_only(look.workers)
        for pid in self._pids():
            own_bytes = self._anonymous_bytes(pid)
            if own_bytes is None:
                continue
            if pid in look.workers and pid not in look.launchers:
                yield look.holder(pid, max(0, own_bytes - self._shared.shared_bytes(pid, anew=anew)))
            elif own_bytes >= HOLDER_FROM_BYTES:
                yield look.holder(pid, own_bytes)

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._proc) if name.isdecimal()]  # noqa: PTH208

    def _anonymous_bytes(self, pid: int) -> int | None:
        """Return resident less shared pages, from one short line; ``None`` if the process has ended."""
        fields = (read_quickly(f"{self._proc}/{pid}/statm") or b"").split()
        return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES if len(fields) > 2 else None

    def _utilization(self) -> float | None:
        """Return the load of the processors since the last reading, in percent."""
        try:
            ticks = _busy_and_all((self._proc / "stat").read_text())
        except (OSError, IndexError, ValueError):
            return None
        before, self._ticks = self._ticks, ticks
        if before is None or ticks[1] <= before[1]:
            return None
        return min(max(100.0 * (ticks[0] - before[0]) / (ticks[1] - before[1]), 0.0), 100.0)


def _processor_name(cpuinfo: Path) -> str | None:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.M)
    except OSError:
        return None
    return found[1].strip() if found else None


def _figures(text: str) -> dict[str, int]:
    """Parse lines of a name, an optional colon and a number: /proc/meminfo, memory.stat."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _busy_and_all(stat: str) -> tuple[int, int]:
    """Return busy and total ticks of all processors from the first line of /proc/stat: user nice system idle iowait irq
    softirq steal.
    """
    ticks = [int(field) for field in stat.splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _memberships(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the controllers and the path of each group of this process; version 2 has no controllers there."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        yield controllers, path


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the group's folder and its parents up to the root of the mount."""
    group = Path(path.lstrip("/"))
    for level in (group, *group.parents):
        yield root / level
        if level == Path():
            return


def _v2_room(folder: Path) -> Iterator[_MemoryBound]:
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            yield _limited(int(limit), folder / "memory.current", folder / "memory.stat", _V2_RECLAIMABLE)
    except OSError:
        return


def _v1_room(folder: Path) -> Iterator[_MemoryBound]:
    """Yield the limit of version 1, which writes a number near 2^63 for no limit; the machine's total is below it."""
    try:
        limit = int((folder / "memory.limit_in_bytes").read_text())
        yield _limited(limit, folder / "memory.usage_in_bytes", folder / "memory.stat", _V1_RECLAIMABLE)
    except OSError:
        return


def _limited(limit_bytes: int, usage: Path, stat: Path, reclaimable: tuple[str, ...]) -> _MemoryBound:
    figures = _figures(stat.read_text())
    held = int(usage.read_text()) - sum(figures.get(name, 0) for name in reclaimable)
    return _MemoryBound(limit_bytes, limit_bytes - max(held, 0))
