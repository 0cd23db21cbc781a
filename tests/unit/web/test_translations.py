"""Both catalogues hold every text of the program and nothing else, whole and with the same values in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[3]
KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None, "NN_": (1, 2)}
VALUE = re.compile(r"%\(\w+\)s|\{\w*\}")


def in_the_program() -> set[str | tuple[str, ...]]:
    with (ROOT / "babel.cfg").open(encoding="utf-8") as file:
        methods, options = parse_mapping_cfg(file)
    found: set[str | tuple[str, ...]] = set()
    for folder in ("webapp", "templates"):
        mapping = [
            (pattern.removeprefix(f"{folder}/"), method) for pattern, method in methods if pattern.startswith(folder)
        ]
        chosen = {pattern.removeprefix(f"{folder}/"): value for pattern, value in options.items()}
        for _, _, text, _, _ in extract_from_dir(ROOT / folder, mapping, chosen, keywords=KEYWORDS):
            found.add(text)
    return found


def catalogue(language: str) -> Catalog:
    path = ROOT / "webapp" / "translations" / language / "LC_MESSAGES" / "messages.po"
    with path.open("rb") as file:
        return read_po(file, locale=language)


def messages(language: str) -> Iterator[Message]:
    return (message for message in catalogue(language) if message.id)


@pytest.mark.parametrize("language", ["ru", "en"])
def test_a_catalogue_holds_exactly_the_programs_texts(language: str) -> None:
    assert {message.id for message in messages(language)} == in_the_program()


@pytest.mark.parametrize(("language", "forms"), [("ru", 3), ("en", 2)])
def test_nothing_is_left_open(language: str, forms: int) -> None:
    assert catalogue(language).num_plurals == forms
    for message in messages(language):
        texts = message.string if isinstance(message.string, tuple) else (message.string,)

        assert not message.fuzzy, message.id
        assert all(texts), message.id
        assert len(texts) == (forms if isinstance(message.id, tuple) else 1), message.id


@pytest.mark.parametrize("language", ["ru", "en"])
def test_a_translation_has_the_same_values(language: str) -> None:
    for message in messages(language):
        source = message.id if isinstance(message.id, tuple) else (message.id,)
        texts = message.string if isinstance(message.string, tuple) else (message.string,)
        wanted = {value for text in source for value in VALUE.findall(text)}

        for text in texts:
            assert set(VALUE.findall(text)) <= wanted, message.id
        assert {value for text in texts for value in VALUE.findall(text)} == wanted, message.id


def test_english_is_english_and_russian_is_the_source() -> None:
    for message in messages("en"):
        assert not re.search("[а-яё]", str(message.string), re.IGNORECASE), message.id
    for message in messages("ru"):
        if isinstance(message.id, str):
            assert message.string == message.id
