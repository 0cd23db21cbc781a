"""The error tree is what its docstring draws, and every error has its own code."""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest

from webapp import errors
from webapp.errors import WardenError
from webapp.message import Message

LINE = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?P<rest>.*)$")


def classes() -> list[type[WardenError]]:
    return [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WardenError)]


def drawn() -> dict[str, tuple[str | None, str | None, int | None]]:
    """The docstring's tree: class name -> (parent's name, code, status), the last two where they are written."""
    tree: dict[str, tuple[str | None, str | None, int | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").split("::", 1)[1].split("\n\nEach class", 1)[0].splitlines():
        if not (found := LINE.match(line.removeprefix("    "))):
            continue
        depth = len(found["indent"]) // 4
        path = [*path[:depth], found["name"]]
        words = found["rest"].split()
        code = words[0] if words and re.fullmatch(r"[a-z_]+", words[0]) else None
        status = next((int(word) for word in words[:2] if word.isdigit()), None)
        tree[found["name"]] = (path[-2] if depth else None, code, status)
    return tree


def test_the_drawn_tree_has_every_class_under_its_parent() -> None:
    parents = {name: parent for name, (parent, _, _) in drawn().items()}

    assert parents == {each.__name__: None if each is WardenError else each.__bases__[0].__name__ for each in classes()}


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_a_drawn_code_and_status_are_the_classs(cls: type[WardenError]) -> None:
    _, code, status = drawn()[cls.__name__]

    assert code in (None, cls.code)
    assert status in (None, cls.status)


def test_no_two_errors_share_a_code() -> None:
    assert [code for code, count in Counter(each.code for each in classes()).items() if count > 1] == []


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_a_status_is_an_error_of_http_and_a_code_a_plain_word(cls: type[WardenError]) -> None:
    assert 400 <= cls.status <= 599
    assert re.fullmatch(r"[a-z_]+", cls.code)


def test_an_error_is_a_message_with_its_values() -> None:
    error = errors.UnknownModel(model="org/small")

    assert error.message == Message("unknown_model", {"model": "org/small"})
    assert str(error) == "unknown_model(model=org/small)"
