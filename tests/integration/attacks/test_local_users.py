"""Another person who is logged in to this machine: the state folder, its files, and the worker's socket."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.server import WardenServer, running

NOBODY = 65534
CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid({id})
os.setuid({id})
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except OSError as exc:
    print(type(exc).__name__)
else:
    sock.sendall(b"GET /state HTTP/1.1\\r\\nHost: worker\\r\\n\\r\\n")
    print(sock.recv(100))
try:
    print(os.listdir(sys.argv[2]))
except OSError as exc:
    print(type(exc).__name__)
for name in sys.argv[3:]:
    try:
        print(open(name).read())
    except OSError as exc:
        print(type(exc).__name__)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

Start = Callable[..., WardenServer]


def loaded(start: Start) -> tuple[WardenServer, Path]:
    """A server with a model, and the model's folder."""
    server = start()
    server.load("lab/one")
    return server, server.state / "workers" / server.instance_of("lab/one")["id"]


def test_all_that_warden_keeps_is_its_owners_alone(start_server: Start, tmp_path: Path) -> None:
    """Also in a folder that was open before."""
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)
    server, folder = loaded(start_server)

    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (server.state, *server.state.rglob("*"))}

    assert {path.name for path in modes} >= {"secret_key", "warden.db", "lock", "spec.json", "instance.json"}
    assert modes[server.state] == 0o700
    assert modes[server.state / "workers"] == 0o700
    assert modes[folder] == 0o700
    secret = [path for path in modes if path.name in ("secret_key", "spec.json") or path.name.startswith("warden.db")]
    assert {modes[path] for path in secret} == {0o600}
    inner = [path for path in modes if path.is_relative_to(server.state / "workers") and not path.is_dir()]
    assert not [str(path) for path in inner if modes[path] & 0o077]


@pytest.fixture
def open_place(cache: Path) -> Iterator[Path]:
    """A folder that everybody may enter, unlike those that pytest makes: nothing but Warden's own keeps anybody out."""
    folder = Path(tempfile.mkdtemp(prefix="warden-open-"))
    folder.chmod(0o755)
    (folder / "control").write_text("readable")
    (folder / "control").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


@needs_root
def test_another_user_reaches_neither_the_worker_nor_the_files(open_place: Path, cache: Path) -> None:
    with running(WardenServer(open_place / "state", cache)) as server:
        server.models(3)
        server.load("lab/one")
        folder = server.state / "workers" / server.instance_of("lab/one")["id"]
        (path,) = [path for path in folder.iterdir() if path.is_socket()]
        secrets = [server.state / "secret_key", server.state / "warden.db", folder / "spec.json"]
        said = as_nobody(path, server.state, open_place / "control", *secrets)

    refused = "PermissionError"
    assert said == [refused, refused, "readable", refused, refused, refused]


def as_nobody(*arguments: Path) -> list[str]:
    """What another user finds: at a socket, below a folder, in files."""
    program = [sys.executable, "-I", "-c", CONNECT.format(id=NOBODY), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=True, cwd="/").stdout.split()


def test_who_reaches_the_socket_without_the_token_learns_nothing(start_server: Start) -> None:
    """A program of the same user, or a container with the folder mounted."""
    _, folder = loaded(start_server)
    (path,) = [path for path in folder.iterdir() if path.is_socket()]

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://worker") as client:
        for headers in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": ""}):
            for route in ("/state", "/v1/models", "/health", "/nothing"):
                assert client.get(route, headers=headers).status_code == 401
            for route in ("/stop", "/clean", "/load", "/v1/chat/completions"):
                assert client.post(route, headers=headers, json={}).status_code == 401
    with socket.socket(socket.AF_UNIX) as sock:
        assert sock.connect_ex(str(path)) == 0
