"""An outgoing answer: a socket that buffers what its client does not accept at once, so that no thread waits for the
client.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from socket import _SendableFile

    from _typeshed import ReadableBuffer

ROOM: Final = 256 * 1024
"""Bytes; the producer of an answer waits while more than this is unsent. An answer in one piece is buffered whole,
however long it is.
"""


class Outgoing(socket.socket):
    """A client's socket on which ``send`` and ``sendall`` accept everything. Used by one thread at a time, without a
    lock.
    """

    def __init__(self, accepted: socket.socket, patience_s: float) -> None:
        super().__init__(fileno=accepted.detach())
        self._patience_s = patience_s
        self._kept: deque[memoryview] = deque()
        self.unsent = 0
        """Bytes that the client has not accepted, in addition to those in the kernel's buffer."""

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send what the client accepts at once and buffer the rest. Raises TimeoutError if the buffer is full and the
        client accepts nothing.
        """
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
        """Send or buffer all of it, as ``sendall`` does."""
        self.sendall(data)
        return memoryview(data).nbytes

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        """Send a file in order: the kernel's sendfile would overtake the buffered bytes."""
        file.seek(offset)
        return self.send(file.read(-1 if count is None else count))

    def send_more(self) -> None:
        """Send as many buffered bytes as one call accepts. Raises what ``socket.send`` does."""
        sent = super().send(self._kept[0])
        self.unsent -= sent
        if sent < len(self._kept[0]):
            self._kept[0] = self._kept[0][sent:]
        else:
            self._kept.popleft()

    def drop(self) -> None:
        """Discard the unsent bytes."""
        self._kept.clear()
        self.unsent = 0

    def close(self) -> None:
        """Close the socket and discard the buffer."""
        self.drop()
        super().close()

    def _wait_for_room(self) -> None:
        self.settimeout(self._patience_s)
        while self.unsent > ROOM:
            self.send_more()
