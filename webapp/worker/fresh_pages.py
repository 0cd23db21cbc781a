"""Put data into untouched pages with userfaultfd: the kernel hands out a page already filled.

A plain read into such memory causes a fault per page, and each page is cleared before it is written. For 1 GB in the
page cache two threads took 0.33 s in this way, and 0.19 s with filled pages; both give the same anonymous pages.
Source: ``man 2 userfaultfd`` and ``man 2 ioctl_userfaultfd``.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE

_SYSTEM_CALLS = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
"""Requests only faults of user mode, which every user may handle since Linux 5.11."""
_API, _REGISTER, _UNREGISTER, _COPY = 0xC018AA3F, 0xC020AA00, 0x8010AA01, 0xC028AA03
_API_VERSION = 0xAA
_MISSING = 1
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class FreshPages:
    """A userfaultfd of this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @contextmanager
    def taking(self, address: int, length: int) -> Iterator[bool]:
        """Let ``put`` fill the pages from ``address`` within the block; both are multiples of the page's size in bytes.

        Yields whether the kernel agrees. No other code may read or write these pages meanwhile: it would wait for the
        page.
        """
        registration = struct.pack("QQQQ", address, length, _MISSING, 0)
        agreed = self._told(_REGISTER, registration)
        try:
            yield agreed
        finally:
            if agreed:
                self._told(_UNREGISTER, struct.pack("QQ", address, length))

    def put(self, address: int, source: int, length: int) -> bool:
        """Copy ``length`` bytes from the address ``source``; ``False`` if a page was touched before, or there is no
        memory.

        Some of the pages may already be filled then.
        """
        return self._told(_COPY, struct.pack("QQQQq", address, source, length, 0, 0))

    def _told(self, request: int, argument: bytes) -> bool:
        try:
            fcntl.ioctl(self._descriptor, request, bytearray(argument))
        except OSError:
            return False
        return True


@contextmanager
def fresh_pages(huge_pages: Path = _HUGE_PAGES) -> Iterator[FreshPages | None]:
    """Open a userfaultfd; ``None`` if it is unavailable, or if huge pages are always used: pages filled in this way are
    small ones.

    ``huge_pages`` is the server's setting of transparent huge pages. With ``always`` plain reads of 1 GB took 0.09 s in
    four of six tries, 1.3 and 1.5 s in two.
    """
    descriptor = -1 if _come_unasked(huge_pages) else _open()
    if descriptor < 0:
        yield None
        return
    pages = FreshPages(descriptor)
    try:
        yield pages if pages._told(_API, struct.pack("QQQ", _API_VERSION, 0, 0)) else None
    finally:
        os.close(descriptor)


def _come_unasked(huge_pages: Path) -> bool:
    try:
        return "[always]" in huge_pages.read_text(encoding="ascii")
    except OSError:
        return False


def _open() -> int:
    number = _SYSTEM_CALLS.get(platform.machine())
    if number is None:
        return -1
    return int(ctypes.CDLL(None).syscall(number, os.O_CLOEXEC | _USER_MODE_ONLY))
