"""Documents, docstrings, comments and the page's texts are free of phrases that a native technical writer would not use.

``SOURCES`` is the list of checked texts, each a function that yields ``(place, text)``. The Russian texts of the page
have a list of their own.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[2]
Texts = Iterator[tuple[str, str]]

BANNED: Mapping[str, str] = {
    r"\bin vain\b": "say what does not help",
    r"\bby (?:itself|themselves)\b": "automatically; on its own",
    r"\b(?:stands?(?! for\b|-)|stood)\b": "is; appears",
    r"\black(?:s|ing)?\b": "is missing; is short of",
    r"\b(?:is|are|was|were) said\b": "name who or what says it",
    r"\bno more(?=[.;:,)]| *\||\n\n|\Z)": "no longer",
    r"\bwaits? no more\b": "has left the queue",
    r"\bbeside\b": "in addition to; next to; outside",
    r"\b(?:goes|went) (?:on|by)\b": "continues; is unloaded",
    r"\b(?:has|have|is|are) to go\b": "is unloaded",
    r"\banew\b": "again",
    r"\bneighbours?\b": "another process",
    r"\basks? to release\b": "release request",
    r"\bis made (?:of|by)\b": "consists of; is created by",
    r"\bcannot be meant\b": "is invalid",
}
"""Banned words and what to write instead. Russian and code are not looked at."""
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
QUOTED_CODE = re.compile(r"``.+?``", re.DOTALL)
LINK_TARGET = re.compile(r"\]\([^)]*\)")
COMPILED = {re.compile(phrase, re.IGNORECASE): better for phrase, better in BANNED.items()}


def documents() -> Texts:
    """Yield every document by its path, without code and the targets of links."""
    for pattern in ("*.md", "docs/**/*.md", "bench/**/*.md"):
        for path in sorted(ROOT.glob(pattern)):
            text = FENCE.sub("", path.read_text(encoding="utf-8"))
            yield str(path.relative_to(ROOT)), LINK_TARGET.sub("]", CODE.sub("`…`", text))


CHECKED_CODE = ("bench/*.py", "scripts/*.py", "tests/engine/**/*.py", "webapp/**/*.py")
"""The code whose docstrings and comments are checked: all but the other tests."""


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of modules, classes, functions and attributes, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments, each with its line; those on successive lines of their own are one text."""
    found: list[tuple[int, int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.removeprefix("#")
        if found and found[-1][1] == line - 1 and token.line.lstrip().startswith("#"):
            first, _, before = found.pop()
            found.append((first, line, before + text))
        else:
            found.append((line, line, text))
    yield from ((first, text) for first, _, text in found)


def code() -> Texts:
    """Yield every docstring and comment of ``CHECKED_CODE`` by its path and line, without quoted code."""
    for pattern in CHECKED_CODE:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            source = path.read_text(encoding="utf-8")
            for line, text in (*docstrings(source), *comments(source)):
                yield f"{name}:{line}", QUOTED_CODE.sub("`…`", text)


CATALOGUE = ROOT / "webapp" / "translations" / "ru" / "LC_MESSAGES" / "messages.po"
BANNED_RUSSIAN: Mapping[str, str] = {
    r"\bзаяв(?:к|ок)": "очередь, место в очереди",
    r"\bсосед(?!н)": "соседний процесс",
    r"\bкус(?:ок|ка|ков)\b": "фрагмент",
    r"\bдогна(?:н|ть)": "завершён",
    r"\bуборк": "очистка остатков",
    r"\bотвали": "потеряна",
    r"\bутилизаци": "занято памяти",
    r"\bпанел": "Warden",
    r"\b(?:эта|этой|самой) программ": "Warden",
    r"\bвпритык\b": "на пределе",
}


def _catalogue(*, russian: bool) -> Texts:
    """Yield every text of the page, with its English id as the place."""
    with CATALOGUE.open("rb") as file:
        for message in read_po(file):
            texts = message.string if russian else message.id
            for text in (texts,) if isinstance(texts, str) else texts or ():
                yield f"text {message.id!r}" if message.id else "header", text if message.id else ""


def english() -> Texts:
    """Yield the English texts of the page."""
    return _catalogue(russian=False)


SOURCES: Mapping[str, Callable[[], Texts]] = {"documents": documents, "code": code, "page": english}


@pytest.mark.parametrize("source", SOURCES)
def test_no_banned_phrase_is_used(source: str) -> None:
    found = [
        f"{place}: “{text[max(0, hit.start() - 30) : hit.end() + 30]}” – write: {better}".replace("\n", " ")
        for place, text in SOURCES[source]()
        for phrase, better in COMPILED.items()
        for hit in phrase.finditer(text)
    ]

    assert not found, "\n".join(found)


def test_no_banned_phrase_is_used_in_russian() -> None:
    found = [
        f"{place}: “{text}” – пишите: {better}"
        for place, text in _catalogue(russian=True)
        for phrase, better in BANNED_RUSSIAN.items()
        if re.search(phrase, text, re.IGNORECASE)
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["2 заявки ждут", "вырос сосед", "Утилизация 2 %", "Карта отвалилась", "Панель открыта"]
)
def test_a_banned_russian_phrase_would_be_found(text: str) -> None:
    assert any(re.search(phrase, text, re.IGNORECASE) for phrase in BANNED_RUSSIAN)


@pytest.mark.parametrize(
    "text",
    [
        "It waits in vain.",
        "The figure stands on the page.",
        "Memory lacks.",
        "It is no more.",
        "It runs beside others.",
    ],
)
def test_a_banned_phrase_would_be_found(text: str) -> None:
    assert any(phrase.search(text) for phrase in COMPILED)


def test_comments_on_successive_lines_are_one_text() -> None:
    assert list(comments("# It takes no more\n# than two.\na = 1  # It waits.\n")) == [
        (1, " It takes no more than two."),
        (3, " It waits."),
    ]


@pytest.mark.parametrize("pattern", CHECKED_CODE)
def test_every_checked_pattern_matches_files(pattern: str) -> None:
    assert list(ROOT.glob(pattern))


def test_plain_english_is_not_refused() -> None:
    assert not any(
        phrase.search("A stand-in stands for the driver; no more than two run, and none is missing.")
        for phrase in COMPILED
    )
