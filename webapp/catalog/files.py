"""Careful reading of small files that somebody else wrote: bounded, regular files only, never a wait."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

MAX_JSON_BYTES = 128 * 2**20
"""An index of 100 000 tensors has about 10 MB."""


_SURROGATES = re.compile("[\ud800-\udfff]")


class BadFile(ValueError):
    """A file whose content is not what its name promises; ``str()`` is a short reason."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, through symbolic links.

    A FIFO in a cache would stop the reader for ever, hence the non-blocking open and the check.

    Raises:
        OSError: it is missing, may not be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


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
        # Asked for the most at once, Python would take that much memory for every small file, which costs more than its reading.
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, MAX_JSON_BYTES) + 1)
        if len(data) > size:
            data += file.read(MAX_JSON_BYTES + 1 - len(data))
    if len(data) > MAX_JSON_BYTES:
        raise BadFile(f"larger than {MAX_JSON_BYTES} bytes")
    return parse_object(data)


def printable(text: str) -> str:
    """Return ``text`` without what cannot be sent as UTF-8: a name on disk is bytes, and JSON may hold half a character."""
    return _SURROGATES.sub("\ufffd", text)
