"""Lack of memory is recognised by an error's type or words, wherever in the chain they stand."""

from __future__ import annotations

import pytest

from webapp.worker.memory import anonymous_bytes, give_back, is_out_of_memory
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
    assert (anonymous_bytes() or 0) > 2**20
