"""A worker program without Warden: a test starts, queries and ends it directly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from webapp.runtimes.chat import unix_client
from webapp.runtimes.protocol import LoadSpec, StateReport, WorkerSpec, decode, encode
from webapp.runtimes.sockets import ask

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-token-that-nobody-prints"
PATIENCE_S = 90.0


def load_spec(model_id: str, snapshot: Path, **changes: Any) -> LoadSpec:
    values: dict[str, Any] = {
        "model_id": model_id,
        "revision": snapshot.name,
        "snapshot": str(snapshot),
        "device": "cpu",
        "visible_devices": None,
        "dtype": "auto",
        "quantization": "none",
        "max_tokens": 128,
        "batch_size": 2,
    }
    return LoadSpec(**(values | changes))


class DirectWorker:
    """One process of ``command`` in ``folder``; a context manager that kills it at the end."""

    def __init__(
        self, folder: Path, load: LoadSpec | None, *, command: tuple[str, ...] = ("-m", "webapp.worker")
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, mode=0o700)
        (folder / "spec.json").write_bytes(encode(WorkerSpec("direct", TOKEN, load)))
        self.started_at = time.monotonic()
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--dir", str(folder)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> DirectWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def state(self) -> StateReport:
        return decode(StateReport, self.ask("GET", "/state"))

    def ask(self, method: str, route: str, value: Mapping[str, Any] | None = None, timeout_s: float = 20.0) -> bytes:
        body = None if value is None else json.dumps(value).encode()
        return ask(str(self.folder / "s"), TOKEN, method, route, body=body, timeout_s=timeout_s)

    def load(self, spec: LoadSpec) -> None:
        self.ask("POST", "/load", asdict(WorkerSpec("late", "", spec)))

    def post(self, route: str, value: Mapping[str, Any] | bytes, token: str = TOKEN) -> httpx.Response:
        """Send a request and return the answer, whatever its status."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = {"Authorization": f"Bearer {token}"}
        with unix_client(str(self.folder / "s"), timeout=httpx.Timeout(60.0), headers=headers) as client:
            return client.post(route, content=content)

    def wait_for(self, *states: str) -> StateReport:
        """Wait until the worker reports one of ``states``."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if (self.folder / "s").exists() and (report := self.state()).state in states:
                return report
            assert self.process.poll() is None, self.log
            time.sleep(0.02)
        raise AssertionError(f"not {states} in time:\n{self.log}")

    def wait_for_socket(self) -> float:
        """Wait for the first answer; return its time after the start."""
        while True:
            try:
                self.state()
            except Exception as exc:
                if time.monotonic() - self.started_at > PATIENCE_S or self.process.poll() is not None:
                    raise AssertionError(self.log) from exc
                time.sleep(0.005)
            else:
                return time.monotonic() - self.started_at
