"""A shortage of memory is recognised by an error's type or text, anywhere in the chain of causes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from webapp.worker.memory import give_back, is_out_of_memory, own_bytes
from webapp.worker.program import describe


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's class."""


def wrapped(cause: Exception) -> Exception:
    error = RuntimeError("issues during automatic conversion")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (wrapped(OutOfMemoryError("x")), True),
        (wrapped(ValueError("x")), False),
        (ValueError("no memory of that"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_the_library_logged_counts_too() -> None:
    assert is_out_of_memory(RuntimeError("conversion"), "torch.OutOfMemoryError: CUDA out of memory")


def test_a_failure_carries_the_errors_own_short_text() -> None:
    failure = describe(ValueError("a\n  b " + "x" * 5000))

    assert failure.code == "launch_failed"
    assert failure.detail.startswith("ValueError: a b xxx")
    assert len(failure.detail) < 700
    assert describe(MemoryError()).code == "out_of_memory"
    assert describe(MemoryError()).detail == "MemoryError"


def test_the_process_knows_its_own_memory() -> None:
    give_back()
    assert (own_bytes() or 0) > 2**20


def test_what_a_fork_has_copied_is_its_own_when_it_is_looked_at_anew() -> None:
    script = """
import os
from webapp.hardware.shared_pages import SharedPages
from webapp.worker import memory
from webapp.worker.memory import own_bytes
memory._shared = SharedPages(monotonic=lambda: 0.0)
held = bytearray(2**26)
if os.fork() == 0:
    before = own_bytes()
    held[::4096] = bytes(len(held) // 4096)
    print(own_bytes(anew=True) - before >= 2**25, flush=True)
    os._exit(0)
os.wait()
"""
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)

    assert printed.stdout == "True\n"


def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    """In a process of its own: a freed block between two that stay would be kept in the heap, once glibc has seen such
    blocks.
    """
    program = (
        "from webapp.worker.memory import own_bytes, give_back_large_blocks\n"
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; libc.malloc.argtypes = [ctypes.c_size_t]\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "def take(size):\n"
        "    at = libc.malloc(size); ctypes.memset(at, 1, size); return at\n"
        "if sys.argv[1] == 'back': give_back_large_blocks()\n"
        "libc.free(take(30 * 2**20))\n"
        "blocks = [take(8 * 2**20) for _ in range(9)]\n"
        "before = own_bytes()\n"
        "for block in blocks[0:8:2]: libc.free(block)\n"
        "print(before - own_bytes())\n"
    )

    def given_back(word: str) -> int:
        done = subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert given_back("kept") < 8 * 2**20
    assert given_back("back") >= 32 * 2**20
