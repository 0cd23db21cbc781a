"""What only the real server shows: the refused address, and what it believes of a proxy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.engine.server import ROOT, WardenServer, running, wait_for
from webapp.domain.people import Role
from webapp.services import open_accounts
from webapp.settings import load_settings

PASSWORD = "correct horse"


def with_boss(folder: Path) -> None:
    with open_accounts(load_settings(state_dir=folder)) as accounts:
        accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)


def test_an_address_that_others_reach_is_refused_until_there_is_an_administrator(tmp_path: Path) -> None:
    server = WardenServer(tmp_path / "state", tmp_path / "cache", bind="0.0.0.0")
    server.begin()
    assert server.process is not None
    assert server.process.wait(30) == 3
    server.stop()
    (line,) = [line for line in server.output if line.startswith("Warden cannot start")]
    assert "warden users add NAME --role administrator" in line
    assert "Traceback" not in "\n".join(server.output)

    with_boss(tmp_path / "state")
    with running(server):
        assert httpx.get(f"{server.url}/api/v1/status", verify=False).status_code == 401


def test_an_address_that_came_past_the_settings_is_refused_too(tmp_path: Path) -> None:
    server = WardenServer(tmp_path / "state", tmp_path / "cache")
    server.environment["GUNICORN_CMD_ARGS"] = "--bind 0.0.0.0:0"
    server.begin()
    assert server.process is not None
    assert server.process.wait(30) == 3
    server.stop()
    (line,) = [line for line in server.output if line.startswith("Warden cannot start")]
    assert "0.0.0.0" in line


@pytest.mark.parametrize(("scheme", "secure"), [("https", True), ("http", False)])
def test_a_sign_in_that_came_by_tls_has_a_cookie_for_tls_alone(tmp_path: Path, scheme: str, secure: bool) -> None:
    with_boss(tmp_path / "state")
    server = WardenServer(tmp_path / "state", tmp_path / "cache")
    with (
        running(server),
        httpx.Client(base_url=server.url, headers={"X-Forwarded-Proto": scheme}, verify=False) as client,
    ):
        page = client.get("/sign-in")
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert token is not None
        cookie = page.headers["Set-Cookie"]
        fields = {"csrf_token": token[1], "name": "boss", "password": PASSWORD}
        answer = client.post("/sign-in", data=fields, headers={"Cookie": cookie.partition(";")[0]})

    assert answer.status_code == 303
    assert ("Secure" in answer.headers["Set-Cookie"]) is secure


def test_a_header_that_only_looks_like_the_proxys_is_dropped(tmp_path: Path) -> None:
    """``X_Forwarded_User`` and ``X-Forwarded-User`` are one name to WSGI; the server lets the first not through."""
    proxy = {"proxy_user_header": "X-Forwarded-User", "trusted_proxies": '["127.0.0.1"]'}
    server = WardenServer(tmp_path / "state", tmp_path / "cache", **proxy)
    with running(server):
        url = f"{server.url}/api/v1/status"
        assert httpx.get(url, headers={"X_Forwarded_User": "boss"}, verify=False).status_code == 401
        assert httpx.get(url, headers={"X-Forwarded-User": "boss"}, verify=False).status_code == 200


def warden(state: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command as a person gives it in a terminal."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WARDEN_")}
    environment |= {"WARDEN_STATE_DIR": str(state), "PYTHONPATH": str(ROOT), **settings}
    command = [sys.executable, "-m", "webapp.cli", *arguments]
    return subprocess.run(
        command,
        check=False,
        env=environment,
        cwd=state.parent,
        input=f"{PASSWORD}\n",
        text=True,
        capture_output=True,
        timeout=60,
    )


def test_an_administrator_is_written_where_the_warden_runs_and_nowhere_else(tmp_path: Path) -> None:
    server = WardenServer(tmp_path / "state", tmp_path / "cache")
    add = ("users", "add", "boss", "--role", "administrator", "--password-stdin")
    with running(server):
        port = server.url.rpartition(":")[2]
        astray = warden(tmp_path / "elsewhere", *add, WARDEN_PORT=port)
        assert astray.returncode == 1
        assert "no Warden has ever run with the state folder" in astray.stderr
        assert f"A Warden answers at {server.url}; its state folder is another one." in astray.stderr
        assert not (tmp_path / "elsewhere").exists()
        assert httpx.get(f"{server.url}/api/v1/status", verify=False).status_code == 200

        made = warden(tmp_path / "state", *add)
        assert made.returncode == 0
        (process,) = server.web_processes()
        where = f"State folder {tmp_path / 'state'}, database {tmp_path / 'state' / 'warden.db'}: "
        assert where + f"Warden is running (process {process.pid})." in made.stderr
        assert made.stdout == "boss is administrator.\n"
        # a Warden that had no administrator looks for one once a second
        wait_for(
            lambda: httpx.get(f"{server.url}/api/v1/status", verify=False).status_code == 401, 3, lambda: "still open"
        )
    stopped = warden(tmp_path / "state", "users", "list")
    assert where + "Warden is not running." in stopped.stderr
