"""A switch on a server that has run out of something: what is loaded stays loaded, and no model is blamed."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.engine.models import make_model
from tests.engine.server import WardenServer, wait_for

Start = Callable[..., WardenServer]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    for number, name in enumerate(("lab/one", "lab/two")):
        make_model(folder, name, seed=number)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a disk of its own."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", state], check=True)
    yield state
    subprocess.run(["umount", "--lazy", state], check=True)


@pytest.fixture
def start(cache: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[WardenServer] = []

    def begin(**settings: object) -> WardenServer:
        server = WardenServer(tmp_path / "state", cache, **settings)
        started.append(server)
        return server.start()

    yield begin
    for server in started:
        server.stop()
        server.end_models()


def outcome(server: WardenServer, model: str) -> str:
    """The code with which a switch to ``model`` was refused or failed."""
    answer = server.post("/api/v1/switch", {"mode": "transformers", "model": model})
    if answer.status_code != 202:
        return str(answer.json()["code"])
    operation = server.finished(answer.json()["id"])
    return str((operation["error"] or {"code": "none"})["code"])


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_costs_no_model_and_is_over_with_the_shortage(start: Start) -> None:
    server = start()
    server.models(2)
    assert server.load("lab/one")["state"] == "succeeded"
    loaded = server.instance_of("lab/one")["id"]
    ballast = server.state / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass

    assert outcome(server, "lab/two") in ("disk_full", "not_stored")
    assert server.instance_of("lab/one")["id"] == loaded
    assert server.post(f"/api/v1/instances/{loaded}/ask", {"prompt": "a", "max_tokens": 2}).status_code == 200

    ballast.unlink()
    wait_for(lambda: outcome(server, "lab/two") == "none", 20, lambda: "it was not over")
    assert server.instance_of("lab/two")["state"] == "ready"


def test_no_free_descriptor_costs_no_model_and_is_over_with_the_shortage(start: Start) -> None:
    server = start()
    server.models(2)
    assert server.load("lab/one")["state"] == "succeeded"
    loaded = server.instance_of("lab/one")["id"]
    (web,) = server.web_processes()
    body = {"mode": "transformers", "model": "lab/two"}

    with httpx.Client(base_url=server.url, timeout=30) as client:
        client.get("/healthz").raise_for_status()  # a connection that is there already
        with no_more_descriptors(web.pid):
            answer = client.post("/api/v1/switch", json=body).json()
            operation = client.get(f"/api/v1/operations/{answer['id']}").json() if "id" in answer else answer
            while operation.get("state") == "running":
                operation = client.get(f"/api/v1/operations/{answer['id']}").json()

    assert (operation.get("error") or operation)["code"] in ("too_many_files", "not_stored")
    assert server.instance_of("lab/one")["id"] == loaded
    wait_for(lambda: outcome(server, "lab/two") == "none", 20, lambda: "it was not over")


@contextmanager
def no_more_descriptors(pid: int) -> Iterator[None]:
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = next(number for number in range(len(used) + 1) if number not in used)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
