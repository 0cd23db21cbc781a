"""The holders of memory: map a pid to its user, command, state and container, and the instance that it belongs to."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from webapp.domain.memory import Holder, HolderKind
from webapp.errors import WardenError

COMMAND_LENGTH = 120
"""Characters of a command line that are shown."""
FACTS_LOOKS = 60
"""Scans after which a process's facts are read again: exec and setuid change them and keep pid and start time."""
ANCESTORS = 32
"""How many ancestors of a process are searched for a worker."""

_CONTAINER = re.compile(r"(?:docker-|/docker/|cri-containerd-|libpod-)([0-9a-f]{64})(?![0-9a-f])")
_SECRET = re.compile(
    r"(-{0,2}(?:token|[\w-]*(?:api[-_]?key|passw(?:or)?d|secret|(?:auth|hf|access)[-_]?token)))(=.*)?", re.I | re.S
)

Workers = Callable[[], Mapping[int, str]]
"""Pids of Warden's own workers, with the id of the instance that each belongs to."""
Containers = Callable[[], Mapping[str, str]]
"""Ids (64 hex digits) of containers that Warden started, with the id of the instance that each runs."""


T = TypeVar("T", int, str)


@dataclass(frozen=True)
class ProcessStat:
    """The values of ``/proc/PID/stat`` that describe a process and its origin."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    start_time: int
    """Clock ticks after boot; with the pid it identifies the process permanently."""


@dataclass(frozen=True)
class _Facts:
    """Values that hardly ever change during the life of a process."""

    start_time: int
    comm: str
    user: str | None
    command: str | None
    container_id: str | None
    expires_at_look: int


def parse_stat(text: str) -> ProcessStat:
    """Parse ``/proc/PID/stat``; the command name in parentheses may hold blanks and parentheses (proc(5))."""
    head, _, tail = text.rpartition(")")
    pid, _, comm = head.partition(" (")
    fields = tail.split()
    return ProcessStat(
        pid=int(pid),
        comm=comm,
        state=fields[0],
        ppid=int(fields[1]),
        pgrp=int(fields[2]),
        session=int(fields[3]),
        start_time=int(fields[19]),
    )


def container_of(cgroup: str) -> str | None:
    """Return the id of the innermost container that the text of ``/proc/PID/cgroup`` names, or ``None``."""
    found = _CONTAINER.findall(cgroup)
    return found[-1] if found else None


def short_command(arguments: list[str]) -> str | None:
    """Return a command line in at most ``COMMAND_LENGTH`` characters: the program without its folder, no secrets."""
    if not arguments or not arguments[0]:
        return None
    words = [arguments[0].rpartition("/")[2] or arguments[0], *_without_secrets(arguments[1:])]
    text = " ".join("".join(c if c.isprintable() else " " for c in word) for word in words).strip()
    return text if len(text) <= COMMAND_LENGTH else text[: COMMAND_LENGTH - 1] + "…"


def _without_secrets(arguments: list[str]) -> Iterator[str]:
    """Mask secrets: a key given as an argument is readable on this machine, but a page and an API would expose it to
    others.
    """
    hide_next = False
    for argument in arguments:
        secret = _SECRET.fullmatch(argument)
        if hide_next:
            yield "***"
        elif secret and secret[2]:
            yield f"{secret[1]}=***"
        else:
            yield argument
        hide_next = secret is not None and not secret[2] and argument.startswith("-")


class ProcessRound:
    """One round over the processes: Warden's own are looked up once, and no process is read twice.

    Not thread-safe.
    """

    def __init__(
        self,
        workers: Mapping[int, str],
        containers: Mapping[str, str],
        launchers: frozenset[int],
        directory: Holders,
    ) -> None:
        self.workers = workers
        self.containers = containers
        self.launchers = launchers
        self._directory = directory
        self._stats: dict[int, ProcessStat | None] = {}

    def holder(self, pid: int, used_bytes: int | None) -> Holder:
        """Describe the process ``pid``; of an ended one only pid and bytes are known."""
        stat = self.stat(pid)
        if stat is None:
            kind, instance_id = self._owner(pid, None)
            return Holder(pid, None, None, used_bytes, kind, instance_id)
        facts = self._directory.facts(stat)
        kind, instance_id = self._owner(pid, facts.container_id)
        return Holder(
            pid=pid,
            user=facts.user,
            command=facts.command,
            used_bytes=used_bytes,
            kind=kind,
            instance_id=instance_id,
            container_id=facts.container_id,
            process_state=stat.state,
        )

    def stat(self, pid: int) -> ProcessStat | None:
        """Return the process's stat, or ``None`` if it has ended or may not be read."""
        if pid not in self._stats:
            self._stats[pid] = self._directory.read_stat(pid)
        return self._stats[pid]

    def _owner(self, pid: int, container_id: str | None) -> tuple[HolderKind, str | None]:
        if pid in self.launchers:
            return HolderKind.LAUNCHER, None
        instance_id = self._worker_of(pid)
        if instance_id is not None:
            return HolderKind.WORKER, instance_id
        if container_id is not None and container_id in self.containers:
            return HolderKind.CONTAINER, self.containers[container_id]
        return HolderKind.FOREIGN, None

    def _worker_of(self, pid: int) -> str | None:
        """Return the instance of the worker that ``pid`` is or descends from.

        A child whose parent died has init as its parent, but stays in the worker's process group or session.
        """
        for _ in range(ANCESTORS):
            if pid in self.workers:
                return self.workers[pid]
            stat = self.stat(pid) if pid > 1 else None
            if stat is None:
                return None
            for leader in (stat.pgrp, stat.session):
                if leader in self.workers:
                    return self.workers[leader]
            pid = stat.ppid
        return None


