"""File systems that are really full or really read-only: root ignores modes, but cannot ignore these."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK = bytes(4096)


class SmallDisk:
    """A file system of a few MiB in memory; it needs root, as Docker does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Write until the disk is full."""
        try:
            with self._filler.open("ab", buffering=0) as file:
                while True:
                    file.write(_BLOCK)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise

    def free(self) -> None:
        """Remove what ``fill`` wrote."""
        self._filler.unlink()

    def make_read_only(self) -> None:
        """Remount read-only; no file may be open for writing."""
        _call("mount", "-o", "remount,ro", str(self.folder))

    def make_writable(self) -> None:
        """Remount writable."""
        _call("mount", "-o", "remount,rw", str(self.folder))


@contextmanager
def small_disk(folder: Path, mib: int = 6) -> Iterator[SmallDisk]:
    """Mount a small disk at ``folder`` for the block."""
    folder.mkdir()
    _call("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        _call("umount", "--lazy", str(folder))


@contextmanager
def covered(folder: Path) -> Iterator[None]:
    """Mount an empty read-only disk over ``folder``: open files stay usable, but no file can be opened or created."""
    _call("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder))
    try:
        yield
    finally:
        _call("umount", "--lazy", str(folder))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
