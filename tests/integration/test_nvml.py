"""The GPU probe and the monitor with the real pynvml, against a driver that the tests write."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.nvml_stub import FOLDER_VARIABLE, SONAME, NvmlCode, NvmlStub, build
from tests.engine.nvml_stub.remote import RemoteProbe
from tests.engine.server import wait_for
from webapp.domain.memory import DeviceKind, Holder, HolderKind, LedgerKind, Reading, build_ledger
from webapp.domain.units import GIB, MIB
from webapp.errors import DriverMissing, ProbeFailed
from webapp.hardware.holders import Holders
from webapp.hardware.host import HostProbe
from webapp.hardware.monitor import Monitor
from webapp.message import Message

PATIENCE_S = 10.0


@pytest.fixture
def stub(tmp_path: Path) -> NvmlStub:
    stub = NvmlStub(tmp_path / "nvml")
    stub.add_gpu(0)
    return stub


@pytest.fixture(scope="module")
def child() -> Iterator[RemoteProbe]:
    probe = RemoteProbe({"LD_LIBRARY_PATH": str(build())})
    yield probe
    probe.end()


@pytest.fixture
def probe(child: RemoteProbe, stub: NvmlStub) -> Iterator[RemoteProbe]:
    child.use(stub.folder)
    yield child
    stub.unblock()
    child.close()


@pytest.fixture
def process() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts processes that do nothing, and ends them."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"]))
        command_line = Path(f"/proc/{started[-1].pid}/cmdline")
        wait_for(
            command_line.read_bytes, 10, lambda: "the process has no command line"
        )  # exec ends a moment after Popen
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def figures(reading: Reading) -> tuple[int | None, ...]:
    return reading.total_bytes, reading.reserved_bytes, reading.used_bytes, reading.free_bytes


def test_a_gpu_is_read_with_all_its_figures(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.set_gpu(0, used=3 * GIB, utilization=77, temperature=61, power=123_456)
    (reading,) = probe.read()
    assert reading == Reading(
        device_id="gpu-0",
        kind=DeviceKind.GPU,
        name="Stub GPU 0",
        uuid="GPU-00000000-0000-0000-0000-000000000000",
        total_bytes=24 * GIB,
        reserved_bytes=512 * MIB,
        used_bytes=3 * GIB,
        free_bytes=21 * GIB - 512 * MIB,
        utilization_percent=77.0,
        temperature_c=61.0,
        power_w=123.456,
    )


def test_eight_gpus_are_read_in_order(probe: RemoteProbe, stub: NvmlStub) -> None:
    for index in range(8):
        stub.add_gpu(index)
        stub.set_gpu(index, used=index * GIB)
    readings = probe.read()
    assert [(r.device_id, r.used_bytes, r.temperature_c) for r in readings] == [
        (f"gpu-{index}", index * GIB, 40.0 + index) for index in range(8)
    ]


def test_a_machine_with_a_driver_and_no_gpu_has_no_readings(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.remove_gpu(0)
    assert probe.read() == ()


@pytest.mark.parametrize("error", [NvmlCode.NOT_SUPPORTED, NvmlCode.FUNCTION_NOT_FOUND])
def test_an_older_driver_tells_no_reserve_and_counts_it_as_used(
    probe: RemoteProbe, stub: NvmlStub, error: NvmlCode
) -> None:
    stub.set_gpu(0, used=3 * GIB)
    stub.inject(0, "memory_v2", error)
    (reading,) = probe.read()
    assert figures(reading) == (24 * GIB, None, 3 * GIB + 512 * MIB, 21 * GIB - 512 * MIB)
    assert reading.problem is None


@pytest.mark.parametrize("missing", ["temperature_v2", "processes_v3", "graphics_v3"])
def test_an_older_drivers_calls_are_used_where_the_newer_are_missing(
    probe: RemoteProbe, stub: NvmlStub, missing: str
) -> None:
    stub.set_process(0, os.getpid(), 1 * GIB)
    stub.inject(0, missing, NvmlCode.FUNCTION_NOT_FOUND)
    (reading,) = probe.read()
    assert reading.temperature_c == 40.0
    assert [holder.used_bytes for holder in reading.holders] == [1 * GIB]
    assert reading.holders_known
    assert reading.problem is None


@pytest.mark.parametrize("error", [NvmlCode.NOT_SUPPORTED, NvmlCode.NO_PERMISSION, NvmlCode.UNKNOWN])
@pytest.mark.parametrize(
    ("call", "figure"),
    [("utilization", "utilization_percent"), ("temperature", "temperature_c"), ("power", "power_w"), ("name", "name")],
)
def test_a_figure_that_the_driver_does_not_give_is_unknown_and_the_rest_stands(
    probe: RemoteProbe, stub: NvmlStub, call: str, figure: str, error: NvmlCode
) -> None:
    stub.inject(0, call, error)
    (reading,) = probe.read()
    assert getattr(reading, figure) is None
    assert reading.total_bytes == 24 * GIB
    assert reading.problem is None


def test_memory_that_cannot_be_read_is_unknown_with_the_reason(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.inject(0, "memory", NvmlCode.UNKNOWN)
    (reading,) = probe.read()
    assert figures(reading) == (None, None, None, None)
    assert reading.temperature_c == 40.0
    assert reading.problem == Message("device_unreadable", {"device": "gpu-0", "detail": "Unknown Error"})


def test_processes_that_compute_and_draw_are_listed_once_with_who_they_are(
    probe: RemoteProbe, stub: NvmlStub, process: Callable[[], subprocess.Popen[bytes]]
) -> None:
    both, drawing = process(), process()
    stub.set_process(0, both.pid, 2 * GIB)
    stub.set_process(0, both.pid, 2 * GIB, graphics=True)
    stub.set_process(0, drawing.pid, 1 * GIB, graphics=True)
    (reading,) = probe.read()
    assert sorted((h.pid, h.used_bytes) for h in reading.holders) == [(both.pid, 2 * GIB), (drawing.pid, 1 * GIB)]
    assert {h.command for h in reading.holders} == {"sleep 600"}
    assert {h.kind for h in reading.holders} == {HolderKind.FOREIGN}
    assert reading.used_bytes == 3 * GIB


def test_a_worker_on_two_gpus_is_known_on_both(
    probe: RemoteProbe, stub: NvmlStub, process: Callable[[], subprocess.Popen[bytes]]
) -> None:
    worker = process()
    stub.add_gpu(1)
    for index in (0, 1):
        stub.set_process(index, worker.pid, (index + 1) * GIB)
    probe.use(stub.folder, workers={worker.pid: "a"})
    held = [[(h.kind, h.instance_id, h.used_bytes) for h in reading.holders] for reading in probe.read()]
    assert held == [[(HolderKind.WORKER, "a", 1 * GIB)], [(HolderKind.WORKER, "a", 2 * GIB)]]


def test_bytes_that_the_driver_does_not_know_are_unknown(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.set_gpu(0, used=5 * GIB)
    stub.set_process(0, os.getpid(), None)
    (reading,) = probe.read()
    assert [(h.pid, h.used_bytes) for h in reading.holders] == [(os.getpid(), None)]
    ledger = build_ledger(reading, {})
    assert ledger is not None
    assert ledger.unattributed_bytes == 5 * GIB


def test_a_process_list_that_is_not_supported_is_unknown_and_not_empty(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.set_process(0, os.getpid(), 1 * GIB)
    stub.inject(0, "processes", NvmlCode.NOT_SUPPORTED)
    (reading,) = probe.read()
    assert (reading.holders, reading.holders_known) == ((), False)
    assert reading.problem == Message("holders_unknown", {"device": "gpu-0", "detail": "Not Supported"})
    assert reading.used_bytes == 1 * GIB


def test_a_gpu_that_does_not_draw_has_a_complete_list_all_the_same(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.set_process(0, os.getpid(), 1 * GIB)
    stub.inject(0, "graphics", NvmlCode.NOT_SUPPORTED)
    (reading,) = probe.read()
    assert [h.pid for h in reading.holders] == [os.getpid()]
    assert reading.holders_known


def test_a_list_that_fails_halfway_is_unknown(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.inject(0, "graphics", NvmlCode.UNKNOWN)
    (reading,) = probe.read()
    assert not reading.holders_known


@pytest.mark.parametrize("error", [NvmlCode.GPU_IS_LOST, NvmlCode.RESET_REQUIRED])
@pytest.mark.parametrize("call", ["handle", "uuid", "memory", "power", "processes", "all"])
def test_a_lost_gpu_keeps_who_it_is_and_never_hides_the_others(
    probe: RemoteProbe, stub: NvmlStub, call: str, error: NvmlCode
) -> None:
    for index in (1, 2):
        stub.add_gpu(index)
    before = probe.read()
    stub.inject(1, call, error)
    first, lost, last = probe.read()
    assert (first, last) == (before[0], before[2])
    assert (lost.device_id, lost.name, lost.uuid) == ("gpu-1", before[1].name, before[1].uuid)
    assert figures(lost) == (None, None, None, None)
    assert not lost.holders_known
    assert lost.problem is not None
    assert lost.problem.code == "device_lost"
    assert lost.problem.params["device"] == "gpu-1"
    stub.heal(1, call)
    assert probe.read() == before


def test_a_gpu_that_was_lost_from_the_start_is_listed_by_its_number(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.add_gpu(1)
    stub.inject(0, "handle", NvmlCode.GPU_IS_LOST)
    lost, other = probe.read()
    assert (lost.device_id, lost.name, lost.uuid) == ("gpu-0", None, None)
    assert other.total_bytes == 24 * GIB


def test_gpus_keep_their_ids_when_a_lost_one_falls_off_the_list(probe: RemoteProbe, stub: NvmlStub) -> None:
    stub.add_gpu(1)
    first, second = probe.read()
    stub.remove_gpu(0)
    shutil.move(stub.folder / "gpu-1", stub.folder / "gpu-0")
    probe.close()
    lost, other = probe.read()
    assert other == second
    assert (lost.device_id, lost.uuid, lost.total_bytes) == ("gpu-0", first.uuid, None)
    assert lost.problem is not None
    assert lost.problem.code == "device_lost"


@pytest.mark.parametrize(
    "error", [NvmlCode.DRIVER_NOT_LOADED, NvmlCode.LIB_RM_VERSION_MISMATCH, NvmlCode.UNINITIALIZED]
)
def test_a_driver_that_is_missing_is_said_so_and_picked_up_when_it_comes(
    probe: RemoteProbe, stub: NvmlStub, error: NvmlCode
) -> None:
    stub.inject(None, "init", error)
    with pytest.raises(DriverMissing):
        probe.open()
    with pytest.raises(DriverMissing):
        probe.read()
    stub.heal(None, "init")
    assert probe.read()[0].total_bytes == 24 * GIB


def test_a_driver_that_goes_is_opened_again_when_it_is_back(probe: RemoteProbe, stub: NvmlStub) -> None:
    before = probe.read()
    stub.inject(None, "driver", NvmlCode.DRIVER_NOT_LOADED)
    for _ in range(2):
        with pytest.raises(DriverMissing):
            probe.read()
    stub.heal(None, "driver")
    assert probe.read() == before


def test_a_driver_that_does_not_say_which_gpus_there_are_is_a_failed_reading(
    probe: RemoteProbe, stub: NvmlStub
) -> None:
    before = probe.read()
    stub.inject(None, "count", NvmlCode.UNKNOWN)
    with pytest.raises(ProbeFailed) as failure:
        probe.read()
    assert type(failure.value) is ProbeFailed
    stub.heal(None, "count")
    assert probe.read() == before


@pytest.mark.skipif(ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has NVIDIA's library")
def test_a_library_that_is_installed_later_is_picked_up(stub: NvmlStub, tmp_path: Path) -> None:
    libraries = tmp_path / "lib"
    libraries.mkdir()
    probe = RemoteProbe({"LD_LIBRARY_PATH": str(libraries)})
    try:
        probe.use(stub.folder)
        with pytest.raises(DriverMissing) as failure:
            probe.read()
        assert failure.value.params["detail"] == "NVML Shared Library Not Found"
        shutil.copy(build() / SONAME, libraries)
        assert probe.read()[0].total_bytes == 24 * GIB
    finally:
        probe.end()


def test_the_memory_of_a_process_is_back_when_it_has_ended(
    probe: RemoteProbe, stub: NvmlStub, process: Callable[[], subprocess.Popen[bytes]]
) -> None:
    worker = process()
    stub.set_gpu(0, used=1 * GIB)
    stub.set_process(0, worker.pid, 4 * GIB)
    assert probe.read()[0].used_bytes == 5 * GIB
    worker.kill()
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    (reading,) = probe.read()
    assert (reading.used_bytes, reading.holders) == (1 * GIB, ())


def test_a_program_files_its_own_bytes_and_a_second_one_sees_them(stub: NvmlStub) -> None:
    files = f'echo {GIB} > "${FOLDER_VARIABLE}/gpu-0/processes/$$" && echo filed && read wait'
    reads = (
        "import pynvml; pynvml.nvmlInit(); "
        "print(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)"
    )
    (stub.folder / "gpu-0" / "processes").mkdir()
    environment = os.environ | stub.env()
    with subprocess.Popen(
        ["sh", "-c", files], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"filed\n"
        seen = subprocess.check_output([sys.executable, "-c", reads], env=environment)
        worker.communicate(b"\n")
    assert int(seen) == GIB + 512 * MIB


@contextmanager
def running(monitor: Monitor) -> Iterator[Monitor]:
    monitor.start()
    try:
        yield monitor
    finally:
        assert monitor.stop(PATIENCE_S)


def test_a_driver_call_that_hangs_ages_the_sample_and_delays_no_reader(probe: RemoteProbe, stub: NvmlStub) -> None:
    with running(Monitor([probe], interval_s=0.01, stale_after_s=0.2)) as monitor:
        sample = monitor.fresh(PATIENCE_S)
        assert sample is not None
        stub.block(60)
        deadline = time.monotonic() + PATIENCE_S
        while not monitor.is_stale():
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        begun = time.perf_counter()
        for _ in range(1000):
            assert monitor.latest() is not None
            assert monitor.is_stale()
            monitor.history("gpu-0")
        assert time.perf_counter() - begun < 0.5
        assert monitor.fresh(0.05) is None
        stub.unblock()
        again = monitor.fresh(PATIENCE_S)
        assert again is not None
        assert not monitor.is_stale()


def test_a_stop_while_the_driver_hangs_returns(probe: RemoteProbe, stub: NvmlStub) -> None:
    monitor = Monitor([probe], interval_s=3600)
    monitor.start()
    assert monitor.fresh(PATIENCE_S) is not None
    stub.block(60)
    assert monitor.fresh(0.05) is None
    (thread,) = [t for t in threading.enumerate() if t.name == "monitor"]
    begun = time.perf_counter()
    assert not monitor.stop(0.1)
    assert time.perf_counter() - begun < 1
    stub.unblock()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_the_machine_as_a_whole_with_a_gpu_that_comes_goes_and_returns(
    probe: RemoteProbe, stub: NvmlStub, process: Callable[[], subprocess.Popen[bytes]]
) -> None:
    worker = process()
    probe.use(stub.folder, workers={worker.pid: "a"})
    stub.inject(None, "init", NvmlCode.DRIVER_NOT_LOADED)
    with running(Monitor([probe, HostProbe(Holders())], interval_s=3600, retry_s=0)) as monitor:
        sample = monitor.fresh(PATIENCE_S)
        assert sample is not None
        assert [r.device_id for r in sample.readings] == ["host"]
        assert sample.problem is not None
        assert sample.problem.code == "driver_missing"

        stub.heal(None, "init")
        stub.set_gpu(0, used=1 * GIB)
        stub.set_process(0, worker.pid, 2 * GIB)
        sample = monitor.fresh(PATIENCE_S)
        assert sample is not None
        assert sample.problem is None
        (reading,) = sample.readings
        ledger = build_ledger(reading, {"a": "Qwen"})
        assert ledger is not None
        assert [(p.kind, p.label, p.used_bytes) for p in ledger.parts] == [
            (LedgerKind.DRIVER, None, 512 * MIB),
            (LedgerKind.WORKER, "Qwen", 2 * GIB),
            (LedgerKind.UNATTRIBUTED, None, 1 * GIB),
            (LedgerKind.FREE, None, 21 * GIB - 512 * MIB),
        ]
        (holder,) = reading.holders
        assert isinstance(holder, Holder)

        stub.inject(None, "driver", NvmlCode.DRIVER_NOT_LOADED)
        sample = monitor.fresh(PATIENCE_S)
        assert sample is not None
        assert sample.problem is not None
        assert sample.problem.code == "driver_gone"
        assert [(r.device_id, r.name, r.total_bytes) for r in sample.readings] == [("gpu-0", "Stub GPU 0", None)]

        stub.heal(None, "driver")
        sample = monitor.fresh(PATIENCE_S)
        assert sample is not None
        assert sample.readings[0].used_bytes == 3 * GIB
        assert monitor.history("gpu-0")[0].used_bytes == 3 * GIB
