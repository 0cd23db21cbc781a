"""vLLM's runtime on an engine in memory, and where there is no Docker at all."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.server import wait_for
from tests.unit.runtimes.fake_engine import FakeContainer, FakeEngine, serving
from webapp.domain.instance import InstanceState
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions
from webapp.errors import EngineMissing, EngineUnreachable, LaunchBlocked, PortTaken, TooManyFiles, WorkerSilent
from webapp.runtimes.base import LaunchDevice, LaunchSpec, ProbeState
from webapp.runtimes.vllm.adoption import PORT_LABEL
from webapp.runtimes.vllm.command import container_plan
from webapp.runtimes.vllm.pending_removals import PendingRemovals
from webapp.runtimes.vllm.runtime import VllmRuntime
from webapp.runtimes.vllm.server import VllmServer
from webapp.settings import Settings, load_settings

SERVED = b'INFO:     172.17.0.1:58340 - "GET /metrics HTTP/1.1" 200 OK\n'
NOBODY = 2**22 + 5
"""The number of no process."""


def spec(folder: Path, instance_id: str = "1a2b3c4d5e6f") -> LaunchSpec:
    return LaunchSpec(
        instance_id=instance_id,
        operation_id="op",
        model_id="lab/one",
        revision="abc",
        snapshot=folder / "cache" / "models--lab--one" / "snapshots" / "abc",
        options=LaunchOptions(max_tokens=256),
        devices=(LaunchDevice("host", DeviceKind.HOST, None, None),),
        owner="ivan",
    )


def settings_in(folder: Path, **values: object) -> Settings:
    (folder / "state").mkdir(exist_ok=True)
    own: dict[str, object] = {"state_dir": folder / "state", "hf_cache": folder / "cache", "docker_poll_s": 0.02}
    return load_settings(**{**own, "vllm_kill_s": 0.2, "vllm_term_s": 0.2, **values})


StartRuntime = Callable[..., VllmRuntime]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def start(tmp_path: Path, engine: FakeEngine) -> Iterator[StartRuntime]:
    """Start runtimes on the engine, each as the next Warden on the same state folder."""
    started: list[VllmRuntime] = []

    def make(**values: object) -> VllmRuntime:
        for earlier in started:
            earlier.stop()
        one = VllmRuntime(settings_in(tmp_path, **values), engine)
        started.append(one)
        one.start()
        return one

    yield make
    for one in started:
        one.stop()


def left_by_an_earlier_warden(
    engine: FakeEngine, folder: Path, port: int = 8100, instance_id: str = "1a2b3c4d5e6f", **fields: object
) -> FakeContainer:
    plan = container_plan(spec(folder, instance_id), settings_in(folder), port=port, api_key="key")
    about: dict[str, object] = {"state": "running", "log": SERVED, "pid": os.getpid(), **fields}
    return engine.put(plan.name, labels=plan.labels, environment=plan.environment, **about)


# Start


def test_start_that_docker_confirms_late_counts(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    engine.late_start = True
    start().launch(spec(tmp_path))
    (container,) = engine.containers_by_id.values()
    assert container.state == "running"


def test_start_that_docker_never_confirmed_leaves_nothing_to_be_ended(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    one = start()
    engine.away = True
    with pytest.raises(EngineUnreachable):
        one.launch(spec(tmp_path))
    result = one.terminate("1a2b3c4d5e6f", ask=False)
    assert (result.survivors, result.not_removed) == ((), True)


def test_container_that_came_into_being_after_all_is_removed_when_docker_is_back(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    one = start()
    engine.away = True
    with pytest.raises(EngineUnreachable):
        one.launch(spec(tmp_path))
    left_by_an_earlier_warden(engine, tmp_path, state="created")
    engine.away = False
    wait_for(lambda: not engine.containers_by_id, 5, lambda: f"{engine.containers_by_id}")
    assert engine.started == []


def test_container_that_was_started_and_cannot_be_asked_about_is_not_said_to_have_ended(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    one = start()
    left_by_an_earlier_warden(engine, tmp_path)
    engine.away = True
    with pytest.raises(EngineUnreachable):
        one.terminate("1a2b3c4d5e6f")


def test_preparation_tries_what_docker_is_asked_for_and_leaves_nothing(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    one = start()
    one.prepare(spec(tmp_path))
    assert (engine.removals, engine.containers_by_id, engine.started) == (1, {}, [])
    one.launch(spec(tmp_path))
    assert len(engine.containers_by_id) == 1


def test_preparation_says_that_docker_is_away(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    one = start()
    engine.away = True
    with pytest.raises(EngineUnreachable):
        one.prepare(spec(tmp_path))
    with pytest.raises(EngineUnreachable):
        one.reach()


def test_preparation_says_that_docker_keeps_the_name(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    engine.kept = {"warden-1a2b3c4d5e6f"}
    with pytest.raises(LaunchBlocked):
        start().prepare(spec(tmp_path))


def test_preparation_finds_that_others_have_every_port(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken):
            start(vllm_ports=f"{port}-{port}").prepare(spec(tmp_path))
    assert engine.containers_by_id == {}


def test_port_of_a_model_that_may_go_is_good_enough_for_a_preparation(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with serving("lab/one") as port:
        left_by_an_earlier_warden(engine, tmp_path, port=port)
        one = start(vllm_ports=f"{port}-{port}")
        assert len(one.discover()) == 1
        one.prepare(spec(tmp_path, "000000000002"))


def test_preparation_that_finds_no_free_descriptor_names_the_limit(tmp_path: Path) -> None:
    one = VllmRuntime(settings_in(tmp_path, docker_socket=tmp_path / "docker.sock"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        limit = last.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(TooManyFiles) as refusal:
            one.prepare(spec(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refusal.value.params["limit"] == limit


def test_two_starts_at_once_get_two_ports(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    one = start()
    one.launch(spec(tmp_path, "000000000001"))
    one.launch(spec(tmp_path, "000000000002"))
    assert len({c.labels[PORT_LABEL] for c in engine.containers_by_id.values()}) == 2


def test_port_that_is_lost_at_the_start_is_tried_again_on_another(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.ports_in_use = 1
    start().launch(spec(tmp_path))
    (container,) = engine.containers_by_id.values()
    assert (container.state, len(engine.started)) == ("running", 2)


def test_container_that_lost_its_port_and_stays_is_removed_later_and_takes_no_other_with_it(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.ports_in_use, engine.kept = 1, {"warden-1a2b3c4d5e6f"}
    one = start()
    with pytest.raises(LaunchBlocked):
        one.launch(spec(tmp_path))
    assert len(engine.started) == 1
    engine.kept.clear()
    one.launch(spec(tmp_path, "000000000002"))
    wait_for(lambda: len(engine.containers_by_id) == 1, 5, lambda: f"{engine.containers_by_id}")
    assert [c.state for c in engine.containers_by_id.values()] == ["running"]
    assert engine.killed == []


# What an earlier Warden left


def test_model_whose_process_cannot_be_seen_is_adopted_all_the_same(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with serving("lab/one") as port:
        left_by_an_earlier_warden(engine, tmp_path, port, pid=NOBODY)
        (found,) = start().discover()
    assert (found.adoptable, found.instance.state) == (True, InstanceState.READY)


def test_model_that_answers_and_does_not_say_how_busy_it_is_is_ready(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    with serving("lab/one") as port:  # the list of models at every address, /metrics too
        left_by_an_earlier_warden(engine, tmp_path, port)
        one = start()
        one.discover()
        probe = one.probe("1a2b3c4d5e6f")
    assert (probe.state, probe.in_flight, probe.last_used_at) == (ProbeState.READY, None, None)


def test_model_that_answers_nothing_at_all_is_silent(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    with serving("lab/one") as port:
        left_by_an_earlier_warden(engine, tmp_path, port)
        one = start()
        one.discover()
    with pytest.raises(WorkerSilent):
        one.probe("1a2b3c4d5e6f")


METRICS = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="lab/one"} 2.0
vllm:num_requests_waiting{model_name="lab/one"} 1.0
"""


