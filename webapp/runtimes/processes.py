"""Processes by identity: finding them, waiting for their end, ending them, and reporting survivors.

A pid is reused, but pid and start time together identify a process for as long as the machine runs. The processes need
not be children: a worker may have been started by an earlier Warden.
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from webapp.runtimes.base import StageCallback, StopStage, Survivor
from webapp.runtimes.protocol import INSTANCE_VARIABLE, ROOT_VARIABLE, exit_text, process_start_time
from webapp.runtimes.stop_sequence import StopStep, escalate

PROC = Path("/proc")
COMMAND_LENGTH = 120
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SHARED_MEMORY = b"/dev/shm/"
_CAP_SYS_PTRACE = 19
_KILL_ROUND_S = 0.2
"""Pause between repeated kills: a killed process may have started another one just before."""


@dataclass(frozen=True)
class ProcessId:
    """A process, identified by pid and start time."""

    pid: int
    start_time: int

    @property
    def is_alive(self) -> bool:
        """Whether it is still running; a zombie is not."""
        return process_start_time(self.pid) == self.start_time


@dataclass(frozen=True)
class StopTimes:
    """How long each step of a stop may take, in seconds."""

    ask_s: float
    term_s: float
    kill_s: float


def identify(pid: int) -> ProcessId | None:
    """Return the process that has ``pid`` now."""
    started = process_start_time(pid)
    return None if started is None else ProcessId(pid, started)


def group_members(pgid: int) -> frozenset[ProcessId]:
    """Return the live processes of a process group."""
    members = (identify(pid) for pid in _pids() if _group(pid) == pgid)
    return frozenset(member for member in members if member is not None)


def find_marked(root: str) -> Mapping[ProcessId, str]:
    """Return the live workers under ``root`` and all processes they started, each with the worker folder's first name.

    Only processes whose environment this user may read can be found.
    """
    wanted = f"{ROOT_VARIABLE}={root}".encode()
    prefix = f"{INSTANCE_VARIABLE}=".encode()
    found: dict[ProcessId, str] = {}
    for pid in _pids():
        environment = _environment(pid)
        if wanted not in environment:
            continue
        name = next(
            (line[len(prefix) :].decode(errors="replace") for line in environment if line.startswith(prefix)), ""
        )
        if (process := identify(pid)) is not None:
            found[process] = name
    return found


def in_container(container_id: str) -> frozenset[ProcessId]:
    """Return the live processes of a container by their control groups; empty if called inside a cgroup namespace."""
    mark = container_id.encode()
    members = (identify(pid) for pid in _pids() if mark in _read(pid, "cgroup"))
    return frozenset(member for member in members if member is not None)


def send(process: ProcessId, signal_number: signal.Signals) -> None:
    """Send a signal to exactly this process; does nothing if it has ended or may not be signalled."""
    with suppress(ProcessLookupError, PermissionError), _pidfd(process.pid) as descriptor:
        if process.is_alive:  # checked while the descriptor holds the process, so the pid cannot have been reused
            signal.pidfd_send_signal(descriptor, signal_number)


def wait_gone(processes: Iterable[ProcessId], timeout_s: float) -> bool:
    """Wait until all have ended; return False on timeout."""
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if not _wait_one(process, deadline)]
    return not left


def reap_child(pid: int) -> str | None:
    """Return how a child of this process ended: exit code or signal name; ``None`` if it runs or is not a child."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if ended == 0:
        return None
    return exit_text(os.waitstatus_to_exitcode(status))


def end_processes(
    targets: Callable[[], frozenset[ProcessId]],
    times: StopTimes,
    *,
    ask: Callable[[], bool] | None,
    leader: ProcessId | None,
    on_stage: StageCallback,
) -> tuple[StopStage, tuple[Survivor, ...]]:
    """End what ``targets`` finds: ask, SIGTERM, SIGKILL, verify. Return the last stage needed and the survivors.

    ``targets`` is called again at every step. ``ask`` tells the leader to end and returns whether it acknowledged;
    ``None`` starts with SIGKILL.
    """
    if not targets():
        return StopStage.ASK, ()
    steps = [StopStep(StopStage.KILL, lambda: _kill(targets, times.kill_s))]
    if ask is not None:
        steps[:0] = [
            StopStep(StopStage.ASK, lambda: ask() and leader is not None and wait_gone((leader,), times.ask_s)),
            StopStep(StopStage.TERMINATE, lambda: _terminate(targets(), times.term_s)),
        ]
    stage = escalate(steps, lambda: not targets(), on_stage)
    return stage, survivors_of(targets())


def survivors_of(processes: Iterable[ProcessId]) -> tuple[Survivor, ...]:
    """Describe processes that did not end, by pid; a container's first process, which ends last, comes last."""
    return tuple(survivor(process) for process in sorted(processes, key=lambda p: (_is_first_inside(p.pid), p.pid)))


