"""A process's own memory: what it holds, how it gives back what it does not need, and how lack of it is recognised."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_TYPES = frozenset({"OutOfMemoryError", "MemoryError"})
_TEXTS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_CHAIN = 8
"""How many causes of an error are asked."""


def anonymous_bytes() -> int | None:
    """Return the process's anonymous resident memory: heap and stacks, no mapped files. ``None`` where the kernel has no figure."""
    found = _ANONYMOUS.search(_STATUS.read_text(encoding="ascii", errors="replace"))
    return None if found is None else int(found[1]) * 1024


def give_back() -> None:
    """Collect garbage and return freed heap pages to the kernel; glibc keeps them otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException, said: str = "") -> bool:
    """Whether an error, or one that caused it, is lack of memory: by its type's name or by its text.

    torch raises ``OutOfMemoryError`` on a GPU and a plain ``RuntimeError`` with a text on the CPU. ``said`` is what the library
    logged meanwhile: transformers logs an error of a weight's conversion and raises another one that no longer names it.
    """
    return says_out_of_memory(said) or any(
        _TYPES & {cls.__name__ for cls in type(one).__mro__} or says_out_of_memory(str(one)) for one in _chain(error)
    )


def says_out_of_memory(text: str) -> bool:
    """Whether a text names lack of memory."""
    lowered = text.lower()
    return any(words in lowered for words in _TEXTS) or any(name in text for name in _TYPES)


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_CHAIN):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__
