"""The host's RAM: what the machine and the control groups allow, and who holds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.hardware.conftest import ProcTree
from webapp.domain.memory import DeviceKind, HolderKind, Reading
from webapp.domain.units import GIB, MIB
from webapp.errors import ProbeFailed
from webapp.hardware.holders import Holders
from webapp.hardware.host import HOLDER_FROM_BYTES, HostProbe
from webapp.hardware.shared_pages import SharedPages


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    folder = tmp_path / "cgroup"
    folder.mkdir()
    return folder


def version_2(folder: Path, limit: str, current: int = 0, **stat: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in stat.items()))


def version_1(folder: Path, limit: int, usage: int = 0, **stat: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in stat.items()))


def read(proc: ProcTree, groups: Path, **workers: int) -> Reading:
    probe = HostProbe(Holders(lambda: {pid: name for name, pid in workers.items()}, proc=proc.root), proc.root, groups)
    probe.open()
    (reading,) = probe.read()
    probe.close()
    return reading


def sizes(reading: Reading) -> tuple[int | None, int | None, int | None]:
    return reading.total_bytes, reading.used_bytes, reading.free_bytes


def test_without_a_limit_it_is_the_machines_memory(proc: ProcTree, groups: Path) -> None:
    reading = read(proc, groups)
    assert (reading.device_id, reading.kind, reading.name) == ("host", DeviceKind.HOST, "Test CPU @ 3 GHz")
    assert sizes(reading) == (16 * GIB, 4 * GIB, 12 * GIB)
    assert reading.reserved_bytes == 0
    assert (reading.uuid, reading.temperature_c, reading.power_w, reading.problem) == (None, None, None, None)


def test_a_processor_without_a_name_has_none(proc: ProcTree, groups: Path) -> None:
    (proc.root / "cpuinfo").write_text("processor : 0\n")
    assert read(proc, groups).name is None
    (proc.root / "cpuinfo").unlink()
    assert read(proc, groups).name is None


def test_the_own_groups_limit_counts_and_its_page_cache_is_free(proc: ProcTree, groups: Path) -> None:
    version_2(
        groups / "user.slice" / "warden.service", str(8 * GIB), 5 * GIB, active_file=GIB, inactive_file=GIB, anon=3
    )
    assert sizes(read(proc, groups)) == (8 * GIB, 3 * GIB, 5 * GIB)


def test_a_limit_on_a_group_above_counts_too(proc: ProcTree, groups: Path) -> None:
    version_2(groups / "user.slice" / "warden.service", "max", 1 * GIB)
    version_2(groups / "user.slice", str(6 * GIB), 4 * GIB)
    assert sizes(read(proc, groups)) == (6 * GIB, 4 * GIB, 2 * GIB)


def test_a_group_may_allow_more_than_the_machine_has(proc: ProcTree, groups: Path) -> None:
    version_2(groups / "user.slice", str(64 * GIB), 1 * GIB)
    assert sizes(read(proc, groups)) == (16 * GIB, 4 * GIB, 12 * GIB)


def test_a_group_over_its_limit_has_nothing_free(proc: ProcTree, groups: Path) -> None:
    version_2(groups / "user.slice", str(2 * GIB), 3 * GIB)
    assert sizes(read(proc, groups)) == (2 * GIB, 2 * GIB, 0)


def test_version_1_counts_and_its_huge_number_is_no_limit(proc: ProcTree, groups: Path) -> None:
    proc.own_groups("4:cpu,memory:/box/inner", "1:name=systemd:/box", "0::/")
    version_1(groups / "memory" / "box" / "inner", 0x7FFFFFFFFFFFF000, GIB)
    version_1(groups / "memory" / "box", 4 * GIB, 3 * GIB, total_active_file=GIB, total_inactive_file=GIB)
    assert sizes(read(proc, groups)) == (4 * GIB, 1 * GIB, 3 * GIB)


def test_a_container_finds_its_own_limit_at_the_root_of_the_mount(proc: ProcTree, groups: Path) -> None:
    proc.own_groups(f"4:memory:/docker/{'a' * 64}")
    version_1(groups / "memory", 3 * GIB, 1 * GIB)
    assert sizes(read(proc, groups)) == (3 * GIB, 1 * GIB, 2 * GIB)


def test_version_2_beside_version_1_has_a_mount_of_its_own(proc: ProcTree, groups: Path) -> None:
    version_2(groups / "unified" / "user.slice", str(5 * GIB), 1 * GIB)
    assert sizes(read(proc, groups)) == (5 * GIB, 1 * GIB, 4 * GIB)


def test_processes_with_much_memory_of_their_own_are_holders(proc: ProcTree, groups: Path) -> None:
    proc.add(20, anonymous_bytes=HOLDER_FROM_BYTES, shared_bytes=GIB)
    proc.add(21, anonymous_bytes=HOLDER_FROM_BYTES - MIB, shared_bytes=GIB)
    (holder,) = read(proc, groups).holders
    assert (holder.pid, holder.used_bytes, holder.kind) == (20, HOLDER_FROM_BYTES, HolderKind.FOREIGN)


def test_a_worker_is_a_holder_whatever_its_size(proc: ProcTree, groups: Path) -> None:
    proc.add(20, anonymous_bytes=MIB)
    (holder,) = read(proc, groups, a=20).holders
    assert (holder.used_bytes, holder.kind, holder.instance_id) == (MIB, HolderKind.WORKER, "a")


def test_what_a_worker_copies_of_shared_pages_is_its_own_when_it_is_read_anew(proc: ProcTree, groups: Path) -> None:
    """A look at the pages takes long, so an ordinary reading makes do with one of a moment ago."""
    proc.add(20, anonymous_bytes=100 * MIB)
    probe = HostProbe(Holders(lambda: {20: "a"}, proc=proc.root), proc.root, groups)
    probe._shared = SharedPages(str(proc.root), monotonic=lambda: 0.0)
    probe.open()
    figures = []
    for shared_mib, anew in ((90, False), (80, False), (80, True), (70, False)):
        (proc.root / "20" / "smaps_rollup").write_text(f"Rss: 1 kB\nShared_Dirty: {shared_mib * 1024} kB\n")
        figures += [holder.used_bytes for holder in probe.read(anew=anew)[0].holders]

    assert figures == [10 * MIB, 10 * MIB, 20 * MIB, 20 * MIB]


def test_what_workers_share_stays_a_line_of_its_own_when_their_launcher_has_ended(proc: ProcTree, groups: Path) -> None:
    for pid, own_mib in ((20, 100), (21, 1)):
        proc.add(pid, anonymous_bytes=(220 + own_mib) * MIB)
        (proc.root / str(pid) / "smaps_rollup").write_text(f"Rss: 1 kB\nShared_Dirty: {220 * 1024} kB\n")
    holders = Holders(lambda: {20: "a", 21: "a"}, proc=proc.root, launchers=lambda: frozenset({21}))
    probe = HostProbe(holders, proc.root, groups)
    probe.open()

    found = {holder.pid: (holder.kind, holder.instance_id, holder.used_bytes) for holder in probe.read()[0].holders}
    assert found == {20: (HolderKind.WORKER, "a", 100 * MIB), 21: (HolderKind.LAUNCHER, None, 221 * MIB)}


def test_a_process_that_goes_while_it_is_read_is_no_holder(proc: ProcTree, groups: Path) -> None:
    (proc.root / "20").mkdir()
    proc.add(21)
    (proc.root / "21" / "statm").write_text("")
    assert read(proc, groups, a=21).holders == ()


def test_how_busy_the_processors_are_is_known_from_the_second_reading_on(proc: ProcTree, groups: Path) -> None:
    probe = HostProbe(Holders(proc=proc.root), proc.root, groups)
    probe.open()
    assert probe.read()[0].utilization_percent is None
    proc.ticks(busy=130, idle=110)
    assert probe.read()[0].utilization_percent == pytest.approx(75)
    assert probe.read()[0].utilization_percent is None
    (proc.root / "stat").write_text("")
    assert probe.read()[0].utilization_percent is None


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 1 kB\n"])
def test_a_machine_whose_memory_cannot_be_read_is_said_so(proc: ProcTree, groups: Path, meminfo: str) -> None:
    (proc.root / "meminfo").write_text(meminfo)
    with pytest.raises(ProbeFailed) as failure:
        read(proc, groups)
    assert failure.value.params["device"] == "host"


def test_the_real_machine_is_read() -> None:
    workers = {os.getpid(): "me"}
    probe = HostProbe(Holders(lambda: workers))
    probe.open()
    (reading,) = probe.read()
    total, used, free = sizes(reading)
    assert total is not None and used is not None and free is not None
    assert used + free == total
    mine = next(holder for holder in reading.holders if holder.pid == os.getpid())
    assert (mine.kind, mine.instance_id) == (HolderKind.WORKER, "me")
    assert mine.used_bytes is not None and mine.used_bytes > MIB


def test_free_pages_in_the_processors_own_lists_count_as_free(proc: ProcTree, groups: Path) -> None:
    (proc.root / "zoneinfo").write_text(
        "Node 0, zone   Normal\n  pages free     100\n  pagesets\n    cpu: 0\n              count:    25600\n"
        "              high:     99\n    cpu: 1\n              count:    256\n"
    )
    reading = read(proc, groups)
    assert reading.free_bytes == 12582912 * 1024 + 25856 * os.sysconf("SC_PAGE_SIZE")
