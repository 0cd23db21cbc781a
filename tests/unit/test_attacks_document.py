"""The table of attacks names tests that exist, and leaves no attack test out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "attacks.md"
OF_ATTACKS = (
    "tests/web/test_attacks.py",
    "tests/web/test_fuzzing.py",
    "tests/e2e/test_markup.py",
    "tests/integration/vllm/test_local_users.py",
)
NOT_AN_ATTACK = {
    "test_a_request_in_small_pieces_is_answered",
    "test_requests_behind_each_other_are_answered_one_by_one",
    "test_who_waits_to_be_told_to_go_on_is_told",
    "test_a_client_that_does_not_read_holds_its_own_next_request_alone",
    "test_a_body_of_unknown_length_is_refused",
}
"""What the server still has to do in addition to refusing, and what the table lists under another name."""


def named() -> Iterator[tuple[str, str]]:
    """File and name of each test of the table; ``::name`` is in the file that was named last."""
    file = ""
    for path, name in re.findall(r"`((?:tests/[\w/]+\.py)?)::(test_\w+)`", DOCUMENT.read_text(encoding="utf-8")):
        file = path or file
        yield file, name


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_that_the_table_names_exists() -> None:
    found = list(named())

    assert len(found) > 50
    assert [f"{file}::{name}" for file, name in found if name not in names_in(file)] == []


def test_every_attack_test_stands_in_the_table() -> None:
    folder = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/integration/attacks").glob("test_*.py"))
    written = {name for file in (*OF_ATTACKS, *folder) for name in names_in(file)}

    assert written - {name for _, name in named()} == NOT_AN_ATTACK


def test_every_line_of_the_table_names_a_test() -> None:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]

    assert len(lines) > 20
    assert [line for line in lines if "::test_" not in line] == []