@pytest.mark.parametrize(("page", "in_flight"), [(METRICS, 3), (b"# TYPE another gauge\nanother 1.0\n", None)])
def test_page_of_metrics_without_the_figures_says_nothing_of_how_busy_the_model_is(
    page: bytes, in_flight: int | None
) -> None:
    with serving("lab/one", metrics=page) as port:
        assert VllmServer(port, "key").load(2.0).in_flight == in_flight


def test_model_that_has_served_and_does_not_answer_is_silent(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    left_by_an_earlier_warden(engine, tmp_path, state="paused")
    (found,) = start().discover()
    assert (found.adoptable, found.instance.state) == (True, InstanceState.SILENT)


def test_model_that_has_never_served_is_a_half_start(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    left_by_an_earlier_warden(engine, tmp_path, log=b"Starting to load model\n")
    (found,) = start().discover()
    assert found.reason is not None
    assert (found.adoptable, found.reason.code) == (False, "half_started")


def test_model_that_has_ended_is_dead_with_its_reason(start: StartRuntime, engine: FakeEngine, tmp_path: Path) -> None:
    left_by_an_earlier_warden(engine, tmp_path, state="exited", exit_code=7)
    (found,) = start().discover()
    assert (found.adoptable, found.instance.state) == (True, InstanceState.DEAD)
    assert found.instance.problem is not None
    assert (found.instance.problem.code, found.instance.problem.params["exit"]) == ("container_exited", 7)


def test_container_that_docker_cannot_tell_of_hides_no_other(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    left_by_an_earlier_warden(engine, tmp_path, instance_id="000000000001")
    left_by_an_earlier_warden(engine, tmp_path, instance_id="000000000002", state="exited")
    engine.fails = {"warden-000000000001"}
    engine.put("theirs", state="running")
    engine.put("theirs too", state="running")
    engine.fails.add("theirs")
    one = start()
    assert [found.instance.id for found in one.discover()] == ["000000000002"]
    assert [foreign.name for foreign in one.foreign()] == ["theirs too"]
    assert one.unavailable() is None


def test_container_that_runs_is_no_leftover_before_it_was_looked_at(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    left_by_an_earlier_warden(engine, tmp_path)
    left_by_an_earlier_warden(engine, tmp_path, instance_id="000000000002", state="created")
    one = start()
    assert [leftover.message.params["name"] for leftover in one.reap(frozenset)] == ["warden-000000000002"]
    one.discover()
    assert [leftover.message.params["name"] for leftover in one.reap(frozenset)] == ["warden-1a2b3c4d5e6f"]


def test_what_a_person_has_ended_and_docker_keeps_does_not_come_back_with_the_next_warden(
    start: StartRuntime, engine: FakeEngine, tmp_path: Path
) -> None:
    one = start()
    one.launch(spec(tmp_path))
    engine.kept = {"warden-1a2b3c4d5e6f"}
    assert one.terminate("1a2b3c4d5e6f").not_removed
    again = start()
    assert again.discover() == ()
    assert again.reap(frozenset) == ()
    engine.kept.clear()
    wait_for(lambda: not engine.containers_by_id, 5, lambda: "it stays")


# Containers that Docker keeps


def test_container_that_cannot_be_removed_is_tried_again_after_a_pause_that_doubles(tmp_path: Path) -> None:
    tried: list[str] = []

    def refuse(container: str) -> bool:
        tried.append(container)
        return False

    kept = PendingRemovals(tmp_path / "kept.json", refuse)
    kept.add("one")
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        kept.look({"one": "instance", "other": "alive"})
    kept.stop()
    assert tried == ["one"]


def test_container_that_is_removed_is_forgotten_and_what_is_left_survives_a_restart(tmp_path: Path) -> None:
    kept = PendingRemovals(tmp_path / "kept.json", lambda container: container == "one")
    for name in ("one", "two", "unconfirmed"):
        kept.add(name)
    kept.look({"one": "a", "two": "b", "three": "unconfirmed"})
    kept.stop()
    again = PendingRemovals(tmp_path / "kept.json", lambda container: True)
    again.start()
    assert [name in again for name in ("one", "two", "unconfirmed")] == [False, True, True]
    again.look({"three": "unconfirmed"})
    again.stop()
    assert "unconfirmed" not in again


def test_file_of_kept_containers_that_is_rubbish_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("{}")
    kept = PendingRemovals(tmp_path / "kept.json", lambda container: True)
    kept.start()
    assert "one" not in kept


# Without Docker


def runtime_on(folder: Path, socket: str) -> VllmRuntime:
    return VllmRuntime(load_settings(state_dir=folder / "state", docker_socket=folder / socket))


def test_server_without_docker_has_no_leftovers(tmp_path: Path) -> None:
    assert runtime_on(tmp_path, "docker.sock").reap(frozenset) == ()


def test_server_without_docker_says_that_it_has_none_where_containers_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(EngineMissing):
        runtime_on(tmp_path, "docker.sock").discover()


def test_docker_that_does_not_answer_may_hold_leftovers(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnreachable):
        runtime_on(tmp_path, "file").reap(frozenset)


# What runs a model


def test_engine_is_named_by_the_content_of_its_image_too(start: StartRuntime, engine: FakeEngine) -> None:
    one = start()
    assert one.engine_version() == f"vllm/vllm-openai:latest ({'a' * 12})"
    engine.images["vllm/vllm-openai:latest"] = "sha256:" + "b" * 64
    wait_for(lambda: one.engine_version().endswith(f"({'b' * 12})"), 5, one.engine_version)


def test_image_that_is_missing_is_said_and_has_no_content(start: StartRuntime, engine: FakeEngine) -> None:
    engine.images.clear()
    one = start()
    problem = one.unavailable()
    assert problem is not None
    assert (problem.code, one.engine_version()) == ("image_missing", "vllm/vllm-openai:latest")
