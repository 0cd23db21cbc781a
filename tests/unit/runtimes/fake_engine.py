"""A Docker engine in memory: containers without processes, and what goes wrong when one is asked for."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from webapp.errors import EngineFailed, EngineUnreachable
from webapp.runtimes.vllm.command import ContainerPlan
from webapp.runtimes.vllm.docker.connections import LogStream
from webapp.runtimes.vllm.docker.containers import ContainerSummary, Inspected
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone, PortInUse

FAILED = EngineFailed(socket="/run/docker.sock", detail="500")
SILENT = EngineUnreachable(socket="/run/docker.sock", detail="no answer in 1 s")


@dataclass
class FakeContainer:
    """One container. ``state`` is Docker's word."""

    id: str
    name: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    state: str = "created"
    image: str = "vllm/vllm-openai:latest"
    pid: int | None = None
    log: bytes = b""
    exit_code: int | None = None


@dataclass
class FakeEngine(DockerEngine):
    """Knobs by container name: ``fails`` to be inspected, ``kept`` by a remove that fails; ``ports_in_use`` starts that lose their port."""

    containers_by_id: dict[str, FakeContainer] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=lambda: {"vllm/vllm-openai:latest": "sha256:" + "a" * 64})
    """By name, the ids of their contents."""
    fails: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    ports_in_use: int = 0
    late_start: bool = False
    """A start that is not confirmed in time and takes place all the same."""
    away: bool = False
    """Whether nobody answers."""
    started: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    removals: int = 0
    looks: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def socket(self) -> str:
        return "/run/docker.sock"

    def put(self, name: str, **fields: Any) -> FakeContainer:
        """Have a container that was there before."""
        container = FakeContainer(f"{next(self._numbers):064x}", name, **{"labels": {}, "environment": {}, **fields})
        self.containers_by_id[container.id] = container
        return container

    def image_id(self, image: str) -> str | None:
        self._meet()
        return self.images.get(image)

    def containers(self, label: str | None = None) -> tuple[ContainerSummary, ...]:
        self._meet()
        self.looks += label is None
        name, _, value = (label or "").partition("=")
        return tuple(
            ContainerSummary(c.id, c.name, c.image, c.state, 1.0, c.labels)
            for c in self.containers_by_id.values()
            if label is None or c.labels.get(name) == value
        )

    def inspect(self, container: str) -> Inspected:
        self._meet()
        found = self._find(container)
        if found.name in self.fails:
            raise FAILED
        runs = found.state in ("running", "paused")
        return Inspected(
            id=found.id,
            name=found.name,
            image=found.image,
            status=found.state,
            running=runs,
            pid=found.pid if runs else None,
            exit_code=found.exit_code,
            oom_killed=False,
            error="",
            labels=found.labels,
            arguments=("vllm", "serve", "somebody/model"),
            environment=found.environment,
        )

    def create(self, plan: ContainerPlan) -> str:
        self._meet()
        return self.put(plan.name, labels=plan.labels, environment=plan.environment).id

    def start(self, container: str, model: str | None) -> None:
        self._meet()
        self.started.append(container)
        if self.ports_in_use:
            self.ports_in_use -= 1
            raise PortInUse
        self._find(container).state = "running"
        if self.late_start:
            raise SILENT

    def signal(self, container: str, name: str) -> None:
        found = self._find(container)
        if found.state == "running":
            self.killed.append(found.name)
            found.state, found.exit_code = "exited", 137

    def remove(self, container: str) -> None:
        self._meet()
        self.removals += 1
        if (found := self.containers_by_id.get(container)) is not None:
            if found.name in self.kept:
                raise FAILED
            del self.containers_by_id[container]

    def exists(self, container: str) -> bool:
        return container in self.containers_by_id

    def tail(self, container: str, lines: int) -> bytes:
        return self._find(container).log

    def follow(self, container: str, *, since: float | None, tail: int) -> LogStream:
        return _Said(self._find(container))

    def _meet(self) -> None:
        if self.away:
            raise SILENT

    def _find(self, container: str) -> FakeContainer:
        try:
            return self.containers_by_id[container]
        except KeyError:
            raise ContainerGone(container) from None


class _Said(LogStream):
    """The log so far; it ends with the container, or when it is closed."""

    def __init__(self, container: FakeContainer) -> None:
        self._container = container
        self._pieces = iter([container.log] if container.log else [])
        self._closed = threading.Event()

    def __next__(self) -> bytes:
        if (piece := next(self._pieces, None)) is not None:
            return piece
        while self._container.state == "running" and not self._closed.wait(0.01):
            pass
        raise StopIteration

    def close(self) -> None:
        self._closed.set()


@contextmanager
def serving(model: str, metrics: bytes | None = None) -> Iterator[int]:
    """Answer as vLLM does, that it serves ``model``, and with ``metrics`` how busy it is; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": model}]}).encode()
            if metrics is not None and self.path == "/metrics":
                body = metrics
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
