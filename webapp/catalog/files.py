"""Careful reading of small untrusted files: bounded, regular files only, never blocking."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

MAX_JSON_BYTES = 2 * 2**20
"""The limit of JSON that is parsed as a whole; Python needs twenty times as much memory. A large config.json has 50 kB.
"""
MAX_NUMBER = 2**40
"""A stated size above this is ignored; the largest in use is a context of ten million tokens."""
MAX_TEXT = 200
"""A longer stated name is ignored: it would appear in every row of the page."""

_SURROGATES = re.compile("[\ud800-\udfff]")


class BadFile(ValueError):
    """A file whose content does not match its name; ``str()`` is a short reason."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, following symbolic links.

    A FIFO in a cache would block the reader for ever, hence the non-blocking open and the check.

    Raises:
        OSError: it is missing, may not be read, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(file: BinaryIO, most: int) -> bytes:
    """Return up to ``most`` bytes of a file that ``open_regular`` opened.

    Raises:
        OSError: it cannot be read, or would block, as some of the kernel's own files do.
    """
    data: bytes | None = file.read(most)
    if data is None:
        raise OSError(errno.EAGAIN, "the file gives no bytes", getattr(file, "name", None))
    return data


def parse_object(data: bytes) -> dict[str, object]:
    """Return ``data`` as a JSON object. Raises BadFile."""
    try:
        value = json.loads(data)
    except RecursionError as exc:
        raise BadFile("nested too deeply") from exc
    except ValueError as exc:
        raise BadFile(str(exc)) from exc
    if not isinstance(value, dict):
        raise BadFile("not a JSON object")
    return value


def read_object(path: Path) -> dict[str, object]:
    """Return the JSON object in a file. Raises BadFile, OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise BadFile(f"larger than {MAX_JSON_BYTES} bytes")
        # With the maximum as the argument, Python would allocate that much for every small file, which costs more than
        # reading it.
        data = read_bytes(file, size + 1)
        if len(data) > size:
            data += read_bytes(file, MAX_JSON_BYTES + 1 - len(data))
    if len(data) > MAX_JSON_BYTES:
        raise BadFile(f"larger than {MAX_JSON_BYTES} bytes")
    return parse_object(data)


def whole_number(value: object, least: int = 1) -> int | None:
    """Return a stated size; ``None`` if it is not a whole number, too small, or implausibly large."""
    return value if type(value) is int and least <= value <= MAX_NUMBER else None


def printable(text: str) -> str:
    """Return ``text`` without characters that cannot be sent as UTF-8: a name on disk is bytes, and JSON may hold half
    a character.
    """
    return _SURROGATES.sub("\ufffd", text)
