"""The self-test for real: on the running server, and by the command line with and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.engine.server import ROOT, WardenServer, wait_for
from tests.web.catalogues import compile_catalogues

Start = Callable[..., WardenServer]


def begin(server: WardenServer) -> str:
    answer = server.post("/api/v1/selftest")
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def assert_good(operation: Any) -> None:
    """All is well but vLLM mode, for which there is no Docker here."""
    bad = {c["name"]: c["seen"]["text"] for c in operation["checks"] if c["mark"] not in ("ok", "warning")}
    assert bad == {}
    assert len(operation["checks"]) == 11
    assert operation["state"] == "warning"
    assert operation["findings"] == []


def sandboxes(state: Path) -> list[Path]:
    folder = state / "selftest"
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def marked_under(folder: Path) -> list[str]:
    """Every live process that works in a folder of the self-test."""
    mark = f"WARDEN_WORKER_ROOT={folder}".encode()
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and mark in (path / "environ").read_bytes():
                found.append(path.name)
        except OSError:
            continue
    return found


def test_the_running_server_tests_itself_beside_what_is_loaded(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    before = server.instance_of("lab/one")

    operation = server.finished(begin(server), 180)

    assert_good(operation)
    after = server.instance_of("lab/one")
    assert (after["pid"], after["state"]) == (before["pid"], "ready")
    answer = server.post(f"/api/v1/instances/{after['id']}/ask", {"prompt": "Hello", "max_tokens": 4})
    assert answer.json()["answer"]
    assert sandboxes(server.state) == []
    assert marked_under(server.state / "selftest") == []


def test_its_process_is_not_called_a_strangers(start_server: Start) -> None:
    server = start_server()
    operation = begin(server)

    def seen() -> Any:
        return [h for h in server.status()["devices"][0]["holders"] if h["kind"] == "worker"]

    assert wait_for(seen, 60, lambda: "the sandbox's model was never listed as a worker")
    server.finished(operation, 180)


def test_what_a_killed_server_left_of_a_self_test_is_removed_at_the_next_start(start_server: Start) -> None:
    server = start_server()
    begin(server)
    wait_for(lambda: marked_under(server.state / "selftest"), 60, lambda: "the sandbox never launched")
    server.kill()
    assert sandboxes(server.state)

    server.start()

    assert sandboxes(server.state) == []
    assert marked_under(server.state / "selftest") == []
    assert server.get("/api/v1/operations?limit=1")[0]["state"] == "abandoned"


def command(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    compile_catalogues()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WARDEN_")}
    return subprocess.run(
        [sys.executable, "-m", "webapp.cli", "selftest", *arguments],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_command_asks_the_warden_that_runs(start_server: Start) -> None:
    server = start_server()
    port = server.url.rpartition(":")[2]

    done = command({"WARDEN_PORT": port, "WARDEN_STATE_DIR": str(server.state)})

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Asking the Warden at {server.url}." in done.stdout
    assert "ok       Loading" in done.stdout
    assert server.get("/api/v1/operations?limit=1")[0]["kind"] == "selftest"


def test_without_a_server_the_command_tests_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment = {
        "WARDEN_PORT": "1",
        "WARDEN_STATE_DIR": str(state),
        "WARDEN_HF_CACHE": str(tmp_path / "cache"),
        "WARDEN_DOCKER_SOCKET": str(tmp_path / "none.sock"),
    }

    done = command(environment, "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    assert_good(json.loads(done.stdout))
    assert sandboxes(state) == []
    assert not (state / "warden.db").exists()
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_others_may_read_is_a_failure(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    environment = {
        "WARDEN_PORT": "1",
        "WARDEN_STATE_DIR": str(state),
        "WARDEN_HF_CACHE": str(tmp_path / "cache"),
        "WARDEN_DOCKER_SOCKET": str(tmp_path / "none.sock"),
        "WARDEN_WORKER_COMMAND": "/nowhere/worker",
    }

    done = command(environment)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed   State folder and database" in done.stdout
    assert "failed   Loading" in done.stdout


def test_a_bad_setting_keeps_it_from_being_run() -> None:
    assert command({"WARDEN_BIND": "gpu-server"}).returncode == 2
