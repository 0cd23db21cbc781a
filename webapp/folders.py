"""Folders that are their owner's alone, and disks that take nothing more."""

from __future__ import annotations

import errno
from pathlib import Path

_TAKES_NOTHING = {
    errno.ENOSPC: "the disk is full: free some space on it",
    errno.EDQUOT: "the quota on the disk is used up: free some space on it",
    errno.EROFS: "the disk is mounted read-only: mount it for writing",
}


def make_private(folder: Path) -> None:
    """Make ``folder`` and whatever is missing above it, each with mode 0700; nothing happens where it is there. Raises OSError.

    ``Path.mkdir`` gives its mode to the last folder alone: a state folder that was removed would come back open to everybody.
    """
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def disk_trouble(error: OSError) -> str | None:
    """Return what keeps a disk from taking anything, and what to do; ``None`` if ``error`` is another."""
    return _TAKES_NOTHING.get(error.errno or 0)
