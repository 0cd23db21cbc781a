"""The style sheets keep to the tokens, and to lines that a comparison of versions shows well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CSS = Path(__file__).parents[3] / "static" / "css"
TOKENS = CSS / "tokens.css"
SHEETS = sorted(path for path in CSS.rglob("*.css") if path.name != "app.css")
USING = [path for path in SHEETS if path != TOKENS]
SPACED = re.compile(r"(?:padding|margin)(?:-\w+)*|(?:row-|column-)?gap")
DECLARATION = re.compile(r"(?<=[{;])\s*(?P<name>[\w-]+):\s*(?P<value>[^;{}]+);")


def without_comments(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def declarations(path: Path) -> Iterator[tuple[str, str]]:
    for found in DECLARATION.finditer(without_comments(path)):
        yield found["name"], found["value"]


def name(path: Path) -> str:
    return str(path.relative_to(CSS))


@pytest.mark.parametrize("path", USING, ids=name)
def test_spaces_are_those_of_the_scale(path: Path) -> None:
    assert [(name, value) for name, value in declarations(path) if SPACED.fullmatch(name) and "px" in value] == []


@pytest.mark.parametrize("path", USING, ids=name)
def test_sizes_of_text_are_those_of_the_scale(path: Path) -> None:
    sizes = [value for name, value in declarations(path) if name in ("font", "font-size")]

    assert [size for size in sizes if not re.match(r"var\(--text-\w+\)|inherit$", size)] == []


@pytest.mark.parametrize("path", SHEETS, ids=name)
def test_a_line_holds_one_declaration(path: Path) -> None:
    lines = without_comments(path).splitlines()

    assert [line for line in lines if len(re.findall(r";", line)) > 1] == []


@pytest.mark.parametrize("path", sorted((CSS / "components").glob("*.css")), ids=name)
def test_a_component_opens_with_its_html(path: Path) -> None:
    assert re.match(r"/\* <\w", path.read_text(encoding="utf-8"))


def test_each_token_is_used_and_none_is_missing() -> None:
    made = set(re.findall(r"(--[\w-]+):", without_comments(TOKENS)))
    used = {token for path in SHEETS for token in re.findall(r"var\((--[\w-]+)\)", without_comments(path))}

    assert made == used
