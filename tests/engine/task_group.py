"""A control group with a limit of tasks: beyond it the kernel gives no thread and no process, to root neither."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class TaskGroup:
    """One group of this machine, of control groups' version 1 or 2; it needs root, as Docker does."""

    def __init__(self) -> None:
        v1 = _ROOT / "pids"
        if not v1.is_dir():
            (_ROOT / "cgroup.subtree_control").write_text("+pids")
        self._folder = (v1 if v1.is_dir() else _ROOT) / f"warden-tests-{secrets.token_hex(4)}"
        self._folder.mkdir()

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs ``command`` in the group, and so all that it starts."""
        return ["/bin/sh", "-c", f'echo $$ > {self._folder / "cgroup.procs"} && exec "$@"', "sh", *command]

    def give_no_more(self) -> None:
        """Let the group have no task more than it has now."""
        (self._folder / "pids.max").write_text((self._folder / "pids.current").read_text().strip())

    def refused(self) -> int:
        """How often the kernel refused a task here."""
        lines = (line.split() for line in (self._folder / "pids.events").read_text().splitlines())
        return next(int(count) for key, count in lines if key == "max")

    def remove(self) -> None:
        """Remove the group; its processes have ended, and the kernel may need a moment to see it."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self._folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


@contextmanager
def task_group() -> Iterator[TaskGroup]:
    """Make a group and remove it at the end."""
    group = TaskGroup()
    try:
        yield group
    finally:
        group.remove()
