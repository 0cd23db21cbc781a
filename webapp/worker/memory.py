"""A process's own memory: how much it holds, how it frees unneeded memory, and how a shortage is recognised."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator
from pathlib import Path

from webapp.hardware.shared_pages import SharedPages

_STATUS = Path("/proc/self/status")
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_TYPES = frozenset({"OutOfMemoryError", "MemoryError"})
_TEXTS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_FROM_LARGE = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""
_LARGE_BYTES = 2**18
_CHAIN = 8
"""How many causes of an error are inspected."""
_shared = SharedPages()


def own_bytes(*, anew: bool = False) -> int | None:
    """Return the process's own resident memory: heap and stacks, no mapped files, and no memory shared with the
    launcher.

    ``None`` if the kernel has no figure. See ``SharedPages`` for ``anew``.
    """
    found = _ANONYMOUS.search(_STATUS.read_text(encoding="ascii", errors="replace"))
    return None if found is None else max(0, int(found[1]) * 1024 - _shared.shared_bytes("self", anew=anew))


def give_back() -> None:
    """Collect garbage and return freed heap pages to the kernel; glibc keeps them otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def give_back_large_blocks() -> None:
    """Let glibc return freed blocks of a quarter of a megabyte and more to the kernel at once.

    By default it keeps blocks of up to 32 MiB in its heap once some were freed, between others that are in use. A load
    that converts each tensor to another type then held up to a sixth more than it needed, with variation (measured:
    1024 to 1166 MiB, and 1006 with this setting), and so did answers: one in INT8 held 163 MiB in addition to the
    weights if only blocks of a megabyte were returned, and 67 with this setting. A prediction can be right only for a
    process that holds just what it uses.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no such option
    if set_option is not None:
        set_option(_FROM_LARGE, _LARGE_BYTES)


def is_out_of_memory(error: BaseException, said: str = "") -> bool:
    """Return whether an error, or one that caused it, is a shortage of memory: by its type's name or by its text.

    torch raises ``OutOfMemoryError`` on a GPU and a plain ``RuntimeError`` with a text on the CPU. ``said`` is the
    library's log output in the meantime: transformers logs an error of a weight's conversion and raises another one
    that no longer names it.
    """
    return says_out_of_memory(said) or any(
        _TYPES & {cls.__name__ for cls in type(one).__mro__} or says_out_of_memory(str(one)) for one in _chain(error)
    )


def says_out_of_memory(text: str) -> bool:
    """Return whether a text reports a shortage of memory."""
    lowered = text.lower()
    return any(words in lowered for words in _TEXTS) or any(name in text for name in _TYPES)


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_CHAIN):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__
