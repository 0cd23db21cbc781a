"""Careful reading of small files."""

from __future__ import annotations

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from webapp.catalog.files import MAX_NUMBER, BadFile, open_regular, read_bytes, read_object, whole_number


def test_a_small_file_takes_little_memory_to_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"architectures": []}')

    tracemalloc.start()
    try:
        assert read_object(file) == {"architectures": []}
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2**20


def test_a_file_that_states_no_size_is_read_to_its_end() -> None:
    def read_own_name() -> dict[str, object]:
        """Read the kernel's name of this thread: a file of zero bytes, as it says itself."""
        name = Path("/proc/thread-self/comm")
        name.write_text('{"bits": 4}')
        assert name.stat().st_size == 0
        return read_object(name)

    with ThreadPoolExecutor(1) as other:
        assert other.submit(read_own_name).result() == {"bits": 4}


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="the kernel's messages cannot be read here")
def test_a_file_that_gives_no_bytes_without_a_wait_cannot_be_read() -> None:
    with open_regular(Path("/proc/kmsg")) as messages:
        with suppress(OSError):
            while read_bytes(messages, 2**20):  # what there is, until somebody would have to wait
                pass
        with pytest.raises(OSError, match="gives no bytes"):
            read_bytes(messages, 2**20)


@pytest.mark.parametrize("value", [True, 1.0, "1", [1], None, 0, -1, MAX_NUMBER + 1, 10**400])
def test_what_is_no_size_of_anything_counts_as_not_stated(value: object) -> None:
    assert whole_number(value) is None
    assert [whole_number(size) for size in (1, MAX_NUMBER)] == [1, MAX_NUMBER]


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with file.open("wb") as opened:
        opened.truncate(2**40)

    with pytest.raises(BadFile, match="larger than"):
        read_object(file)


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)

    with pytest.raises(BadFile):
        read_object(file)
