"""The error tree is what its docstring draws, and every error has its own code."""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest

from webapp import errors
from webapp.error_texts import ERROR_TEXTS, english
from webapp.errors import WardenError
from webapp.message import Message

LINE = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?P<rest>.*)$")


def classes() -> list[type[WardenError]]:
    return [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WardenError)]


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """The docstring's tree: class name -> (parent's name, code), the code where it does not follow from the name."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").split("::", 1)[1].split("\n\nA class", 1)[0].splitlines():
        if not (found := LINE.match(line.removeprefix("    "))):
            continue
        depth = len(found["indent"]) // 4
        path = [*path[:depth], found["name"]]
        code = re.match(r"\s+\(([a-z_]+)\)", found["rest"])
        tree[found["name"]] = (path[-2] if depth else None, None if code is None else code[1])
    return tree


def test_the_drawn_tree_has_every_class_under_its_parent() -> None:
    parents = {name: parent for name, (parent, _) in drawn().items()}

    assert parents == {each.__name__: None if each is WardenError else each.__bases__[0].__name__ for each in classes()}


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_a_code_follows_from_the_name_or_is_drawn(cls: type[WardenError]) -> None:
    _, code = drawn()[cls.__name__]

    assert cls.code == (code or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower())


def test_no_two_errors_share_a_code() -> None:
    assert [code for code, count in Counter(each.code for each in classes()).items() if count > 1] == []


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_an_error_has_a_plain_code_a_title_and_a_sentence(cls: type[WardenError]) -> None:
    assert re.fullmatch(r"[a-z_]+", cls.code)
    assert cls.code in ERROR_TEXTS


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_a_sentence_names_only_what_its_error_may_carry(cls: type[WardenError]) -> None:
    named = set(re.findall(r"%\((\w+)\)", ERROR_TEXTS[cls.code].sentence))
    lineage = " ".join(each.__doc__ or "" for each in cls.__mro__ if issubclass(each, WardenError))

    assert {name for name in named if not re.search(rf"\b{name}\b", lineage)} == set()


def test_a_terminal_gets_the_same_sentence_with_plain_values() -> None:
    assert english("last_administrator", {"person": "anna"}).startswith("anna is the only administrator")
    assert "4.0 GiB" in english("cannot_wait", {"model": "m", "needed_bytes": 4 * 2**30, "most_bytes": None})
    assert "n/a" in english("cannot_wait", {})


def test_an_error_is_a_message_with_its_values() -> None:
    error = errors.UnknownModel(model="org/small")

    assert error.message == Message("unknown_model", {"model": "org/small"})
    assert str(error) == "unknown_model(model=org/small)"
