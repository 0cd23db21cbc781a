"""The Russian catalogue holds every text of the program and nothing else, whole and with the same values in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

from webapp.texts import CONTEXT_MARK

ROOT = Path(__file__).parents[3]
KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None, "NN_": (1, 2), "NP_": ((1, "c"), 2)}
FORMS = 3
"""Plural forms of Russian."""
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
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
        for _, _, text, _, context in extract_from_dir(ROOT / folder, mapping, chosen, keywords=KEYWORDS):
            found.add(f"{context}{CONTEXT_MARK}{text}" if context else text)
    return found


def catalogue() -> Catalog:
    path = ROOT / "webapp" / "translations" / "ru" / "LC_MESSAGES" / "messages.po"
    with path.open("rb") as file:
        return read_po(file, locale="ru")


def messages() -> Iterator[Message]:
    return (message for message in catalogue() if message.id)


def test_the_catalogue_holds_exactly_the_programs_texts() -> None:
    held = {f"{m.context}{CONTEXT_MARK}{m.id}" if m.context else m.id for m in messages()}

    assert held == in_the_program()


def test_nothing_is_left_open() -> None:
    assert catalogue().num_plurals == FORMS
    for message in messages():
        texts = message.string if isinstance(message.string, tuple) else (message.string,)

        assert not message.fuzzy, message.id
        assert all(texts), message.id
        assert len(texts) == (FORMS if isinstance(message.id, tuple) else 1), message.id


def texts_of(value: object) -> tuple[str, ...]:
    """The forms of a text, of which most have one."""
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)


def test_a_translation_has_the_same_values() -> None:
    for message in messages():
        source, texts = texts_of(message.id), texts_of(message.string)
        wanted = {value for text in source for value in VALUE.findall(text)}

        for text in texts:
            assert set(VALUE.findall(text)) <= wanted, message.id
        assert {value for text in texts for value in VALUE.findall(text)} == wanted, message.id


def test_the_source_is_english_and_its_translation_russian() -> None:
    for message in messages():
        source, texts = texts_of(message.id), texts_of(message.string)

        assert not any(CYRILLIC.search(text) for text in source), message.id
        if any(re.search("[a-z]", VALUE.sub("", text)) for text in source):  # else it is values and signs alone
            assert all(CYRILLIC.search(text) for text in texts), message.id
