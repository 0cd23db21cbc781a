"""What must not be kept: tokens, keys, passwords, prompts and answers, looked for in every file and line that there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.server import WardenServer
from tests.integration.attacks.sockets import HOST, exchange
from webapp.domain.people import Role
from webapp.services import open_accounts
from webapp.settings import load_settings

PASSWORD = "a very secret horse"
PROMPT = "zanzibar quintessence"
Start = Callable[..., WardenServer]


def kept(server: WardenServer) -> dict[str, bytes]:
    """Everything that Warden has written: each file of its folder (log, database with its journal, worker's files), and its output."""
    files = {str(path): path.read_bytes() for path in server.state.rglob("*") if path.is_file()}
    return {**files, "output": "\n".join(server.output).encode()}


def places_of(secret: str, server: WardenServer) -> list[str]:
    return [name for name, data in kept(server).items() if secret.encode() in data]


@pytest.fixture
def token(tmp_path: Path) -> str:
    with open_accounts(load_settings(state_dir=tmp_path / "state")) as accounts:
        boss = accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)
        return accounts.add_token(boss, "test", Role.ADMINISTRATOR, None)


@pytest.fixture
def server(tmp_path: Path, cache: Path, token: str) -> Iterator[WardenServer]:
    """A Warden that logs all that it can."""
    server = WardenServer(tmp_path / "state", cache, log_level="DEBUG")
    server.headers = {"Authorization": f"Bearer {token}"}
    server.start()
    server.models(3)
    yield server
    server.stop()
    server.end_models()


def test_no_token_key_or_password_is_kept_anywhere(server: WardenServer, token: str) -> None:
    """In a header, in an address, in a request that is broken, in the wrong field; the log has the accesses and none of them."""
    bearer = f"Authorization: Bearer {token}".encode()
    assert server.status()["mode"] is None
    httpx.get(f"{server.url}/api/v1/status?token={token}&access_token={token}", verify=False)
    httpx.get(f"{server.url}/invitation?key={token}", verify=False)
    server.post("/api/v1/switch", {"mode": "transformers", "model": "lab/none"})
    for broken in (
        b"GET /?token=" + token.encode() + b" HTTP/9\r\n" + HOST + b"\r\n",
        b"GET /?token=" + token.encode() + b"\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + bearer + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + bearer.replace(b": ", b" ") + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + bearer + b"\r\n folded\r\n\r\n",
        token.encode() + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    ):
        exchange(server.url, broken)
    cookie = sign_in(server)

    said = "\n".join(server.stop())

    assert '"GET /api/v1/status" 200' in said
    assert "was refused" in said
    for secret in (token, token[8:], PASSWORD, cookie, "typed into the wrong field"):
        assert places_of(secret, server) == []


def sign_in(server: WardenServer) -> str:
    """Sign in as a person does, once with the password in the wrong field; return the cookie's value."""
    with httpx.Client(base_url=server.url, verify=False) as client:
        found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/sign-in").text)
        assert found is not None
        fields = {"csrf_token": found[1], "password": PASSWORD}
        client.post("/sign-in", data={**fields, "name": "typed into the wrong field"})
        assert client.post("/sign-in", data={**fields, "name": "boss"}).status_code == 303
        (value,) = [value for name, value in client.cookies.items() if name.startswith("warden_session")]
        return value


def test_no_prompt_and_no_answer_is_kept_anywhere(server: WardenServer) -> None:
    """Through the real worker, by the JSON call, by the form, and by one that is refused."""
    server.load("lab/one")
    instance = server.instance_of("lab/one")["id"]
    path = f"/api/v1/instances/{instance}/ask"

    answer = server.post(path, {"prompt": PROMPT, "max_tokens": 30}).json()["answer"]
    assert server.post(path, {"prompt": PROMPT, "max_tokens": 0}).status_code == 422
    assert server.post(path, {"prompt": f"{PROMPT} " * 2000}).status_code in (200, 400, 409, 413, 422, 502)
    server.post(f"/api/v1/instances/{instance}/unload")
    server.stop()

    assert len(answer) > 10
    assert places_of("zanzibar", server) == []
    assert places_of("quintessence", server) == []
    assert places_of(answer, server) == []
