"""The JSON interface answers as it was recorded: the same keys in the same order, and the same values.

A new field in addition to the recorded ones is not a difference.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from tests.web.contract import FOLDER, SCENARIOS, answers, errors, recorded, without_additions, without_prose


def lines(answer: object) -> list[str]:
    """An answer as text, so that the order of the keys counts and a difference is shown line by line."""
    return json.dumps(without_prose(answer), ensure_ascii=False, indent=1).splitlines()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_server_answers_as_recorded(name: str) -> None:
    given, kept = answers(name), recorded(name)

    assert [each["call"] for each in given] == [each["call"] for each in kept]
    for now, before in zip(given, kept, strict=True):
        assert lines(without_additions(now, before)) == lines(before), now["call"]


def test_every_error_has_its_recorded_status_and_code() -> None:
    assert errors() == recorded("errors")


def test_nothing_else_is_recorded() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*SCENARIOS, "errors"}


def test_every_route_is_recorded(app: Flask) -> None:
    def called(call: str) -> str | None:
        method, path = call.split(" ", 1)
        adapter = app.url_map.bind("localhost")
        try:
            rule, _ = adapter.match(path.partition("?")[0], method=method, return_rule=True)
        except Exception:  # noqa: BLE001  a call that meets no route
            return None
        return f"{method} {rule.rule}"

    calls: list[dict[str, Any]] = [each for name in SCENARIOS for each in recorded(name)]
    met = {called(each["call"]) for each in calls if each["status"] < 300}
    rules = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1/") and rule.endpoint != "reference.openapi"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert rules - met == set()


@pytest.mark.parametrize("name", ["busy-server", "problems", "crowded"])
def test_the_interface_speaks_english_to_every_browser(name: str) -> None:
    """Whatever the browser, the cookie and the setting prefer: programs read the texts too."""
    assert answers(name, {"HTTP_ACCEPT_LANGUAGE": "ru", "HTTP_COOKIE": "warden_language=ru"}) == answers(name)
