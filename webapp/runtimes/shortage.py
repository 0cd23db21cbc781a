"""Translates the system's error of a failed start into one of Warden's that names the full disk or the limit."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

from webapp.errors import DiskFull, DiskReadOnly, LaunchFailed, TooManyFiles, TooManyProcesses


def launch_error(exc: OSError | ValueError, path: Path, model: str | None) -> LaunchFailed:
    """Return why a start that writes below ``path`` failed; a shortage on the machine is not blamed on the model."""
    number = exc.errno if isinstance(exc, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(model=model, path=str(path), mount=str(mount_of(path)))
    if number == errno.EROFS:
        return DiskReadOnly(model=model, path=str(path), mount=str(mount_of(path)))
    if number in (errno.EMFILE, errno.ENFILE):
        own = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return TooManyFiles(model=model, limit=own if number == errno.EMFILE else None)
    if number == errno.EAGAIN:  # what fork returns at RLIMIT_NPROC and at the control group's pids.max
        return TooManyProcesses(model=model)
    return LaunchFailed(model=model, detail=str(exc), log="")


def mount_of(path: Path) -> Path:
    """Return the mount point of the file system that holds, or would hold, ``path``."""
    path = path.absolute()
    return next((each for each in (path, *path.parents) if each.is_mount()), Path("/"))
