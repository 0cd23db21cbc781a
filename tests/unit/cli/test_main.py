"""The ``warden`` command answers in sentences, and asks the running server rather than the machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import webapp
from tests.web.fakes import FakeController, instance, reading, worker
from webapp.cli.main import main
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.units import GIB
from webapp.web.api import documents

BUSY = FakeController(
    readings=(
        reading(name="L40S", total=48 * GIB, held=(worker("i1", 2 * GIB),)),
        reading("gpu-1", name=None, total_bytes=None, used_bytes=None, free_bytes=None),
    ),
    instances=(instance("i1", "org/small", owner="anna", measured_bytes={"gpu-0": 2 * GIB}),),
    mode_problems=dict.fromkeys(Mode),
    running=(Operation("o1", OperationKind.SWITCH, "boris", OperationState.RUNNING, 1767225600.0, ()),),
)


class Answering:
    """A server that gives one answer to everything."""

    def __init__(self, status: int, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> Mapping[str, str]:
        self.thread.start()
        return {"WARDEN_PORT": str(self.server.server_port)}

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WARDEN_STATE_DIR", str(tmp_path))
        environment.setenv("WARDEN_CONFIG", str(tmp_path / "none.toml"))
        environment.setenv("COLUMNS", "200")
        yield tmp_path


def warden(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


def test_status_shows_memory_models_and_what_runs(folder: Path) -> None:
    """A later version may add fields; they are ignored."""
    status = {**documents.status(BUSY.snapshot()).model_dump(), "colour": "blue"}
    with Answering(200, json.dumps(status).encode()) as env:
        result = warden("status", env=env)

    assert result.exit_code == 0, result.output
    rows = [line.replace("│", " ").split() for line in result.output.splitlines()]
    assert ["gpu-0", "L40S", "48.00", "GiB", "2.00", "GiB", "45.60", "GiB", "good"] in rows
    assert ["gpu-1", "n/a", "n/a", "n/a", "n/a"] in rows
    assert "org/small (transformers, ready): 2.00 GiB on gpu-0, owner: anna" in result.output
    assert "switch by boris since 2026-01-01T00:00:00.000Z" in result.output


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (503, b"{}", "answers 503"),
        (401, b"{}", "put it into WARDEN_TOKEN"),
        (
            409,
            b'{"title": "t", "status": 409, "code": "stopping", "detail": "Warden is stopping.", "params": {}}',
            "Error: Warden is stopping.",
        ),
        (200, b"<html>", "is not Warden"),
        (200, b"[]", "is not Warden"),
        (200, b'{"devices": []}', "is not Warden"),
    ],
)
def test_status_of_something_else_says_so(folder: Path, status: int, body: bytes, sentence: str) -> None:
    with Answering(status, body) as env:
        result = warden("status", env=env)

    assert result.exit_code == 1
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_status_without_a_server_says_how_to_start_one(folder: Path) -> None:
    result = warden("status", env={"WARDEN_PORT": "1"})

    assert result.exit_code == 1
    assert "no Warden answers at http://127.0.0.1:1" in result.output
    assert "warden run" in result.output


def test_run_becomes_the_server_with_the_programs_configuration_and_absolute_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server changes to the folder of the program, where a relative path would name another file."""
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execv", lambda program, command: started.append((command, dict(os.environ))))
    monkeypatch.chdir(folder)

    relative = {"WARDEN_STATE_DIR": "state", "WARDEN_HF_CACHE": "cache", "WARDEN_CONFIG": "warden.toml"}
    result = warden("run", env=relative)

    assert result.exit_code == 0, result.output
    (((_, *options), environment),) = started
    assert options == ["-P", "-m", "gunicorn", "-c", str(Path(webapp.__file__).parent / "server" / "gunicorn_conf.py")]
    assert {name: environment[name] for name in relative} == {
        name: str(folder / value) for name, value in relative.items()
    }


def test_the_version_is_printed(folder: Path) -> None:
    assert warden("--version").output == f"warden, version {webapp.__version__}\n"


@pytest.mark.parametrize("command", ["run", "status", "end", "settings"])
def test_a_bad_setting_is_one_sentence_for_every_command(folder: Path, command: str) -> None:
    result = warden(command, env={"WARDEN_BIND": "gpu-server"})

    assert result.exit_code == 1
    assert result.output.startswith(
        "Error: Warden cannot start: WARDEN_BIND=gpu-server cannot be used: 'gpu-server' does not appear"
    )


def test_settings_shows_the_values_in_force_and_no_password(folder: Path) -> None:
    secret = {"WARDEN_DATABASE_URL": "postgresql://anna:hunter2@db/warden", "WARDEN_QUEUE_LIMIT": "3"}

    result = warden("settings", env=secret)

    rows = [line.replace("│", " ").split() for line in result.output.splitlines()]
    assert any(row[:3] == ["WARDEN_QUEUE_LIMIT", "3", "8"] for row in rows)
    assert any(row[:3] == ["WARDEN_DATABASE_URL", "(set)", "none"] for row in rows)
    assert "hunter2" not in result.output


def test_settings_as_markdown_does_not_depend_on_the_machine(folder: Path) -> None:
    one, other = (
        warden("settings", "--markdown"),
        warden("settings", "--markdown", env={"HOME": "/elsewhere", "WARDEN_PORT": "1"}),
    )

    assert one.output == other.output
    assert str(folder) not in one.output
    assert "| `WARDEN_ON_STOP` | keep, unload | `keep` |" in one.output


def test_end_asks_before_it_ends_anything(folder: Path) -> None:
    result = CliRunner().invoke(main, ["end"], input="n\n")

    assert result.exit_code == 1
    assert f"End every model that Warden started from {folder}?" in result.output
    assert list(folder.iterdir()) == []
