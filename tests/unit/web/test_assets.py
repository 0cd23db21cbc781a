"""The style sheet is put together from its files, and the mark changes with any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp.web.assets import content_mark, joined_sheet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "app.css").write_text('@layer one;\n@import url("base.css");\n@import url("parts/top.css");\n')
    (tmp_path / "base.css").write_text("a { color: red; }\n")
    (tmp_path / "parts" / "top.css").write_text("b { color: blue; }\n")
    return tmp_path


def test_each_import_is_replaced_by_its_file(folder: Path) -> None:
    assert joined_sheet(folder / "app.css") == "@layer one;\na { color: red; }\nb { color: blue; }\n"


def test_a_sheet_that_imports_a_file_that_is_not_there_is_an_error_at_the_start(folder: Path) -> None:
    (folder / "base.css").unlink()

    with pytest.raises(FileNotFoundError, match=r"base\.css"):
        joined_sheet(folder / "app.css")


def test_the_mark_is_the_same_for_the_same_files_and_another_for_any_change(folder: Path) -> None:
    first = content_mark(folder)
    assert content_mark(folder) == first

    (folder / "base.css").write_text("a { color: rot; }\n")
    changed = content_mark(folder)
    (folder / "base.css").rename(folder / "basis.css")

    assert len({first, changed, content_mark(folder)}) == 3
