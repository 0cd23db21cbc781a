"""A small /proc made of files, and a machine with GPUs made of a probe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcTree:
    """Writes processes in the kernel's own format."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / "self").mkdir()
        (root / "meminfo").write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 12582912 kB\n")
        (root / "cpuinfo").write_text("processor : 0\nmodel name\t: Test CPU @ 3 GHz\nflags : x\n")
        self.ticks(busy=100, idle=100)
        self.own_groups("0::/user.slice/warden.service")

    def own_groups(self, *lines: str) -> None:
        (self.root / "self" / "cgroup").write_text("\n".join(lines) + "\n")

    def ticks(self, busy: int, idle: int) -> None:
        (self.root / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")

    def add(
        self,
        pid: int,
        *,
        command: str = "python\0train.py",
        comm: str = "python",
        state: str = "S",
        ppid: int = 1,
        pgrp: int = 0,
        session: int = 0,
        uid: int = 4_000_000_000,
        cgroup: str = "0::/user.slice",
        anonymous_bytes: int = 0,
        shared_bytes: int = 0,
        start_time: int = 500,
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        rest = "0 " * 14
        (folder / "stat").write_text(f"{pid} ({comm}) {state} {ppid} {pgrp} {session} {rest} 1 {start_time} 0 0\n")
        (folder / "cmdline").write_text(command + "\0" if command else "")
        (folder / "status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (folder / "cgroup").write_text(cgroup + "\n")
        shared = shared_bytes // PAGE
        (folder / "statm").write_text(f"99999 {anonymous_bytes // PAGE + shared} {shared} 1 0 1 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")
