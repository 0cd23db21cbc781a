"""The documents are free of phrases that a native technical writer would not use.

``SOURCES`` is the list of checked texts, each a function that yields ``(place, text)``: texts of the page and docstrings join it there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

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
LINK_TARGET = re.compile(r"\]\([^)]*\)")
COMPILED = {re.compile(phrase, re.IGNORECASE): better for phrase, better in BANNED.items()}


def documents() -> Texts:
    """Yield every document by its path, without code and the targets of links."""
    for pattern in ("*.md", "docs/**/*.md", "bench/**/*.md"):
        for path in sorted(ROOT.glob(pattern)):
            text = FENCE.sub("", path.read_text(encoding="utf-8"))
            yield str(path.relative_to(ROOT)), LINK_TARGET.sub("]", CODE.sub("`…`", text))


SOURCES: Mapping[str, Callable[[], Texts]] = {"documents": documents}


@pytest.mark.parametrize("source", SOURCES)
def test_no_banned_phrase_is_used(source: str) -> None:
    found = [
        f"{place}: “{text[max(0, hit.start() - 30) : hit.end() + 30]}” – write: {better}".replace("\n", " ")
        for place, text in SOURCES[source]()
        for phrase, better in COMPILED.items()
        for hit in phrase.finditer(text)
    ]

    assert not found, "\n".join(found)


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


def test_plain_english_is_not_refused() -> None:
    assert not any(
        phrase.search("A stand-in stands for the driver; no more than two run, and none is missing.")
        for phrase in COMPILED
    )
