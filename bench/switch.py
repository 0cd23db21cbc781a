"""Time of a switch, and Warden's share of it.

First, the steps of a switch from one tiny model to another, with and without the launcher. Then, for a tiny model and
one of about 1 GB, in turns: a load on an empty device with and without the launcher, the worker alone (started
directly, without Warden), and ``transformers serve`` of the same version (installed under ``build/`` if missing). Steps
are timed by the operations, everything else by the client. Finally, ten small models are loaded one after another, and
the memory that each holds in addition to its weights is printed.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from tests.engine.models import BIG_MODEL, make_big_model, make_model
from tests.engine.server import ROOT, WardenServer, running
from tests.engine.workers.direct import DirectWorker, load_spec

ROUNDS = 4
TURNS = 5
TOKENS = 128
POLL_S = 0.01
SERVE = ROOT / "build" / "serve"
SERVE_PROGRAM = "from transformers.cli.transformers import main; main()"
DEADLINE_S = 120.0
MANY = 10
MIB = 2**20


def main() -> None:
    """Print the steps' medians, then Warden compared with the worker alone and with transformers serve."""
    for launcher in ("start", "off"):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            make_model(cache, "lab/one", seed=1)
            make_model(cache, "lab/two", seed=2)
            with running(WardenServer(Path(folder) / "state", cache, launcher=launcher)) as server:
                server.models(2)
                _measure_steps(server, launcher)
    missing = _install_serve()
    if missing:
        _say(f"transformers serve is left out: {missing}")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        models = {"lab/one": make_model(cache, "lab/one"), BIG_MODEL: make_big_model(cache)}
        for model, snapshot in models.items():
            _compare(Path(folder), cache, model, snapshot, with_serve=not missing)
    _load_many()


# The steps


def _measure_steps(server: WardenServer, launcher: str) -> None:
    times: dict[str, list[float]] = {}
    first_s = 0.0
    if launcher == "start":
        server.launcher_ready()
    for number in range(ROUNDS + 1):
        operation = server.load(("lab/one", "lab/two")[number % 2])
        assert operation["state"] == "succeeded", operation
        if number == 0:
            first_s = _seconds(operation)
            continue
        for step in operation["steps"]:
            times.setdefault(step["name"], []).append(_seconds(step))
        times.setdefault("whole", []).append(_seconds(operation))
    line = ", ".join(f"{name} {sorted(values)[len(values) // 2]:.3f} s" for name, values in times.items())
    _say(f"launcher {launcher}, a first load {first_s:.3f} s; switches, median of {ROUNDS}: {line}")


def _seconds(span: dict[str, Any]) -> float:
    if not span["started_at"] or not span["ended_at"]:
        return 0.0
    return (datetime.fromisoformat(span["ended_at"]) - datetime.fromisoformat(span["started_at"])).total_seconds()


# In turns


def _compare(folder: Path, cache: Path, model: str, snapshot: Path, *, with_serve: bool) -> None:
    times: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)

    with (
        running(WardenServer(folder / f"forked-{snapshot.name}", cache, launcher="start")) as forked,
        running(WardenServer(folder / f"plain-{snapshot.name}", cache, launcher="off")) as plain,
    ):
        for server in (forked, plain):
            server.models(2)
        forked.launcher_ready()
        for turn in range(TURNS + 1):
            found = [
                ("worker alone, spawn to ready", _alone(folder / f"alone-{snapshot.name}-{turn}", model, snapshot))
            ]
            for name, server in (("Warden", forked), ("Warden without a launcher", plain)):
                ready_s, token_s = _apply(server, model)
                found += [(f"{name}, Apply to ready", ready_s), (f"{name}, Apply to first token", token_s)]
            if with_serve:
                start_s, token_s = _serve_once(snapshot)
                found += [
                    ("transformers serve, request to first token", token_s),
                    ("transformers serve, start to first token", start_s + token_s),
                ]
            for name, seconds in found:
                note(name, seconds)
    _say(
        f"{model}, the first time (it fills the page cache, and is the launcher's first fork) and the median of the next {TURNS} "
        f"(shortest to longest), load average {os.getloadavg()[0]:.2f}"
    )
    for name, (first, *later) in times.items():
        _say(f"  {name}: {first:.3f} s; {statistics.median(later):.3f} s ({min(later):.3f} to {max(later):.3f})")
    alone, whole = times["worker alone, spawn to ready"], times["Warden without a launcher, Apply to ready"]
    own = statistics.median(w - a for w, a in zip(whole[1:], alone[1:], strict=True))
    _say(f"  added by Warden without a launcher, median of the differences: {own:.3f} s")


