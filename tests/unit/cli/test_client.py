"""The client of the command line: answers in the schema's models, and refusals in the server's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from webapp.cli import Refusal
from webapp.cli.client import Client, RefusedByWarden


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(httpx.Client(transport=httpx.MockTransport(answer), base_url="http://warden"))


USUAL = Path(__file__).parents[2] / "data" / "contract" / "state-usual.json"


def busy_with(kind: str) -> Client:
    problem: dict[str, object] = {"title": "busy", "status": 409, "code": "busy", "detail": "Busy."}
    problem["params"] = {"kind": kind, "operation": "o7"}
    return client_of(lambda request: httpx.Response(409, json=problem))


def test_second_selftest_joins_the_one_that_runs() -> None:
    assert busy_with("selftest").begin_selftest() == "o7"


def test_refused_selftest_says_why_in_the_servers_words() -> None:
    with pytest.raises(RefusedByWarden, match=r"Busy\.") as refusal:
        busy_with("emergency").begin_selftest()
    assert refusal.value.problem.params["kind"] == "emergency"


def test_cancel_of_an_ended_operation_changes_nothing() -> None:
    busy_with("selftest").cancel("o7")


def test_server_that_has_gone_is_named() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(Refusal, match=r"no Warden answers at http://warden \(connection refused\)"):
        client_of(gone).operation("o1")


def test_status_of_an_earlier_warden_that_does_not_give_its_version_is_read() -> None:
    answer = next(one["answer"] for one in json.loads(USUAL.read_text("utf-8")) if one["call"] == "GET /api/v1/status")
    assert "version" not in answer

    status = client_of(lambda request: httpx.Response(200, json={**answer, "later": 1})).status()

    assert [device.id for device in status.devices] == [device["id"] for device in answer["devices"]]
