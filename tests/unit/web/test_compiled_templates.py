"""Compiled templates are a cache: whatever becomes of them, a page is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment

from webapp.folders import make_private
from webapp.web.application import CompiledTemplates


def drawn(folder: Path) -> str:
    """A page of a program that has just been started."""
    environment = Environment(
        loader=DictLoader({"page": "{{ 6 * 7 }}"}), bytecode_cache=CompiledTemplates(str(folder)), autoescape=True
    )
    return environment.get_template("page").render()


@pytest.mark.parametrize("kept", [0, 1, 20, 60])
def test_a_compiled_template_that_was_cut_off_is_made_again(tmp_path: Path, kept: int) -> None:
    assert drawn(tmp_path) == "42"
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])

    assert drawn(tmp_path) == "42"
    assert file.read_bytes() == whole


def test_a_compiled_template_of_other_bytes_is_made_again(tmp_path: Path) -> None:
    assert drawn(tmp_path) == "42"
    (file,) = tmp_path.iterdir()
    magic = file.read_bytes()[:20]
    file.write_bytes(magic + b"\x80\x04\x8c\x05no_suchq\x93.")

    assert drawn(tmp_path) == "42"


def test_a_folder_that_is_gone_keeps_nothing_and_fails_nothing(tmp_path: Path) -> None:
    assert drawn(tmp_path / "gone") == "42"


def test_a_private_folder_is_private_with_all_that_was_missing_above_it(tmp_path: Path) -> None:
    make_private(tmp_path / "state" / "workers" / "one")

    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "state").rglob("*")] == [0o700, 0o700]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