def _alone(folder: Path, model: str, snapshot: Path) -> float:
    with DirectWorker(folder, load_spec(model, snapshot, max_tokens=TOKENS, batch_size=1)) as worker:
        worker.wait_for("ready")
        return time.monotonic() - worker.started_at


def _apply(server: WardenServer, model: str) -> tuple[float, float]:
    """Load the model, ask it for one token, unload it; return the seconds from the request to ready and to the
    token."""
    body = {"mode": "transformers", "model": model, "options": {"max_tokens": TOKENS, "batch_size": 1}}
    with httpx.Client(base_url=server.url, timeout=DEADLINE_S) as client:
        client.get("/healthz")  # open the connection before the clock starts
        began = time.monotonic()
        operation = client.post("/api/v1/switch", json=body).raise_for_status().json()
        operation = _ended(client, operation["id"])
        ready_s = time.monotonic() - began
        assert operation["state"] == "succeeded", operation
        instance = server.instance_of(model)["id"]
        before_s = time.monotonic()
        client.post(f"/api/v1/instances/{instance}/ask", json={"prompt": "a", "max_tokens": 1}).raise_for_status()
        token_s = time.monotonic() - before_s
        _ended(client, client.post(f"/api/v1/instances/{instance}/unload", json={}).raise_for_status().json()["id"])
    return ready_s, ready_s + token_s


def _ended(client: httpx.Client, operation_id: str) -> Any:
    while True:
        operation = client.get(f"/api/v1/operations/{operation_id}").json()
        if operation["state"] != "running":
            return operation
        time.sleep(POLL_S)


# Many models


def _load_many() -> None:
    """Load ten small models together; print the private memory of each worker without its weights."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        sizes = {}
        for number in range(MANY):
            snapshot = make_model(cache, f"lab/small{number}", seed=number, hidden=256, intermediate=1024, layers=4)
            sizes[f"lab/small{number}"] = (snapshot / "model.safetensors").stat().st_size
        with running(WardenServer(Path(folder) / "state", cache, launcher="start")) as server:
            server.models(MANY)
            server.launcher_ready()
            for model in sizes:
                operation = server.load(model, keep_others=True)
                assert operation["state"] == "succeeded", operation
            status = server.status()
        beside = [_held(status, model) - size for model, size in sizes.items()]
        launcher = sum(h["bytes"] for h in status["devices"][0]["holders"] if h["kind"] == "launcher")
    figures = ", ".join(f"{size / MIB:.1f}" for size in beside)
    _say(f"{MANY} models of {min(sizes.values()) / MIB:.1f} MiB, MiB beside the weights of each: {figures}")
    _say(f"  the launcher: {launcher / MIB:.0f} MiB once")


def _held(status: Any, model: str) -> int:
    (instance,) = [one["id"] for one in status["instances"] if one["model"] == model]
    return sum(h["bytes"] for h in status["devices"][0]["holders"] if h["instance_id"] == instance)


# transformers serve


def _install_serve() -> str | None:
    """Create an environment with the server's packages on top of this one; return why that failed, or ``None``."""
    if (SERVE / "bin" / "python").exists():
        return None
    wanted = f"transformers[serving]=={version('transformers')}"
    try:
        _run([sys.executable, "-m", "venv", str(SERVE)])
        (path,) = (SERVE / "lib").glob("python*/site-packages")
        (path / "warden.pth").write_text(sysconfig.get_path("purelib") + "\n")
        _run([str(SERVE / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), wanted])
    except (OSError, subprocess.CalledProcessError) as exc:
        return f"{wanted} cannot be installed ({exc})"
    return None


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _serve_once(snapshot: Path) -> tuple[float, float]:
    """Return the seconds until the server answers, and from a request for the model to its first token."""
    began = time.monotonic()
    with _serving() as client:
        _until(lambda: client.get("/health").is_success)
        start_s = time.monotonic() - began
        began = time.monotonic()
        body = {"model": str(snapshot), "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        client.post("/v1/chat/completions", json=body).raise_for_status()
        return start_s, time.monotonic() - began


@contextmanager
def _serving() -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [str(SERVE / "bin" / "python"), "-c", SERVE_PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
                yield client
        finally:
            process.kill()
            process.wait(10)


def _until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if look():
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_S)
    raise AssertionError("transformers serve does not answer")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
