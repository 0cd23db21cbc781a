"""Careful reading of small files."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from webapp.catalog.files import BadFile, read_object


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


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)

    with pytest.raises(BadFile):
        read_object(file)
