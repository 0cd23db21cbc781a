"""Warden in this process, its Docker engine real and its own: what the tests of vLLM mode start, ask and count."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine.dockerd import BUILD, PrivateEngine
from tests.engine.engine_fixtures import engine_settings, variables
from tests.engine.models import make_model
from tests.engine.server import WardenServer, wait_for
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.runtimes.base import LaunchDevice, LaunchSpec
from webapp.runtimes.vllm.runtime import VllmRuntime
from webapp.services import Services
from webapp.settings import Settings, load_settings

ACTOR = "ann"
MODELS = ("lab/one", "lab/two", "lab/three")
OPTIONS = LaunchOptions(max_tokens=256)
PORTS = "18300-18399"
VOLUME = "warden-vllm-cache"
QUICK: dict[str, Any] = {
    "docker_poll_s": 0.3,
    "docker_timeout_s": 5,
    "docker_start_timeout_s": 5,
    "reading_interval_s": 0.5,
    "busy_reading_interval_s": 0.1,
    "settle_poll_s": 0.1,
    "settle_deadline_s": 3,
    "launch_stall_s": 3,
    "cooldown_s": 0,
    "vllm_ports": PORTS,
    "vllm_drain_s": 0,
    "vllm_term_s": 1.5,
    "vllm_kill_s": 3,
}
"""Settings that make every wait of Warden's short."""
ENDED = (OperationState.SUCCEEDED, OperationState.WARNING)
"""How an unload may end: on the host's RAM what other programs take meanwhile can outweigh a small container's memory.
"""
TABLE = BUILD / "vllm_faults.md"


def standin(fault: str | None = None, **values: object) -> tuple[str, ...]:
    """The containers' environment: what goes wrong, and further ``STANDIN_*``."""
    faults = {} if fault is None else {"fault": fault}
    return tuple(f"STANDIN_{name.upper()}={value}" for name, value in {**faults, **values}.items())


def switch_request(model: str, mode: Mode = Mode.VLLM, **fields: Any) -> SwitchRequest:
    """What a person asks for."""
    return SwitchRequest(**{"mode": mode, "model_id": model, "options": OPTIONS, **fields})


class Warden:
    """One Warden without its web layer."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.services = Services(settings)
        self.controller = self.services.controller

    def start(self) -> Warden:
        """Start it and wait until it knows the models."""
        self.services.start()
        wait_for(lambda: len(self.controller.snapshot().models) >= len(MODELS), 15, lambda: "no models were found")
        return self

    def stop(self) -> None:
        """Stop it; what is loaded stays."""
        self.services.stop()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """What is listed."""
        return self.controller.snapshot().instances

    def finished(self, operation: Operation, timeout_s: float = 60) -> Operation:
        """Wait until an operation has ended; return it."""

        def ended() -> Operation | None:
            now = self.controller.operation(operation.id)
            return None if now.is_running else now

        return wait_for(ended, timeout_s, lambda: f"it does not end: {self.controller.operation(operation.id)}")

    def switch(self, model: str, mode: Mode = Mode.VLLM, **fields: Any) -> Operation:
        """Load a model and wait for the end."""
        return self.finished(self.controller.switch(switch_request(model, mode, **fields), ACTOR))

    def load(self, model: str, mode: Mode = Mode.VLLM, **fields: Any) -> Instance:
        """Load a model; fail where it does not become ready."""
        operation = self.switch(model, mode, **fields)
        assert operation.state is OperationState.SUCCEEDED, operation
        (instance,) = [i for i in self.instances if i.model_id == model]
        return instance

    def unload(self, instance: Instance) -> Operation:
        """Unload and wait for the end."""
        return self.finished(self.controller.unload(instance.id, ACTOR))

    def becomes(self, instance: Instance, state: InstanceState, timeout_s: float = 15) -> Instance:
        """Wait until an instance is listed with ``state``; return it."""

        def look() -> Instance | None:
            return next((i for i in self.instances if i.id == instance.id and i.state is state), None)

        return wait_for(look, timeout_s, lambda: f"{instance.id} is not {state}: {self.instances}")

    def free_bytes(self) -> int:
        """The host's free memory, as a page shows it."""
        sample = self.controller.snapshot().sample
        assert sample is not None
        (reading,) = sample.readings
        assert reading.free_bytes is not None
        return reading.free_bytes

    def problem(self) -> str | None:
        """Why vLLM mode cannot be chosen, as a code."""
        message = self.controller.snapshot().mode_problems[Mode.VLLM]
        return None if message is None else message.code

    def becomes_possible(self, problem: str | None, timeout_s: float = 15) -> None:
        """Wait until vLLM mode has this problem, or none."""
        wait_for(lambda: self.problem() == problem, timeout_s, lambda: f"{self.problem()}, not {problem}")


