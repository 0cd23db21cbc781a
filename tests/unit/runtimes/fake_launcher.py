"""A launcher that imports nothing and forks nobody: ready at once, it answers as ``FAKE_ANSWER`` says (JSON of a ``ForkReply``)."""

from __future__ import annotations

import os
import socket
import sys

from webapp.runtimes.protocol import LauncherReady, encode, process_start_time


def main() -> None:
    """Serve until Warden hangs up."""
    control = socket.socket(fileno=int(sys.argv[-1]))
    control.send(encode(LauncherReady(os.getpid(), process_start_time(os.getpid()) or 0, 0.0)))
    while control.recv(1 << 16):
        control.send(os.environ["FAKE_ANSWER"].encode())


if __name__ == "__main__":
    main()