def survivor(process: ProcessId) -> Survivor:
    """Describe a process that did not end."""
    folder = PROC / str(process.pid)
    try:
        uid = folder.stat().st_uid
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return Survivor(process.pid, None, None, None)
    return Survivor(process.pid, _user(uid), command[:COMMAND_LENGTH] or None, state)


def user_of(pid: int) -> str | None:
    """Return the name, or else the number, of the user that a process runs as; ``None`` if the process is gone."""
    try:
        return _user((PROC / str(pid)).stat().st_uid)
    except OSError:
        return None


def anonymous_bytes(pid: int) -> int | None:
    """Return a process's anonymous resident memory; ``None`` if it cannot be read."""
    try:
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def resident_bytes(processes: Iterable[ProcessId]) -> int:
    """Return the total resident memory of processes according to /proc/PID/statm; unreadable ones count as 0."""
    pages = (_read(process.pid, "statm").split() for process in processes)
    return sum(int(fields[1]) for fields in pages if len(fields) > 1) * _PAGE_BYTES


@dataclass(frozen=True)
class SharedFile:
    """A file in /dev/shm with its inode: in a container the same path may be another file."""

    path: str
    device: int
    inode: int


def shared_memory(processes: Iterable[ProcessId]) -> frozenset[SharedFile]:
    """Return the files of the host's /dev/shm that processes have mapped."""
    mapped = frozenset(file for process in processes for file in _mapped_shared(process.pid))
    return frozenset(file for file in mapped if _shared_file(file.path) == file)


def unlink_unused(files: frozenset[SharedFile]) -> None:
    """Remove the ``files`` that no process has mapped or open under any path; if that is unknown, they stay."""
    left = frozenset(file for file in files if _shared_file(file.path) == file)
    if not left or not _sees_all():
        return
    inodes = {(file.device, file.inode) for file in left}
    used = {inode for pid in _pids() for inode in (*_mapped_inodes(pid, inodes), *_open_inodes(pid, inodes))}
    for file in left:
        if (file.device, file.inode) not in used:
            with suppress(OSError):
                Path(file.path).unlink()


def _sees_all() -> bool:
    """Whether this process may inspect those of all users (CAP_SYS_PTRACE, capabilities(7))."""
    lines = _read(os.getpid(), "status").splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), 0)
    return bool(effective >> _CAP_SYS_PTRACE & 1)


def _mapped_shared(pid: int) -> Iterator[SharedFile]:
    for path, device, inode in _maps(pid):
        if path.startswith(_SHARED_MEMORY) and not path.endswith(b" (deleted)"):
            yield SharedFile(os.fsdecode(path), device, inode)


def _mapped_inodes(pid: int, wanted: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return ((device, inode) for _, device, inode in _maps(pid) if (device, inode) in wanted)


def _maps(pid: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield path, device and inode of each file that a process has mapped (proc_pid_maps(5))."""
    for line in _read(pid, "maps").splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] != b"0":
            major, _, minor = fields[3].partition(b":")
            yield fields[5], os.makedev(int(major, 16), int(minor, 16)), int(fields[4])


def _open_inodes(pid: int, wanted: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    try:
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            status = descriptor.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            yield status.st_dev, status.st_ino


def _shared_file(path: str) -> SharedFile | None:
    try:
        status = Path(path).stat(follow_symlinks=False)
    except OSError:
        return None
    return SharedFile(path, status.st_dev, status.st_ino)


def _is_first_inside(pid: int) -> bool:
    """Return whether a process is the first of a PID namespace, which the kernel ends last (pid_namespaces(7))."""
    lines = _read(pid, "status").splitlines()
    numbers = next((line.split()[1:] for line in lines if line.startswith(b"NSpid:")), [])
    return len(numbers) > 1 and numbers[-1] == b"1"


def _terminate(processes: frozenset[ProcessId], timeout_s: float) -> None:
    for process in processes:
        send(process, signal.SIGTERM)
        send(process, signal.SIGCONT)  # a stopped process handles no other signal
    wait_gone(processes, timeout_s)


def _kill(targets: Callable[[], frozenset[ProcessId]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while left := targets():
        for process in left:
            send(process, signal.SIGKILL)
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return
        wait_gone(left, min(_KILL_ROUND_S, remaining))


def _wait_one(process: ProcessId, deadline: float) -> bool:
    try:
        with _pidfd(process.pid) as descriptor:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if process.is_alive:
                poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    except ProcessLookupError:
        return True
    return not process.is_alive


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """Open a descriptor of a process for the block. Raises ProcessLookupError."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir(PROC) if entry.name.isdecimal())


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
