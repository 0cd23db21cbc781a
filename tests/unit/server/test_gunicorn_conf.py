"""The server is one process that starts the services, says where it is, and stops them; a refused start ends it with a reason."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from webapp.settings import NAMES, variable

ROOT = Path(__file__).parents[3]
WAIT_S = 20
SETTINGS = {variable(name) for name in NAMES}

APPLICATION = '''
"""An application with services that tell what happens to them."""
import os
import sys
import threading
from webapp.errors import AlreadyRunning, StoreUnavailable


class Services:
    def start(self, addresses=()):
        problem = os.environ.get("PROBLEM")
        if problem == "running":
            raise AlreadyRunning(state_dir="/state", pid=7)
        if problem == "database":
            raise StoreUnavailable(reason="the disk is full")
        if problem == "defect":
            raise RuntimeError("a defect")
        print("services started", os.getpid(), flush=True)

    def stop(self):
        print("services stopped", flush=True)
        return ("org/small stays loaded", "end it with: warden end")


class Application:
    extensions = {"warden": Services()}

    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/endless":
            return self.endless()
        return [b"hello"]

    def endless(self):
        while True:
            yield b"more "
            threading.Event().wait(0.05)


app = Application()
'''


class Server:
    """gunicorn with the real configuration and the application above."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        (folder / "served.py").write_text(APPLICATION, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            str(ROOT / "webapp" / "server" / "gunicorn_conf.py"),
            *arguments,
        ]
        inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS | {"WEB_CONCURRENCY"}}
        self.process = subprocess.Popen(
            [*command, "--chdir", str(folder), "served:app"],
            cwd=ROOT,
            env=inherited
            | {
                "WARDEN_PORT": "0",
                "WARDEN_STATE_DIR": str(folder),
                "WARDEN_CONFIG": str(folder / "none"),
                "HOME": str(folder),
            }
            | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def lines_until(self, start: str) -> list[str]:
        """What it prints up to the first line that begins with ``start``."""
        assert self.process.stdout
        lines: list[str] = []
        while line := self.process.stdout.readline():
            lines.append(line.rstrip())
            if line.startswith(start):
                return lines
        raise AssertionError("\n".join(["it ended after:", *lines]))

    def address(self) -> tuple[str, int]:
        host, _, port = self.lines_until("Warden: http://")[-1].removeprefix("Warden: http://").rpartition(":")
        return host.strip("[]"), int(port)

    def stopped_by(self, number: signal.Signals, *, group: bool = False) -> str:
        """Signal it, wait, and return what it printed after that."""
        os.killpg(self.process.pid, number) if group else self.process.send_signal(number)
        return self.process.communicate(timeout=WAIT_S)[0]

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*arguments: str, **variables: str) -> Server:
        servers.append(Server(tmp_path, *arguments, **variables))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def get(address: tuple[str, int], path: str = "/") -> bytes:
    connection = http.client.HTTPConnection(*address, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_it_says_where_it_is_once_the_services_run(serve: Callable[..., Server]) -> None:
    server = serve()

    started = server.lines_until("services started")[-1]
    address = server.address()

    assert get(address) == b"hello"
    assert psutil.Process(int(started.split()[-1])).ppid() == server.process.pid


@pytest.mark.parametrize("group", [False, True], ids=["to the server", "Ctrl+C in a terminal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_stops_the_services_once_and_says_what_stays_loaded(
    serve: Callable[..., Server], number: signal.Signals, group: bool
) -> None:
    server = serve()
    server.address()

    said = server.stopped_by(number, group=group)

    assert said.splitlines()[:3] == ["services stopped", "org/small stays loaded", "end it with: warden end"]
    assert said.count("services stopped") == 1
    assert server.process.returncode == 0


def test_an_endless_answer_does_not_cost_the_services_their_stop(serve: Callable[..., Server]) -> None:
    server = serve()
    connection = http.client.HTTPConnection(*server.address(), timeout=WAIT_S)
    connection.request("GET", "/endless")
    answer = connection.getresponse()
    assert answer.read(5) == b"more "

    server.process.send_signal(signal.SIGTERM)
    server.lines_until("services stopped")

    answer.close()
    connection.close()


def test_idle_connections_take_no_thread(serve: Callable[..., Server]) -> None:
    address = serve(WARDEN_THREADS="2").address()
    tabs = [http.client.HTTPConnection(*address, timeout=WAIT_S) for _ in range(50)]
    try:
        for _ in range(2):
            for tab in tabs:
                tab.request("GET", "/")
                assert tab.getresponse().read() == b"hello"
    finally:
        for tab in tabs:
            tab.close()


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        ("running", "Warden cannot start: process 7 is a Warden that uses /state."),
        ("database", "Warden cannot start: the database is not responding (the disk is full)."),
    ],
)
def test_a_refused_start_ends_the_server_with_one_sentence(
    serve: Callable[..., Server], problem: str, sentence: str
) -> None:
    server = serve(PROBLEM=problem)

    said, _ = server.process.communicate(timeout=WAIT_S)

    assert server.process.returncode == 3
    assert said.count(sentence) == 1
    assert "Traceback" not in said
    assert "stays loaded" not in said