class Holders:
    """The directory of processes. ``proc`` is the mount of procfs in which they are looked up."""

    def __init__(
        self,
        workers: Workers = dict,
        containers: Containers = dict,
        proc: Path = Path("/proc"),
        launchers: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        """``launchers`` are the processes to which the memory that workers share is attributed."""
        self._workers = workers
        self._containers = containers
        self._launchers = launchers
        self._proc = os.fspath(proc)
        self._facts: dict[int, _Facts] = {}
        self._users: dict[int, str] = {}
        self._looks = 0

    def look(self) -> ProcessRound:
        """Start a round: look up Warden's own processes once, and forget processes not asked for lately."""
        self._looks += 1
        self._facts = {pid: facts for pid, facts in self._facts.items() if facts.expires_at_look > self._looks}
        return ProcessRound(_ours(self._workers), _ours(self._containers), self._launchers(), self)

    def read_stat(self, pid: int) -> ProcessStat | None:
        """Read a process's stat, or return ``None`` if it has ended or may not be read."""
        text = self._read(pid, "stat")
        try:
            return None if text is None else parse_stat(text)
        except (ValueError, IndexError):
            return None

    def facts(self, stat: ProcessStat) -> _Facts:
        """Return user, command and container of a process, from the cache if pid, start time and name are the same."""
        facts = self._facts.get(stat.pid)
        if facts is None or (facts.start_time, facts.comm) != (stat.start_time, stat.comm):
            facts = self._facts[stat.pid] = self._read_facts(stat)
        return facts

    def _read_facts(self, stat: ProcessStat) -> _Facts:
        arguments = (self._read(stat.pid, "cmdline") or "").rstrip("\0").split("\0")
        is_whole = bool(arguments[0])  # between fork and the end of exec a process has no command line yet
        return _Facts(
            start_time=stat.start_time,
            comm=stat.comm,
            user=self._user(self._read(stat.pid, "status")),
            command=short_command(arguments) or f"[{stat.comm}]",
            container_id=container_of(self._read(stat.pid, "cgroup") or ""),
            expires_at_look=self._looks + (FACTS_LOOKS if is_whole else 1),
        )

    def _user(self, status: str | None) -> str | None:
        """Return the name of the real uid, or its number. The folder's owner would be root for a process that may not
        be dumped.
        """
        found = re.search(r"^Uid:\s*(\d+)", status or "", re.M)
        if found is None:
            return None
        uid = int(found[1])
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]

    def _read(self, pid: int, name: str) -> str | None:
        data = read_quickly(f"{self._proc}/{pid}/{name}")
        return None if data is None else data.decode(errors="replace")


def read_quickly(path: str) -> bytes | None:
    """Return the first 16 KiB of a file in /proc, or ``None`` if it cannot be read.

    Three system calls: file objects would double the cost, and a scan opens hundreds.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(handle, 16384)
    except OSError:
        return None
    finally:
        os.close(handle)


def _ours(ask: Callable[[], Mapping[T, str]]) -> Mapping[T, str]:
    """Return Warden's own processes; a runtime that does not respond makes them look foreign, but must not prevent the reading."""
    try:
        return ask()
    except WardenError:
        return {}
