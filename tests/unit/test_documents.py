"""The documents name files that exist, and lead only to places that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.settings import NAMES, REMOVED, RENAMED, variable

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bench/**/*.md")
    for path in ROOT.glob(pattern)
    if not path.is_symlink()
)
LINK = re.compile(r"\]\(([^()\s]+)\)")
NAMED = re.compile(r"(?<![\w./-])(?:webapp|templates|static|tests|scripts|bench|docs|\.ci)/[\w./-]*[\w/]")
"""A path of the repository, as text or in code."""
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
VARIABLE = re.compile(r"\bWARDEN_[A-Z0-9_]+\b")
NOT_SETTINGS = frozenset({"WARDEN_CONFIG", "WARDEN_TOKEN", "WARDEN_FUZZ"})
TARGET = re.compile(r"`make ([a-z-]+)`|^make ([a-z-]+)(?: +#.*)?$", re.MULTILINE)
READABLE = 120
"""Lines of README.md, which is the front page; everything else is in docs."""
WIDEST = 120
HANDWRITTEN = [
    path for path in DOCUMENTS if path.parent.name != "reference" and (path.parent != ROOT or path.name == "README.md")
]
"""The documents whose lines are wrapped by hand; those of ``docs/reference`` follow the code."""


def links(document: Path) -> Iterator[str]:
    """Yield the relative links of a document."""
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        name, _, anchor = target.partition("#")
        led = (document.parent / name).resolve() if name else document
        assert led.exists(), target
        assert not anchor or anchor in anchors(led), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_exists(document: Path) -> None:
    named = NAMED.findall(document.read_text(encoding="utf-8"))

    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_and_make_target_that_is_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    settings = {variable(name) for name in (*NAMES, *REMOVED, *RENAMED)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    assert set(VARIABLE.findall(text)) - settings - NOT_SETTINGS == set()
    assert {one or other for one, other in TARGET.findall(text)} - targets == set()


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "webapp").glob("*/__init__.py")}

    assert {name for name in packages if f"`webapp/{name}`" not in text} == set()


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= READABLE


@pytest.mark.parametrize("document", HANDWRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_line_of_prose_is_not_too_long(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)

    assert [line for line in prose.splitlines() if len(line) > WIDEST and not line.startswith(("|", "![", "#"))] == []
