"""What a start ran out of: the system's error as one of Warden's that names the disk or the limit, and what to do."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

from webapp.errors import DiskFull, DiskReadOnly, LaunchFailed, TooManyFiles, TooManyProcesses


def launch_error(exc: OSError | ValueError, path: Path, model: str | None) -> LaunchFailed:
    """Return why a start failed that wrote below ``path``; a shortage of the machine's is not the model's fault."""
    number = exc.errno if isinstance(exc, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(model=model, path=str(path), mount=str(mount_of(path)))
    if number == errno.EROFS:
        return DiskReadOnly(model=model, path=str(path), mount=str(mount_of(path)))
    if number in (errno.EMFILE, errno.ENFILE):
        own = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return TooManyFiles(model=model, limit=own if number == errno.EMFILE else None)
    if number == errno.EAGAIN:  # what fork answers at RLIMIT_NPROC and at the control group's pids.max
        return TooManyProcesses(model=model)
    return LaunchFailed(model=model, detail=str(exc), log="")


def mount_of(path: Path) -> Path:
    """Return where the file system is mounted that holds ``path``, or would hold it."""
    path = path.absolute()
    return next((each for each in (path, *path.parents) if each.is_mount()), Path("/"))
