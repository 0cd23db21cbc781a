"""A claim on a path that needs no disk: it also holds on a full or read-only one, and after the folder was removed."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from hashlib import sha256
from pathlib import Path

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")
_CONNECT_S = 1.0


class PathTaken(Exception):
    """Another process of the same user, or of root, holds the path; ``pid`` is 0 if it is in another pid namespace."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid


def claim_path(path: Path) -> socket.socket:
    """Claim ``path`` until the returned socket is closed; the kernel closes it with the process, however that ends.

    The socket is bound to a name in the abstract namespace, which has no file. Another user may bind the name first:
    that stops nobody, and only the lock file protects then.

    Raises:
        PathTaken: it is claimed.
    """
    name = b"\0warden-" + sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32].encode()
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(name)
        claim.listen(8)
    except OSError as exc:
        claim.close()
        if exc.errno != errno.EADDRINUSE:
            raise
        return _unless_ours(name, path)
    return claim


def _unless_ours(name: bytes, path: Path) -> socket.socket:
    """Return a socket that claims nothing if another user has taken the name. Raises PathTaken."""
    holder = _holder(name)
    if holder is not None and holder[1] in (os.geteuid(), 0):
        raise PathTaken(holder[0])
    log.warning("the name that claims %s is taken by user %s", path, "unknown" if holder is None else holder[1])
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _holder(name: bytes) -> tuple[int, int] | None:
    """Return pid and user of the process that listens under ``name``; ``None`` if none answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_CONNECT_S)
        try:
            asking.connect(name)
        except OSError:
            return None
        pid, user, _ = _PEER.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return pid, user
