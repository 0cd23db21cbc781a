"""The guard in front of vLLM in its container admits nobody without the key, whatever the route."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from webapp.runtimes.vllm import guard
from webapp.runtimes.vllm.guard import Guard

KEY = "a-key"


class Vllm:
    """Answers whatever reaches it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.reached.append(scope.get("path", scope["type"]))


def ask(
    monkeypatch: pytest.MonkeyPatch, path: str, *keys: str, method: str = "POST", kind: str = "http"
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return what reached vLLM, and what was sent instead."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    sent: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    vllm = Vllm()
    scope = {
        "type": kind,
        "path": path,
        "method": method,
        "headers": [(b"authorization", key.encode()) for key in keys],
    }
    with suppress(StopIteration):  # it waits for nothing, and a browser's loop may be running in this thread
        Guard(vllm)(scope, None, send).send(None)
    return vllm.reached, sent


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/invocations",
        "/tokenize",
        "/pooling",
        "//invocations",
        "/health/../invocations",
        "/",
        "/docs",
        "/Health",
    ],
)
@pytest.mark.parametrize(
    "keys", [(), ("Bearer guessed",), ("",), (KEY,), (f"Bearer {KEY}", f"Bearer {KEY}x"), (f"Bearer {KEY} ",)]
)
def test_without_the_key_nothing_is_reached(monkeypatch: pytest.MonkeyPatch, path: str, keys: tuple[str, ...]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        reached, sent = ask(monkeypatch, path, *keys, method=method)

        assert reached == []
        assert sent[0]["status"] == 401


def test_with_the_key_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, "/invocations", f"Bearer {KEY}") == (["/invocations"], [])


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/metrics"])
def test_who_only_looks_whether_it_lives_needs_none(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert ask(monkeypatch, path, method="GET")[0] == [path]
    assert ask(monkeypatch, path, method="POST")[0] == []


def test_a_web_socket_is_closed_and_the_servers_own_life_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, "/v1/realtime", kind="websocket") == ([], [{"type": "websocket.close", "code": 1008}])
    assert ask(monkeypatch, "", kind="lifespan")[0] == [""]


def test_without_a_key_there_is_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)

    with pytest.raises(KeyError):
        Guard(Vllm())


def test_it_needs_nothing_that_an_image_may_lack() -> None:
    source = Path(guard.__file__).read_text(encoding="utf-8")
    imported = [line for line in source.splitlines() if line.startswith(("import ", "from "))]

    assert {line.split()[1].partition(".")[0] for line in imported} == {
        "__future__",
        "hmac",
        "os",
        "collections",
        "typing",
    }