StartWarden = Callable[..., Warden]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with three tiny models; no test changes it."""
    folder = tmp_path_factory.mktemp("cache")
    for number, name in enumerate(MODELS):
        make_model(folder, name, seed=number)
    return folder


@pytest.fixture
def settings(tmp_path: Path, cache: Path, engine: PrivateEngine) -> Callable[..., Settings]:
    """Make settings for the private engine with short waits."""

    def make(**values: Any) -> Settings:
        own = {"state_dir": tmp_path / "state", "hf_cache": cache}
        return load_settings(**{**engine_settings(engine), **own, **QUICK, **values})

    return make


@pytest.fixture
def warden(settings: Callable[..., Settings]) -> Iterator[StartWarden]:
    """Start Wardens; each is stopped at the end, and everything of its own ended before."""
    started: list[Warden] = []

    def start(**values: Any) -> Warden:
        one = Warden(settings(**values))
        started.append(one)
        return one.start()

    yield start
    for one in started:
        if one.instances:
            one.finished(one.controller.emergency(ACTOR))
        one.stop()


@pytest.fixture
def runtime(settings: Callable[..., Settings]) -> Iterator[Callable[..., VllmRuntime]]:
    """Start runtimes without a controller; each is stopped at the end."""
    started: list[VllmRuntime] = []

    def start(**values: Any) -> VllmRuntime:
        one = VllmRuntime(settings(**values))
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        one.stop()


StartServer = Callable[..., WardenServer]


@pytest.fixture
def server(tmp_path: Path, cache: Path, engine: PrivateEngine) -> Iterator[StartServer]:
    """Start the real server; it and its models are ended with the test."""
    started: list[WardenServer] = []

    def start(**settings: object) -> WardenServer:
        values: dict[str, object] = {**engine_settings(engine), **QUICK, "vllm_env": variables(), **settings}
        one = WardenServer(tmp_path / "state", cache, **values)
        started.append(one)
        one.start()
        one.models(len(MODELS))
        return one

    yield start
    for one in started:
        one.stop()
        one.end_models()


def load(server: WardenServer, model: str, mode: str = "vllm", **fields: object) -> Any:
    """Load a model through the JSON interface; return the instance."""
    operation = server.load(model, mode=mode, options={"max_tokens": 256}, **fields)
    assert operation["state"] == "succeeded", operation
    return server.instance_of(model)


def launch_spec(cache: Path, *devices: LaunchDevice, instance_id: str = "0123456789ab") -> LaunchSpec:
    """Return a launch of the first model, by default on the host."""
    (snapshot,) = (cache / "models--lab--one" / "snapshots").iterdir()
    return LaunchSpec(
        instance_id=instance_id,
        operation_id="operation",
        model_id=MODELS[0],
        revision=snapshot.name,
        snapshot=snapshot,
        options=OPTIONS,
        devices=devices or (LaunchDevice("host", DeviceKind.HOST, None, None),),
        owner=ACTOR,
    )


@dataclass(frozen=True)
class Traces:
    """What a start can leave on an engine and on the machine."""

    containers: frozenset[str]
    volumes: frozenset[str]
    processes: frozenset[int]
    ports: frozenset[int]
    shared: frozenset[str]
    """Files of /dev/shm that the stand-in has made."""


class Witness:
    """Knows every container that an engine has made since a moment, also those that are gone.

    An engine keeps its last 256 events, some ten for each container: who makes many asks in between.
    """

    def __init__(self, engine: PrivateEngine) -> None:
        self._engine = engine
        self._since = time.time()
        self._seen: frozenset[str] = frozenset()

    def ids(self) -> frozenset[str]:
        """The containers that were created since."""
        said = self._engine.cli(
            "events",
            f"--since={self._since:.3f}",
            f"--until={time.time():.3f}",
            "--filter=type=container",
            "--filter=event=create",
            "--format={{.ID}}",
        )
        self._seen |= frozenset(said.split())
        return self._seen

    def traces(self) -> Traces:
        """What there is now. The one named volume for compiled code is meant to stay."""
        return Traces(
            frozenset(self._engine.containers()),
            frozenset(self._engine.volumes()) - {VOLUME},
            frozenset(pid for container in self.ids() for pid in processes_of(container)),
            listening(),
            frozenset(path.name for path in Path("/dev/shm").glob("psm_standin_*")),
        )


@pytest.fixture
def witness(engine: PrivateEngine) -> Witness:
    return Witness(engine)


def processes_of(container: str) -> list[int]:
    """The processes of a container, by their control groups; zombies have none of their own memory and do not count."""
    mark = container.encode()
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or mark not in (folder / "cgroup").read_bytes():
                continue
            if b"\nState:\tZ" not in (folder / "status").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def listening() -> frozenset[int]:
    """The ports of the tests' range on which somebody listens."""
    first, last = (int(number) for number in PORTS.split("-"))
    sockets = psutil.net_connections(kind="tcp")
    ports = frozenset(s.laddr.port for s in sockets if s.status == psutil.CONN_LISTEN and s.laddr)
    return frozenset(port for port in ports if first <= port <= last)


def engine_process(container: str) -> int:
    """The process of the stand-in that holds the memory."""

    def look() -> int | None:
        names = {pid: (Path("/proc") / str(pid) / "comm").read_text().strip() for pid in processes_of(container)}
        return next((pid for pid, name in names.items() if name == "VLLM::EngineCor"), None)

    return wait_for(look, 10, lambda: f"no engine process in {container}")


class FaultTable:
    """A row a fault, for bench/RESULTS.md."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def add(self, fault: str, error: str, seconds: float, left: Traces) -> None:
        """Note how a fault ended."""
        counts = f"{len(left.containers)} / {len(left.processes)} / {len(left.ports)}"
        self.rows.append(f"| {fault} | `{error}` | {seconds:.2f} | {counts} |")


@pytest.fixture(scope="session")
def fault_table() -> Iterator[FaultTable]:
    """The table, written to ``build/`` at the end of the run."""
    table = FaultTable()
    yield table
    head = ["| Fault | Said as | Seconds | Left: containers / processes / ports |", "| --- | --- | --- | --- |"]
    TABLE.write_text("\n".join([*head, *table.rows]) + "\n")


def inspect(engine: PrivateEngine, container: str) -> Any:
    """What the engine says of a container."""
    return json.loads(engine.cli("inspect", container))[0]
