"""An answer that is on its way out: a socket that keeps what its client does not take at once, so that no thread waits for that."""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from socket import _SendableFile

    from _typeshed import ReadableBuffer

ROOM: Final = 256 * 1024
"""Bytes; who still makes an answer waits while more than this is unsent. What is made in one piece is kept whole, however long it is."""


class Outgoing(socket.socket):
    """A client's socket on which ``send`` and ``sendall`` take everything. It is used by one thread at a time and has no lock."""

    def __init__(self, accepted: socket.socket, patience_s: float) -> None:
        super().__init__(fileno=accepted.detach())
        self._patience_s = patience_s
        self._kept: deque[memoryview] = deque()
        self.unsent = 0
        """Bytes that the client has not taken, beside those that the kernel keeps for it."""

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send what goes at once and keep the rest. Raises TimeoutError where there is no room and the client takes nothing."""
        if self.unsent > ROOM:
            self._wait_for_room()
        piece = memoryview(data).cast("B")
        if piece:
            self._kept.append(piece)
            self.unsent += len(piece)
        self.setblocking(False)
        try:
            while self.unsent:
                self.send_more()
        except (BlockingIOError, InterruptedError):
            return

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Take all of it, as ``sendall`` does."""
        self.sendall(data)
        return memoryview(data).nbytes

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        """Send a file in its turn: the kernel's own way would pass by what is kept."""
        file.seek(offset)
        return self.send(file.read(-1 if count is None else count))

    def send_more(self) -> None:
        """Send of what is kept as much as goes in one call. Raises what ``socket.send`` does."""
        sent = super().send(self._kept[0])
        self.unsent -= sent
        if sent < len(self._kept[0]):
            self._kept[0] = self._kept[0][sent:]
        else:
            self._kept.popleft()

    def drop(self) -> None:
        """Forget what is unsent."""
        self._kept.clear()
        self.unsent = 0

    def close(self) -> None:
        """Close it, with nothing kept for it any more."""
        self.drop()
        super().close()

    def _wait_for_room(self) -> None:
        self.settimeout(self._patience_s)
        while self.unsent > ROOM:
            self.send_more()
