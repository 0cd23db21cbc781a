"""Folders that only their owner can use, and disks that cannot be written to."""

from __future__ import annotations

import errno
from pathlib import Path

_TAKES_NOTHING = {
    errno.ENOSPC: "the disk is full: free some space on it",
    errno.EDQUOT: "the quota on the disk is used up: free some space on it",
    errno.EROFS: "the disk is mounted read-only: mount it for writing",
}


def make_private(folder: Path) -> None:
    """Create ``folder`` and its missing parents, each with mode 0700; existing folders are kept. Raises OSError.

    ``Path.mkdir`` applies its mode to the last folder only: a state folder that was removed would reappear open to
    everybody.
    """
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def disk_trouble(error: OSError) -> str | None:
    """Return why a disk cannot be written to, and what to do; ``None`` if ``error`` has another cause."""
    return _TAKES_NOTHING.get(error.errno or 0)
