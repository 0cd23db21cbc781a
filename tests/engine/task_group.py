"""A control group with a task limit: beyond it the kernel refuses threads and processes, even to root."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class TaskGroup:
    """A control group, of version 1 or 2; it needs root, as Docker does."""

    def __init__(self) -> None:
        v1 = _ROOT / "pids"
        if not v1.is_dir():
            (_ROOT / "cgroup.subtree_control").write_text("+pids")
        self._folder = (v1 if v1.is_dir() else _ROOT) / f"warden-tests-{secrets.token_hex(4)}"
        self._folder.mkdir()

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs ``command``, and so all its descendants, in the group."""
        return ["/bin/sh", "-c", f'echo $$ > {self._folder / "cgroup.procs"} && exec "$@"', "sh", *command]

    def give_no_more(self) -> None:
        """Limit the group to its present number of tasks."""
        (self._folder / "pids.max").write_text((self._folder / "pids.current").read_text().strip())

    def refused(self) -> int:
        """Return how often the kernel refused the group a task."""
        lines = (line.split() for line in (self._folder / "pids.events").read_text().splitlines())
        return next(int(count) for key, count in lines if key == "max")

    def remove(self) -> None:
        """Remove the group; the kernel may need a moment to notice that its processes have ended."""
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
    """Create a group for the block."""
    group = TaskGroup()
    try:
        yield group
    finally:
        group.remove()
