"""Pages that nobody has touched are handed out filled; one that was touched is left as it is."""

import ctypes
import mmap
from pathlib import Path

import pytest

from webapp.worker.fresh_pages import PAGE_BYTES, FreshPages, fresh_pages

PAGES = 3


def _address(memory: bytearray | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_an_untouched_page_is_filled_once() -> None:
    content, other = bytearray(b"weights!" * (PAGE_BYTES // 8)), bytearray(PAGE_BYTES)
    with fresh_pages(huge_pages=Path("/dev/null")) as pages, _untouched() as memory:
        assert pages is not None
        start = _address(memory)
        with pages.taking(start, PAGES * PAGE_BYTES) as agreed:
            assert agreed
            assert pages.put(start + PAGE_BYTES, _address(content), PAGE_BYTES)
            assert not pages.put(start + PAGE_BYTES, _address(other), PAGE_BYTES), "it is there already"
        assert memory[PAGE_BYTES : 2 * PAGE_BYTES] == content
        assert memory[:PAGE_BYTES] == bytes(PAGE_BYTES), "the others can be used as ever"


def test_pages_that_cannot_be_had_are_not_taken() -> None:
    with fresh_pages(huge_pages=Path("/dev/null")) as pages:
        assert isinstance(pages, FreshPages)
        with pages.taking(0, PAGE_BYTES) as agreed:
            assert not agreed


@pytest.mark.parametrize(
    ("setting", "opened"), [("always [madvise] never", True), ("[always] madvise never", False), (None, True)]
)
def test_none_are_filled_where_huge_pages_come_unasked(setting: str | None, opened: bool, tmp_path: Path) -> None:
    if setting is not None:
        (tmp_path / "enabled").write_text(setting)
    with fresh_pages(huge_pages=tmp_path / "enabled") as pages:
        assert (pages is not None) == opened


def _untouched() -> mmap.mmap:
    return mmap.mmap(-1, PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
