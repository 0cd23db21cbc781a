"""The real server for tests: gunicorn with the product's configuration, on a free port, in its own folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

ROOT = Path(__file__).parents[2]
START_DEADLINE_S = 30.0
FEW_S = 0.1
"""Poll interval for lasting states that take seconds to reach: each poll costs some milliseconds."""

T = TypeVar("T")


class WardenServer:
    """One Warden: its folders, its process, its JSON interface.

    ``state`` and ``cache`` are folders; ``settings`` are passed as ``WARDEN_*``. ``app`` is the WSGI application, by
    default the product's. The machine's own Docker is never used: without a ``docker_socket`` there is none.
    """

    def __init__(self, state: Path, cache: Path, app: str = "wsgi:app", /, **settings: object) -> None:
        self.state = state
        self.cache = cache
        self._app = app
        self._settings = {"WARDEN_" + key.upper(): str(value) for key, value in settings.items()}
        self.environment: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        """Headers of the JSON calls, for a Warden that requires a sign-in."""
        self.folder = ROOT
        """The current directory of the server."""
        self.started_by: Callable[[list[str]], list[str]] = list
        """Wraps the command that starts the server, for example to run it in a control group."""
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.output: list[str] = []
        self._reader: threading.Thread | None = None

    def start(self) -> WardenServer:
        """Start the server and wait until it prints its address."""
        self.begin()
        self.url = wait_for(
            self._address, START_DEADLINE_S, lambda: "the server did not start:\n" + "\n".join(self.output)
        )
        return self

    def begin(self) -> None:
        """Start the server without waiting."""
        self.output = []
        self.process = subprocess.Popen(
            self.started_by([sys.executable, "-m", "gunicorn", "-c", "webapp/server/gunicorn_conf.py", self._app]),
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), name="server-output")
        self._reader.start()

    def stop(self) -> list[str]:
        """Stop the server as Ctrl+C does; return its output."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._wait_for_the_end(40)
        return self.output

    def kill(self) -> None:
        """Kill the web process and gunicorn's master by SIGKILL."""
        assert self.process is not None
        for process in (psutil.Process(self.process.pid), *self.web_processes()):
            process.kill()
        self._wait_for_the_end(10)

    def kill_web_process(self) -> None:
        """Kill only the web process by SIGKILL; gunicorn's master starts another."""
        for process in self.web_processes():
            process.kill()

    def web_processes(self) -> list[psutil.Process]:
        """Return gunicorn's worker processes (not the model workers, which have their own sessions)."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if os.getsid(child.pid) == self.process.pid]

    def launcher_ready(self) -> None:
        """Wait until workers can be forked."""
        wait_for(self.has_launcher, 90, lambda: "no launcher")

    def has_launcher(self) -> bool:
        """Return whether the launcher of this start is ready; the folder may contain files of earlier ones."""
        folder = self.state / "launcher"
        try:
            record, said = json.loads((folder / "process.json").read_text()), (folder / "log").read_text()
        except FileNotFoundError:
            return False
        is_ours = record["warden_pid"] in {process.pid for process in self.web_processes()}
        return is_ours and f", pid {record['pid']}\n" in said

    def worker_pids(self) -> list[int]:
        """Return the pids of all live processes marked as model workers of this state folder."""
        mark = f"WARDEN_WORKER_ROOT={self.state / 'workers'}".encode()
        return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _has_mark(p, mark)]

    def get(self, path: str) -> Any:
        """GET a JSON path; raises on every status but 200."""
        response = httpx.get(
            self.url + path, headers=self.headers, timeout=10, verify=False
        )  # plain HTTP: reading certificates would take 20 ms
        response.raise_for_status()
        return response.json()

    def post(self, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        """POST JSON and return the answer, whatever its status."""
        return httpx.post(self.url + path, json=body or {}, headers=self.headers, timeout=10, verify=False)

    def status(self) -> Any:
        """Return the status document."""
        return self.get("/api/v1/status")

    def switch(self, model: str, **fields: object) -> Any:
        """Start loading a model; return the accepted operation."""
        response = self.post("/api/v1/switch", {"mode": "transformers", "model": model, **fields})
        assert response.status_code == 202, response.text
        return response.json()

    def load(self, model: str, **fields: object) -> Any:
        """Load a model and wait for the end of the operation."""
        return self.finished(self.switch(model, **fields)["id"])

    def finished(self, operation_id: str, timeout_s: float = 90) -> Any:
        """Wait until an operation has ended; return it."""

        def ended() -> Any:
            operation = self.get(f"/api/v1/operations/{operation_id}")
            return operation if operation["state"] != "running" else None

        return wait_for(ended, timeout_s, lambda: f"operation {operation_id} did not end: {self.status()}", FEW_S)

    def instance_of(self, model: str) -> Any:
        """Return the loaded instance of a model; fails unless there is exactly one."""
        (instance,) = [i for i in self.status()["instances"] if i["model"] == model]
        return instance

    def becomes(self, instance_id: str, state: str, timeout_s: float = 15) -> Any:
        """Wait until an instance has a state; return the instance."""

        def look() -> Any:
            found = [i for i in self.status()["instances"] if i["id"] == instance_id]
            return next((i for i in found if i["state"] == state), None)

        return wait_for(look, timeout_s, lambda: f"{instance_id} is not {state}: {self.status()['instances']}")

    def models(self, count: int = 1) -> Any:
        """Wait until the catalogue lists ``count`` models; return them."""

        def listed() -> Any:
            models = self.get("/api/v1/models")
            return models if len(models) >= count else None

        return wait_for(listed, 15, lambda: "the models did not appear")

    def end_models(self) -> None:
        """End every model worker of this state folder after a test."""
        for pid in self.worker_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_for(lambda: not self.worker_pids(), 10, lambda: f"workers survive: {self.worker_pids()}")

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WARDEN_") and k != "WEB_CONCURRENCY"}
        own = {
            "WARDEN_STATE_DIR": str(self.state),
            "WARDEN_HF_CACHE": str(self.cache),
            "WARDEN_PORT": "0",
            "WARDEN_LAUNCHER": "demand",  # most tests load nothing, and the imports take seconds
            "WARDEN_DOCKER_SOCKET": str(self.state / "no-docker.sock"),
        }
        return {**clean, **own, "PYTHONPATH": str(ROOT), **self._settings, **self.environment}

    def _address(self) -> str | None:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended:\n" + "\n".join(self.output)
        lines = [line for line in self.output if line.startswith("Warden: http")]
        return lines[-1].removeprefix("Warden: ").strip() if lines else None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.output.append(line.rstrip())

    def _wait_for_the_end(self, timeout_s: float) -> None:
        if self.process is not None:
            self.process.wait(timeout_s)
        if self._reader is not None:
            self._reader.join(timeout_s)


def _has_mark(folder: Path, mark: bytes) -> bool:
    try:
        return mark in (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def held_by_workers(server: WardenServer) -> int:
    """Return what Warden's processes hold on the first device, from its list of holders, unaffected by other
    processes."""
    device = server.status()["devices"][0]
    return sum(holder["bytes"] for holder in device["holders"] if holder["kind"] == "worker")


def wait_for(look: Callable[[], T | None], timeout_s: float, complaint: Callable[[], str], pause_s: float = 0.02) -> T:
    """Return the first truthy result of ``look``; fail with ``complaint`` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, complaint()
        time.sleep(pause_s)


@contextmanager
def running(server: WardenServer) -> Iterator[WardenServer]:
    """Start a server for the block and leave nothing of it behind."""
    try:
        yield server.start()
    finally:
        server.stop()
        server.end_models()