def test_a_defect_at_the_start_ends_the_server_with_its_traceback(serve: Callable[..., Server]) -> None:
    server = serve(PROBLEM="defect")

    said, _ = server.process.communicate(timeout=WAIT_S)

    assert server.process.returncode == 3
    assert "RuntimeError: a defect" in said


def test_a_setting_that_cannot_be_meant_ends_it_before_anything_starts(serve: Callable[..., Server]) -> None:
    server = serve(WARDEN_BIND="gpu-server")

    said, _ = server.process.communicate(timeout=WAIT_S)

    assert server.process.returncode == 1
    assert said.startswith("Warden cannot start: WARDEN_BIND=gpu-server cannot be used: 'gpu-server' does not appear")
    assert len(said.splitlines()) == 1


def test_a_taken_port_ends_it_at_once_with_one_sentence(serve: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = serve(WARDEN_PORT=str(taken.getsockname()[1]))

        said, _ = server.process.communicate(timeout=WAIT_S)

    assert server.process.returncode == 1
    assert "Address already in use" in said
    assert "WARDEN_PORT chooses another port" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        ((), {"WEB_CONCURRENCY": "4"}, "WEB_CONCURRENCY=4 is ignored"),
        (("--workers", "4"), {}, "4 worker processes were asked for"),
    ],
)
def test_it_stays_one_process_and_says_so(
    serve: Callable[..., Server], arguments: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    server = serve(*arguments, **variables)

    said = server.lines_until("Warden: http")

    assert any(line.startswith(sentence) for line in said)
    assert len(psutil.Process(server.process.pid).children()) == 1


def has_ipv6_loopback() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no IPv6")
def test_it_listens_on_ipv6_when_asked(serve: Callable[..., Server]) -> None:
    address = serve(WARDEN_BIND="::1").address()

    assert address[0] == "::1"
    assert get(address) == b"hello"


def test_nothing_that_a_request_asks_is_logged_and_no_control_socket_is_made(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(WARDEN_LOG_LEVEL="DEBUG")
    get(server.address(), "/page?token=secret")

    said = server.stopped_by(signal.SIGTERM)

    assert '"GET /page"' in said
    assert "secret" not in said
    assert [path.name for path in tmp_path.rglob("*") if path.is_socket()] == []


def test_tls_is_refused_with_the_way_to_have_it(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "certificate").write_text("x")
    server = serve("--certfile", str(tmp_path / "certificate"))

    said = server.process.communicate(timeout=WAIT_S)[0]

    assert server.process.returncode != 0
    assert "WARDEN_TRUSTED_PROXIES" in said
    assert "Traceback" not in said
