"""Folders that are their owner's alone."""

from __future__ import annotations

from pathlib import Path


def make_private(folder: Path) -> None:
    """Make ``folder`` and whatever is missing above it, each with mode 0700; nothing happens where it is there. Raises OSError.

    ``Path.mkdir`` gives its mode to the last folder alone: a state folder that was removed would come back open to everybody.
    """
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
