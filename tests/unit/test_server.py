"""The server that other tests start: what it waits for is of this very start."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from tests.engine.server import WardenServer
from webapp.runtimes.protocol import LauncherRecord, encode


class Running(WardenServer):
    """A server whose web process is this one."""

    def web_processes(self) -> list[psutil.Process]:
        return [psutil.Process()]


def test_an_earlier_starts_launcher_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    server = Running(tmp_path, tmp_path)
    folder = tmp_path / "launcher"
    folder.mkdir()
    log, record = folder / "log", folder / "process.json"
    seen = [server.has_launcher()]

    log.write_text("ready to fork after 4.2 s, pid 12\n")
    record.write_bytes(encode(LauncherRecord(12, 1, 11, 1)))
    seen.append(server.has_launcher())
    record.write_bytes(encode(LauncherRecord(123, 1, os.getpid(), 1)))
    seen.append(server.has_launcher())
    log.write_text(log.read_text() + "ready to fork after 4.2 s, pid 123\n")

    assert [*seen, server.has_launcher()] == [False, False, False, True]
