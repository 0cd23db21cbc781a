"""Time that vLLM mode adds to a plain ``docker run`` of the same command, and whether it leaves anything behind.

Exit code 1 if Warden adds more than ``MORE_S`` or leaves something behind.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from tests.engine import images
from tests.engine.dockerd import PrivateEngine, private_engine
from tests.engine.engine_fixtures import engine_settings
from tests.engine.models import make_model
from tests.engine.server import WardenServer, running

MODEL = "lab/one"
ROUNDS = 7
REAL_CYCLES = 3
OPTIONS = {"max_tokens": 256, "batch_size": 1}
POLL_S = 0.1
DEADLINE_S = 180.0
MORE_S = {"start": 1.0, "stop": 0.5}
"""How much Warden may add, in seconds."""


def main() -> None:
    """Print the overhead with the stand-in, then cycles of the real vLLM."""
    with private_engine("docker-bench", gpu_hook=True) as engine, tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        make_model(cache, MODEL, hidden=256, heads=4, kv_heads=2, intermediate=256)
        images.load_standin(engine)
        with running(WardenServer(Path(folder) / "state", cache, **engine_settings(engine))) as server:
            kept = _overhead(server, engine, "stand-in", ROUNDS)
        real = engine_settings(
            engine,
            vllm_image=images.load_real(engine),
            vllm_mounts=f'["{images.SITE_MOUNT}"]',
            vllm_args="--enforce-eager",
        )
        with running(WardenServer(Path(folder) / "state-real", cache, **real)) as server:
            kept = _overhead(server, engine, "real vLLM", REAL_CYCLES) and kept
    if not kept:
        sys.exit(1)


def _overhead(server: WardenServer, engine: PrivateEngine, what: str, rounds: int) -> bool:
    """Alternate between Warden and Docker alone with the same command; return whether Warden is within its limits."""
    server.models(1)
    _cycle(server, engine)  # the first start of each image reads it from the disk
    before = _left(server, engine)
    times: dict[str, list[float]] = {"apply": [], "run": [], "unload": [], "stop": []}
    for _ in range(rounds):
        command, apply_s, unload_s = _cycle(server, engine)
        run_s, stop_s = _plain(engine, command)
        for name, seconds in zip(times, (apply_s, run_s, unload_s, stop_s), strict=True):
            times[name].append(seconds)
    after = _left(server, engine)
    line = ", ".join(f"{name} {median(values):.2f} s" for name, values in times.items())
    more = median(a - r for a, r in zip(times["apply"], times["run"], strict=True))
    longer = median(u - s for u, s in zip(times["unload"], times["stop"], strict=True))
    sys.stdout.write(f"{what}, {rounds} cycles, medians: {line}; start {more:+.2f} s, stop {longer:+.2f} s\n")
    sys.stdout.write(f"  before {before}\n  after  {after}\n")
    over = [name for name, seconds in (("start", more), ("stop", longer)) if seconds > MORE_S[name]]
    grown = [name for name in ("containers", "volumes", "listening ports") if after[name] > before[name]]
    if over or grown:
        sys.stdout.write(f"  NOT KEPT: {', '.join([*over, *grown])}\n")
    return not over and not grown


def _cycle(server: WardenServer, engine: PrivateEngine) -> tuple[list[str], float, float]:
    """Load and unload once; return the arguments of ``docker run`` for the same container, and both times in
    seconds."""
    loaded = _ended(server, server.switch(MODEL, mode="vllm", options=OPTIONS)["id"])
    assert loaded["state"] == "succeeded", loaded
    (container,) = engine.containers()
    command = _as_run(engine, container)
    instance = server.instance_of(MODEL)["id"]
    ended = _ended(server, server.post(f"/api/v1/instances/{instance}/unload").json()["id"])
    assert ended["state"] == "succeeded", ended
    return command, _seconds(loaded), _seconds(ended)


def _ended(server: WardenServer, operation_id: str) -> Any:
    """Wait for an operation, polling as rarely as for the plain container: polling slows down the start."""
    deadline = time.monotonic() + DEADLINE_S
    with httpx.Client(base_url=server.url, verify=False) as client:
        while (operation := client.get(f"/api/v1/operations/{operation_id}").json())["state"] == "running":
            assert time.monotonic() < deadline, operation
            time.sleep(POLL_S)
    return operation


def _as_run(engine: PrivateEngine, container: str) -> list[str]:
    """Return the arguments with which ``docker run`` starts the same container."""
    form = "{{range .Config.Env}}--env={{.}}\n{{end}}"
    form += "{{range .HostConfig.Mounts}}--mount=type={{.Type}},source={{.Source}},target={{.Target}}"
    form += "{{if .ReadOnly}},readonly{{end}}\n{{end}}"
    options = engine.cli("inspect", "--format", form, container).splitlines()
    words = engine.cli("inspect", "--format", "{{.Config.Image}}\n{{range .Config.Cmd}}{{.}}\n{{end}}", container)
    key = next(o for o in options if o.startswith("--env=VLLM_API_KEY=")).rpartition("=")[2]
    return [key, "--init", "--ipc=host", "--publish=127.0.0.1:18299:8000", *filter(None, options), *words.splitlines()]


def _plain(engine: PrivateEngine, command: list[str]) -> tuple[float, float]:
    """Run it with Docker alone; return the seconds until it answers (polled every 100 ms), and until it is removed."""
    key, *arguments = command
    began = time.monotonic()
    container = engine.cli("run", "--detach", *arguments)
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=1, verify=False) as client:
        while not _answers(client):
            time.sleep(POLL_S)
    ready = time.monotonic()
    engine.cli("stop", container)
    engine.cli("rm", container)
    return ready - began, time.monotonic() - ready


def _answers(client: httpx.Client) -> bool:
    try:
        answer = client.get("http://127.0.0.1:18299/v1/models")
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


def _left(server: WardenServer, engine: PrivateEngine) -> dict[str, int]:
    """Count what a cycle could leave behind."""
    (web,) = server.web_processes()
    counts: dict[str, Callable[[], int]] = {
        "containers": lambda: len(engine.containers()),
        "volumes": lambda: len(engine.volumes()),
        "threads": web.num_threads,
        "open files": web.num_fds,
        "listening ports": lambda: len([c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]),
    }
    return {name: count() for name, count in counts.items()}


def _seconds(operation: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(operation[key]) for key in ("started_at", "ended_at"))
    return (ended - began).total_seconds()
