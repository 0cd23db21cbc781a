"""A control group with a memory limit: the kernel kills what does not fit, which reveals a wrong admission."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_HOG = (
    "import sys, time; held = bytearray(int(sys.argv[1])); held[::4096] = b'1' * len(held[::4096]); "
    "print('held', flush=True); time.sleep(3600)"
)


class MemoryGroup:
    """A control group, of version 1 or 2; it needs root, as Docker does."""

    def __init__(self, limit_bytes: int) -> None:
        v1 = _ROOT / "memory"
        self._is_v1 = v1.is_dir()
        if not self._is_v1:
            (_ROOT / "cgroup.subtree_control").write_text("+memory")
        self._folder = (v1 if self._is_v1 else _ROOT) / f"warden-tests-{secrets.token_hex(4)}"
        self._folder.mkdir()
        self.limit(limit_bytes)

    def limit(self, limit_bytes: int) -> None:
        """Set how much memory all processes of the group may hold together."""
        name = "memory.limit_in_bytes" if self._is_v1 else "memory.max"
        (self._folder / name).write_text(str(limit_bytes))

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs ``command``, and so all its descendants, in the group."""
        return ["/bin/sh", "-c", f'echo $$ > {self._folder / "cgroup.procs"} && exec "$@"', "sh", *command]

    @contextmanager
    def hog(self, size: int) -> Iterator[int]:
        """Run a foreign process in the group that holds ``size`` bytes; yields its pid."""
        command = self.command([sys.executable, "-c", _HOG, str(size)])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "held\n"
                yield process.pid
            finally:
                process.kill()

    def kills(self) -> int:
        """Return how many processes of the group the kernel killed because memory ran out."""
        name = "memory.oom_control" if self._is_v1 else "memory.events"
        lines = (line.split() for line in (self._folder / name).read_text().splitlines())
        return next(int(count) for key, count in lines if key == "oom_kill")

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
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Create a group for the block."""
    group = MemoryGroup(limit_bytes)
    try:
        yield group
    finally:
        group.remove()
