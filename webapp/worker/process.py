"""How a forked process becomes independent: marks that other processes can read, seeds, a log, a session."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from webapp.runtimes.protocol import ROOM_LENGTH, ROOM_VARIABLE

_PR_SET_NAME = 15
_ARGUMENTS, _ENVIRONMENT = 45, 47
"""The positions of ``arg_start`` and ``env_start`` in /proc/PID/stat after the command's name; the end of each follows
(proc_pid_stat(5)).
"""


class NoRoom(Exception):
    """The marks are longer than the space reserved for them."""


def show_environment(marks: Mapping[str, str]) -> None:
    """Write ``marks`` where ``/proc/PID/environ`` shows them, and into the environment of children. Raises NoRoom.

    That file shows the block with which the program started, and a fork starts with its parent's: without this a worker
    whose folder is gone could not be told from its launcher.
    """
    begin, end = _region(_ENVIRONMENT)
    shown = ctypes.string_at(begin, end - begin)
    place = shown.find(f"{ROOM_VARIABLE}=".encode())
    text = b"\0".join(f"{name}={value}".encode() for name, value in marks.items())
    if place < 0 or len(text) > ROOM_LENGTH:
        raise NoRoom(f"{len(text)} bytes, and {ROOM_LENGTH} are kept")
    _write(begin + place, text, len(ROOM_VARIABLE) + 1 + ROOM_LENGTH)
    os.environ.pop(ROOM_VARIABLE, None)
    os.environ.update(marks)


def show_name(name: str, *arguments: str) -> None:
    """Set the name of this process in ps and top; a command line that is longer than the original one is truncated."""
    begin, end = _region(_ARGUMENTS)
    _write(begin, b"\0".join(word.encode() for word in (name, *arguments)), end - begin - 1)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def parent_of(pid: int) -> int | None:
    """Return a process's parent, ``None`` if the process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def threads() -> int:
    """Return how many threads this process has, including those that Python does not know."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))


def redirect_output(log: Path) -> None:
    """Redirect standard output and error to the end of ``log``. Raises OSError."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for output in (1, 2):
        os.dup2(descriptor, output)
    os.close(descriptor)


def _region(place: int) -> tuple[int, int]:
    """Return the addresses at which a part of the process's first stack begins and ends."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[place]), int(fields[place + 1])


def _write(address: int, text: bytes, room: int) -> None:
    ctypes.memmove(address, text[:room].ljust(room, b"\0"), room)
