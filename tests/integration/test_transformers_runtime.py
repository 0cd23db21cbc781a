"""The runtime over real workers on the CPU: launch, questions, the stop sequence, adoption, leftovers, every fault."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.models import make_model
from webapp.domain.footprint import Footprint, Part, PartName
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions
from webapp.errors import (
    DiskFull,
    GenerationFailed,
    LaunchFailed,
    NotReady,
    OutOfMemory,
    UnknownInstance,
    WardenError,
    WorkerDied,
    WorkerGarbled,
    WorkerSilent,
)
from webapp.runtimes.base import LaunchDevice, LaunchSpec, Probe, ProbeState, StopStage
from webapp.runtimes.chat import stream_chat
from webapp.runtimes.processes import find_marked
from webapp.runtimes.protocol import process_start_time
from webapp.runtimes.transformers.runtime import TransformersRuntime
from webapp.runtimes.worker_folder import WorkerFolder
from webapp.settings import load_settings

MODEL = "tests/tiny"
LARGE = "tests/large"
HOST = LaunchDevice("host", DeviceKind.HOST, None, None)
FAULTY = Path(__file__).parents[1] / "engine" / "workers" / "faulty_worker.py"
STUB = FAULTY.with_name("stub_gpu_worker.py")
REAL = f"{shlex.quote(sys.executable)} -m webapp.worker --torch-device cpu"
PATIENCE_S = 90.0

RuntimeMaker = Callable[..., TransformersRuntime]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache: Path) -> Path:
    return make_model(cache, MODEL)


@pytest.fixture(scope="module")
def large(cache: Path) -> Path:
    return make_model(cache, LARGE, hidden=1024, intermediate=4096, layers=2, dtype="float16")


@pytest.fixture
def make_runtime(tmp_path: Path) -> Iterator[RuntimeMaker]:
    """Make runtimes over one state folder; what they started is ended with the test."""
    made: list[TransformersRuntime] = []

    def make(command: str = REAL, **settings: Any) -> TransformersRuntime:
        values: dict[str, Any] = {"worker_ask_s": 3.0, "worker_term_s": 1.0, "worker_kill_s": 3.0} | settings
        runtime = TransformersRuntime(load_settings(state_dir=tmp_path / "state", worker_command=command, **values))
        made.append(runtime)
        runtime.start()
        return runtime

    yield make
    for runtime in made:
        runtime.stop()
        for instance_id in {*runtime.processes().values(), *runtime._workers._started}:
            runtime.terminate(instance_id, ask=False)
        runtime.reap(frozenset)


def faulty(fault: str, *more: str) -> str:
    return shlex.join([sys.executable, str(FAULTY), "--fault", fault, *more])


def spec(snapshot: Path, instance_id: str = "one", **options: Any) -> LaunchSpec:
    return LaunchSpec(
        instance_id=instance_id,
        operation_id="operation",
        model_id=LARGE if "large" in str(snapshot) else MODEL,
        revision=snapshot.name,
        snapshot=snapshot,
        options=LaunchOptions(**{"max_tokens": 128, **options}),
        devices=(HOST,),
        owner="ann",
        footprints=(Footprint("host", (Part(PartName.WEIGHTS, 12345),)),),
    )


def wait_for(
    runtime: TransformersRuntime, instance_id: str, state: ProbeState, also: Callable[[Probe], bool] = lambda _: True
) -> Probe:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            probe = runtime.probe(instance_id)
        except WorkerSilent:
            continue
        if probe.state is state and also(probe):
            return probe
        time.sleep(0.02)
    raise AssertionError("\n".join(runtime.log_tail(instance_id, 50)))


def wait_for_error(runtime: TransformersRuntime, instance_id: str) -> Exception:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            assert runtime.probe(instance_id).state is not ProbeState.READY
        except WorkerSilent:  # it has hung up, and is not gone yet
            continue
        except WardenError as exc:
            return exc
        time.sleep(0.02)
    raise AssertionError("\n".join(runtime.log_tail(instance_id, 50)))


def workers(runtime: TransformersRuntime) -> Path:
    return runtime._workers.root


def is_alive(pid: int | None) -> bool:
    return pid is not None and process_start_time(pid) is not None


def ask(runtime: TransformersRuntime, instance_id: str, prompt: str = "hello", **changes: Any) -> list[str]:
    values = {"max_tokens": 8, "temperature": 0.0, "has_chat_template": True} | changes
    return list(stream_chat(runtime.endpoint(instance_id), prompt, **values))


def test_a_launched_model_loads_and_answers_and_an_unload_leaves_nothing(
    make_runtime: RuntimeMaker, model: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    runtime = make_runtime(faulty("slow_load", "--gate", str(gate)))
    assert runtime.unavailable() is None
    began = time.monotonic()
    runtime.launch(spec(model))
    assert time.monotonic() - began < 0.5, "a launch does not wait"
    assert runtime.probe("one").state is ProbeState.STARTING
    wait_for(runtime, "one", ProbeState.LOADING)
    with pytest.raises(NotReady):
        ask(runtime, "one")
    gate.touch()
    ready = wait_for(runtime, "one", ProbeState.READY)

    folder = workers(runtime) / "one"
    assert (folder.stat().st_mode & 0o777, (folder / "spec.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert (folder / "log").stat().st_mode & 0o777 == 0o600
    assert runtime.processes() == {ready.pid: "one"}
    assert os.getsid(ready.pid or 0) == ready.pid, "a session of its own"
    assert ready.has_chat_template
    assert ready.memory is not None
    assert ready.memory.base_bytes
    assert "".join(ask(runtime, "one"))
    with pytest.raises(GenerationFailed) as refused:
        ask(runtime, "one", "word " * 300)
    assert refused.value.params["reason"] == "context_length_exceeded"
    answer = stream_chat(runtime.endpoint("one"), "hello", max_tokens=100, temperature=1.0, has_chat_template=False)
    next(answer)
    answer.close()
    assert list(answer) == []
    assert runtime.clean("one").freed_bytes is not None
    assert any("ready" in line for line in runtime.log_tail("one", 10))
    assert len(runtime.log_tail("one", 2)) == 2

    stages: list[StopStage] = []
    result = runtime.terminate("one", on_stage=stages.append)

    assert (result.stage, result.survivors, stages) == (StopStage.ASK, (), [StopStage.ASK, StopStage.VERIFY])
    assert result.seconds < 1.5
    assert not is_alive(ready.pid)
    assert not folder.exists()
    assert runtime.processes() == {}
    assert runtime.terminate("one").survivors == (), "again is no error"
    for call in (runtime.probe, runtime.clean, runtime.endpoint):
        with pytest.raises(UnknownInstance):
            call("one")
    assert runtime.log_tail("one", 10) == ()


def test_a_second_runtime_adopts_what_the_first_left_and_ends_it_with_its_children(
    make_runtime: RuntimeMaker, model: Path
) -> None:
    first = make_runtime(faulty("leaves_child"))
    first.launch(spec(model))
    ready = wait_for(first, "one", ProbeState.READY)
    first.stop()
    (workers(first) / "broken").mkdir()
    (workers(first) / "broken" / "spec.json").write_text("{", encoding="utf-8")

    second = make_runtime()
    (found,) = second.discover()

    assert found.adoptable
    instance = found.instance
    assert (instance.id, instance.model_id, instance.owner, instance.pid) == ("one", MODEL, "ann", ready.pid)
    assert (instance.options.max_tokens, instance.devices, instance.predicted_bytes) == (
        128,
        ("host",),
        {"host": 12345},
    )
    assert instance.has_chat_template
    left = second.reap(lambda: frozenset({"one"}))
    assert [(one.message.code, one.message.params["instance"], one.ok) for one in left] == [
        ("leftover_folder", "broken", True)
    ]
    assert "".join(ask(second, "one"))
    members = find_marked(str(workers(second)))
    assert len(members) == 2

    result = second.terminate("one")

    assert (result.stage, result.survivors) == (StopStage.TERMINATE, ())
    assert result.seconds < 2.5, "the child is not waited for as if it had been asked"
    assert not any(process.is_alive for process in members)


def test_a_half_started_worker_is_found_and_not_adopted(make_runtime: RuntimeMaker, model: Path) -> None:
    first = make_runtime()
    first.launch(spec(model))
    pid = wait_for(first, "one", ProbeState.STARTING, lambda probe: probe.pid is not None).pid
    first.stop()

    second = make_runtime()
    (found,) = second.discover()

    assert not found.adoptable
    assert found.reason is not None
    assert second.terminate("one", ask=False).survivors == ()
    assert not is_alive(pid)


def test_a_dead_worker_is_found_with_the_reason_and_a_process_without_folder_is_reaped(
    make_runtime: RuntimeMaker, model: Path
) -> None:
    first = make_runtime(faulty("leaves_child"))
    first.launch(spec(model))
    pid = wait_for(first, "one", ProbeState.STARTING, lambda probe: probe.pid is not None).pid
    assert pid is not None
    wait_for(first, "one", ProbeState.STARTING, lambda _: len(find_marked(str(workers(first)))) == 2)
    os.kill(pid, signal.SIGKILL)
    error = wait_for_error(first, "one")
    assert isinstance(error, WorkerDied)
    assert error.params["exit"] == "SIGKILL"

    second = make_runtime()
    (found,) = second.discover()
    assert not found.adoptable
    assert found.reason is not None
    assert found.reason.code == "worker_died"
    subprocess.run(["rm", "-rf", str(workers(second) / "one")], check=True)
    left = second.reap(frozenset)

    assert [one.message.code for one in left] == ["leftover_process"]
    assert find_marked(str(workers(second))) == {}


def test_a_worker_that_does_not_listen_is_killed(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime(faulty("ignores_sigterm,hangs_in_load"), worker_ask_s=1.0, worker_term_s=0.5)
    runtime.launch(spec(model))
    pid = wait_for(runtime, "one", ProbeState.LOADING).pid
    stages: list[StopStage] = []

    result = runtime.terminate("one", on_stage=stages.append)

    assert stages == [StopStage.ASK, StopStage.TERMINATE, StopStage.KILL, StopStage.VERIFY]
    assert (result.stage, result.survivors) == (StopStage.KILL, ())
    assert not is_alive(pid)
    assert not (workers(runtime) / "one").exists()


def test_a_frozen_worker_is_silent_and_is_ended_all_the_same(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime(faulty("hangs_in_load"), worker_ask_s=1.0)
    runtime.launch(spec(model))
    pid = wait_for(runtime, "one", ProbeState.LOADING).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerSilent):
        runtime.probe("one")

    result = runtime.terminate("one")

    assert (result.stage, result.survivors) == (StopStage.TERMINATE, ())
    assert not is_alive(pid)


def test_an_emergency_begins_with_sigkill(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime(faulty("hangs_in_load"))
    runtime.launch(spec(model))
    loading = wait_for(runtime, "one", ProbeState.LOADING)
    time.sleep(0.2)
    assert runtime.probe("one").activity[:2] == loading.activity[:2], "nothing moves"
    stages: list[StopStage] = []

    result = runtime.terminate("one", on_stage=stages.append, ask=False)

    assert stages == [StopStage.KILL, StopStage.VERIFY]
    assert result.seconds < 1.0
    assert not is_alive(loading.pid)


def test_a_load_without_room_ends_as_out_of_memory(make_runtime: RuntimeMaker, large: Path) -> None:
    runtime = make_runtime(faulty("out_of_memory"))
    runtime.launch(spec(large))

    error = wait_for_error(runtime, "one")

    assert isinstance(error, OutOfMemory), repr(error)
    assert error.params["model"] == LARGE
    assert "MemoryError" in str(error.params["log"])
    assert runtime.terminate("one").stage is StopStage.ASK
    assert find_marked(str(workers(runtime))) == {}


@pytest.mark.parametrize(
    ("fault", "kind", "exit_code"),
    [
        ("dies_at_start", WorkerDied, 7),
        ("dies_in_load", WorkerDied, "SIGKILL"),
        ("answers_rubbish", WorkerGarbled, None),
    ],
)
def test_each_death_has_its_error(
    make_runtime: RuntimeMaker, model: Path, fault: str, kind: type[LaunchFailed], exit_code: object
) -> None:
    runtime = make_runtime(faulty(fault))
    runtime.launch(spec(model))

    error = wait_for_error(runtime, "one")

    assert type(error) is kind
    assert error.params.get("exit") == exit_code
    assert error.params["model"] == MODEL
    assert runtime.terminate("one", ask=False).survivors == ()


def test_a_silent_worker_is_called_silent_and_its_stop_does_not_wait_for_its_answer(
    make_runtime: RuntimeMaker, model: Path
) -> None:
    runtime = make_runtime(faulty("silent"), worker_ask_s=30.0)
    runtime.launch(spec(model))
    socket = workers(runtime) / "one" / "s"
    while not socket.exists():
        time.sleep(0.01)
    with pytest.raises(WorkerSilent):
        runtime.probe("one")

    result = runtime.terminate("one")

    assert result.stage is StopStage.TERMINATE
    assert result.seconds < 4.0


def test_a_gpu_that_is_not_there_is_no_silent_move_to_the_cpu(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime(f"{shlex.quote(sys.executable)} -m webapp.worker")
    runtime.launch(replace(spec(model), devices=(LaunchDevice("gpu-99", DeviceKind.GPU, 99, None),)))

    error = wait_for_error(runtime, "one")

    assert type(error) is LaunchFailed
    assert "sees 0 of the GPUs 99" in str(error.params["detail"])
    assert "the load failed" in str(error.params["log"])


def test_a_program_that_is_not_there_is_said_and_leaves_no_folder(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime("/nonexistent/program")

    unavailable = runtime.unavailable()
    with pytest.raises(LaunchFailed):
        runtime.launch(spec(model))

    assert unavailable is not None
    assert unavailable.code == "worker_command_missing"
    assert list(workers(runtime).iterdir()) == []


def test_a_prepared_worker_waits_without_a_model_until_it_is_launched(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime()
    runtime.prepare(spec(model))
    wait_for(
        runtime, "one", ProbeState.STARTING, lambda probe: Path(WorkerFolder(workers(runtime) / "one").socket).exists()
    )
    (pid,) = runtime.processes()
    log = runtime.log_tail("one", 50)

    assert not any("imported" in line for line in log), "it holds nothing that the memory is not made for yet"
    assert runtime.reap(frozenset) == (), "what was prepared here is no leftover"

    runtime.launch(spec(model, batch_size=2))
    ready = wait_for(runtime, "one", ProbeState.READY)

    assert ready.pid == pid
    record = WorkerFolder(workers(runtime) / "one").record()
    assert record is not None and record.options.batch_size == 2, "the launch counts, not the preparation"


def test_a_prepared_worker_that_is_not_wanted_leaves_nothing(make_runtime: RuntimeMaker, model: Path) -> None:
    runtime = make_runtime()
    runtime.prepare(spec(model))

    assert runtime.terminate("one", ask=False).survivors == ()

    assert list(workers(runtime).iterdir()) == []
    assert find_marked(str(workers(runtime))) == {}


def test_a_prepared_worker_that_an_earlier_warden_left_is_no_instance(make_runtime: RuntimeMaker, model: Path) -> None:
    make_runtime().prepare(spec(model))
    second = make_runtime()
    wait_for(second, "one", ProbeState.STARTING, lambda probe: probe.pid is not None)

    assert [(found.instance.id, found.adoptable) for found in second.discover()] == [("one", False)]
    assert [left.message.code for left in second.reap(frozenset)] == ["leftover_process"]


def test_a_full_disk_is_said_before_anything_is_started(tmp_path: Path, model: Path) -> None:
    state = tmp_path / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", state], check=True)
    try:
        runtime = TransformersRuntime(load_settings(state_dir=state, worker_command=REAL))
        (state / "ballast").write_bytes(b"x" * 2**16)

        with pytest.raises(DiskFull) as caught:
            runtime.prepare(spec(model))

        assert caught.value.params["mount"] == str(state)
        assert runtime.processes() == {}
    finally:
        subprocess.run(["umount", state], check=True)


def test_a_worker_on_a_stubbed_gpu_files_its_bytes(
    make_runtime: RuntimeMaker, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "stub"
    for index in range(2):
        (stub / f"gpu-{index}").mkdir(parents=True)
        (stub / f"gpu-{index}" / "uuid").write_text(f"GPU-{index}", encoding="ascii")
    monkeypatch.setenv("NVML_STUB_DIR", str(stub))
    runtime = make_runtime(shlex.join([sys.executable, str(STUB)]))
    runtime.launch(replace(spec(large), devices=(LaunchDevice("gpu-1", DeviceKind.GPU, 1, "GPU-1"),)))
    ready = wait_for(runtime, "one", ProbeState.READY)

    filed = stub / "gpu-1" / "processes" / str(ready.pid)
    time.sleep(0.2)
    assert int(filed.read_text(encoding="ascii")) > (large / "model.safetensors").stat().st_size
    assert not (stub / "gpu-0" / "processes").exists()
