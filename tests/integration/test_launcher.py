"""The launcher for real: workers that are forked from it, what they share and what they do not, and the ends of all of
them.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from tests.engine.models import make_model
from tests.integration.test_transformers_runtime import ask, spec, wait_for, wait_for_error
from webapp.domain.memory import HolderKind
from webapp.errors import DiskFull, TooManyFiles, WorkerDied
from webapp.hardware.holders import Holders
from webapp.hardware.host import HostProbe
from webapp.hardware.shared_pages import SharedPages
from webapp.runtimes.base import ProbeState
from webapp.runtimes.launcher import Launcher, LauncherUnavailable, _Running
from webapp.runtimes.processes import find_marked
from webapp.runtimes.protocol import ForkRequest, WorkerSpec, encode, process_start_time
from webapp.runtimes.transformers.command import worker_environment
from webapp.runtimes.transformers.runtime import TransformersRuntime
from webapp.runtimes.worker_folder import WorkerFolder
from webapp.settings import load_settings

MODEL = "tests/tiny"
PATIENCE_S = 90.0
MIB = 2**20
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.leaves("the launcher of all tests here ends with the last of them")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("cache"), MODEL)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    made = Launcher(tmp_path_factory.mktemp("state"), worker_environment())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def make_runtime(tmp_path: Path) -> Iterator[Callable[..., TransformersRuntime]]:
    made: list[TransformersRuntime] = []

    def make(launcher: Launcher | None, state: Path = tmp_path / "state") -> TransformersRuntime:
        settings = load_settings(state_dir=state, worker_ask_s=3.0, worker_term_s=1.0, worker_kill_s=3.0)
        made.append(TransformersRuntime(settings, launcher))
        return made[-1]

    yield make
    for runtime in made:
        for instance_id in set(runtime.processes().values()):
            runtime.terminate(instance_id, ask=False)
        runtime.reap(frozenset)


Maker = Callable[..., TransformersRuntime]


def wait_until(is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def load(runtime: TransformersRuntime, model: Path, name: str = "one", **options: object) -> int:
    runtime.launch(spec(model, name, **options))
    pid = wait_for(runtime, name, ProbeState.READY).pid
    assert pid is not None
    return pid


def status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def own_bytes(pid: int) -> int:
    return status(pid, "RssAnon") * 1024 - SharedPages().shared_bytes(pid)


def test_a_forked_worker_is_a_process_of_its_own(launcher: Launcher, make_runtime: Maker, model: Path) -> None:
    runtime = make_runtime(launcher)
    pid = load(runtime, model)
    folder = WorkerFolder(Path(runtime.endpoint("one").uds or "").parent)
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")

    assert os.getsid(pid) == pid == os.getpgid(pid)
    assert find_marked(str(folder.path.parent)).keys() == {p for p in [folder.process()] if p is not None}
    assert b"WARDEN_INSTANCE=one" in environment, "what is left of it can be found when its folder is gone"
    assert psutil.Process(pid).cmdline()[:2] == ["warden-worker", "one"]
    assert {Path(f"/proc/{pid}/fd/{output}").readlink() for output in (1, 2)} == {folder.log}
    assert not set(sockets_of(pid)) & set(sockets_of(launcher.pid() or 0)), (
        "nobody asks the launcher through its worker"
    )
    assert any("imported the libraries in 0.0" in line for line in runtime.log_tail("one", 50))
    assert set(runtime.processes().values()) == {"one"}


def open_files(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]


def sockets_of(pid: int) -> list[str]:
    return [name for name in open_files(pid) if name.startswith("socket:")]


def test_the_launcher_has_one_thread_and_touches_no_device(
    launcher: Launcher, make_runtime: Maker, model: Path
) -> None:
    """It says itself whether CUDA is initialised, before every fork: a fork is its word that it is not."""
    pid = load(make_runtime(launcher), model)
    forker = launcher.pid()
    assert forker is not None

    assert status(forker, "Threads") == 1
    assert status(pid, "Threads") > 1
    assert not [name for name in open_files(forker) if "nvidia" in name]


def test_neighbours_draw_other_random_numbers(launcher: Launcher, make_runtime: Maker, model: Path) -> None:
    runtime = make_runtime(launcher)
    for name in ("one", "two"):
        load(runtime, model, name)

    answers = [ask(runtime, name, max_tokens=24, temperature=1.5) for name in ("one", "two")]

    assert answers[0] != answers[1]


def test_a_worker_holds_little_beside_its_weights_and_no_neighbour_moves_the_figure(
    launcher: Launcher, make_runtime: Maker, model: Path
) -> None:
    runtime = make_runtime(launcher)
    first = load(runtime, model, "one")
    alone = own_bytes(first)
    for name in ("two", "three"):
        load(runtime, model, name)
    with_neighbours = own_bytes(first)
    runtime.terminate("two", ask=False)

    assert alone < 60 * MIB
    assert abs(with_neighbours - alone) < 2 * MIB
    assert abs(own_bytes(first) - alone) < 2 * MIB
    assert status(first, "RssAnon") * 1024 > 200 * MIB, "the kernel counts what is shared for everybody"


def bytes_by_kind(runtime: TransformersRuntime) -> Counter[HolderKind]:
    """What the workers and heirs of launchers hold, by the host's reading."""
    probe = HostProbe(Holders(runtime.processes, launchers=runtime.heirs))
    probe.open()
    found: Counter[HolderKind] = Counter()
    for holder in probe.read(anew=True)[0].holders:
        found[holder.kind] += holder.used_bytes or 0
    return found


def steady_bytes(runtime: TransformersRuntime) -> Counter[HolderKind]:
    """Return what they hold once it has stopped moving: a worker gives back memory after a load."""
    readings = [bytes_by_kind(runtime)]

    def is_steady() -> bool:
        time.sleep(0.5)
        readings.append(bytes_by_kind(runtime))
        return abs(readings[-1][HolderKind.WORKER] - readings[-2][HolderKind.WORKER]) < MIB

    wait_until(is_steady, "what the workers hold keeps moving")
    return readings[-1]


def test_killing_the_launcher_touches_no_worker_and_it_is_started_again(
    launcher: Launcher, make_runtime: Maker, model: Path
) -> None:
    runtime = make_runtime(launcher)
    pid, before = load(runtime, model), launcher.pid()
    assert before is not None
    load(runtime, model, "neighbour")
    held = steady_bytes(runtime)
    assert runtime.heirs() == frozenset()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: launcher.pid() not in (before, None), "no other launcher")

    assert ask(runtime, "one")
    assert len(runtime.heirs()) == 1, "what both go on sharing is counted once"
    assert abs(bytes_by_kind(runtime)[HolderKind.WORKER] - held[HolderKind.WORKER]) < 8 * MIB
    assert bytes_by_kind(runtime)[HolderKind.LAUNCHER] > 150 * MIB
    runtime.terminate("neighbour", ask=False)
    assert len(runtime.heirs()) == 1, "and still is by the one that is left"
    assert load(runtime, model, "two") != pid
    os.kill(pid, signal.SIGKILL)
    error = wait_for_error(runtime, "one")
    assert isinstance(error, WorkerDied)
    assert error.params["exit"] == "SIGKILL", "its keeper has seen how it ended"


def test_a_later_warden_learns_how_a_worker_ended_that_it_did_not_start(
    launcher: Launcher, make_runtime: Maker, model: Path
) -> None:
    pid = load(make_runtime(launcher), model)
    later = make_runtime(launcher)
    assert [(found.instance.id, found.adoptable) for found in later.discover()] == [("one", True)]

    os.kill(pid, signal.SIGTERM)

    error = wait_for_error(later, "one")
    assert isinstance(error, WorkerDied)
    assert error.params["exit"] == "SIGTERM"


def test_a_full_disk_is_said_by_the_worker_that_could_not_write(
    launcher: Launcher, make_runtime: Maker, model: Path, tmp_path: Path
) -> None:
    """Room for the folder and what Warden writes into it, and not for what the worker does."""
    state = tmp_path / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=6", "none", state], check=True)
    try:
        with pytest.raises(DiskFull):
            make_runtime(launcher, state).prepare(spec(model))
        assert not list((state / "workers").iterdir())
    finally:
        subprocess.run(["umount", "--lazy", state], check=True)


def test_no_descriptor_left_is_said_and_nothing_stays(launcher: Launcher, make_runtime: Maker, model: Path) -> None:
    runtime = make_runtime(launcher)
    load(runtime, model)
    runtime.terminate("one", ask=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), hard))
    try:
        with pytest.raises(TooManyFiles):
            runtime.prepare(spec(model))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    runtime.reap(frozenset)

    assert runtime.processes() == {}


def lowest_free_descriptor() -> int:
    descriptor = os.open("/", os.O_PATH)
    os.close(descriptor)
    return descriptor


def test_a_launcher_that_hangs_is_ended_and_the_worker_starts_by_itself(
    make_runtime: Maker, model: Path, tmp_path: Path
) -> None:
    launcher = Launcher(tmp_path / "state", worker_environment(), fork_s=0.3)
    runtime = make_runtime(launcher)
    try:
        load(runtime, model, "one")
        stopped = launcher.pid()
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)

        took_memory = runtime.prepare(spec(model, "two"))
        shares = runtime.shares_libraries()
        load(runtime, model, "two")

        assert (took_memory, shares) == (True, False), "no plan may count on what is not shared"
        assert runtime.engine_version("one") != runtime.engine_version("two"), (
            "and nothing is learned of one for the other"
        )

        assert any("imported the libraries in" in line and "0.0" not in line for line in runtime.log_tail("two", 50))
        wait_until(lambda: process_start_time(stopped) is None, "the launcher that hung is still there")
    finally:
        launcher.stop()


class ForgetfulLauncher(Launcher):
    """Ends while a fork's answer is on its way."""

    def _ask(self, running: _Running, request: ForkRequest) -> NoReturn:
        super()._ask(running, request)
        running.program.kill()
        raise LauncherUnavailable("the answer was lost")


def test_a_worker_whose_answer_was_lost_leaves_the_folder_to_the_one_that_is_started_by_itself(
    make_runtime: Maker, model: Path, tmp_path: Path
) -> None:
    launcher = ForgetfulLauncher(tmp_path / "state", worker_environment())
    runtime = make_runtime(launcher)
    try:
        pid = load(runtime, model)
    finally:
        launcher.stop()

    workers = find_marked(str(tmp_path / "state" / "workers"))
    assert {process.pid for process in workers} == {pid}
    assert set(runtime.processes()) == {pid}
    assert ask(runtime, "one")


def test_a_worker_that_cannot_tell_the_launcher_that_it_has_begun_ends(tmp_path: Path) -> None:
    """Its log is a pipe that nobody reads yet, so the worker is blocked when the launcher is killed."""
    launcher = Launcher(tmp_path / "state", worker_environment())
    folder = tmp_path / "workers" / "one"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes(encode(WorkerSpec("one", "token", None, waits=True)))
    os.mkfifo(folder / "log")
    said: list[str] = []

    def fork() -> None:
        try:
            launcher.fork(folder)
        except LauncherUnavailable as exc:
            said.append(str(exc))

    asking = threading.Thread(target=fork)
    asking.start()
    try:
        wait_until(lambda: find_marked(str(folder.parent)), "no worker")
        (worker,) = find_marked(str(folder.parent))
        os.kill(launcher.pid() or 0, signal.SIGKILL)
        asking.join(PATIENCE_S)
        log = os.open(folder / "log", os.O_RDONLY | os.O_NONBLOCK)
        try:
            wait_until(lambda: not worker.is_alive, "it lives on", patience_s=10.0)
        finally:
            os.close(log)
    finally:
        launcher.stop()
        for left in find_marked(str(folder.parent)):
            os.kill(left.pid, signal.SIGKILL)

    assert said
    assert "BrokenPipeError" not in said[0]


def test_a_launcher_that_cannot_import_is_said_and_nobody_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('no torch here')\n", encoding="utf-8")
    environment = worker_environment()
    path = os.pathsep.join([str(tmp_path / "broken"), environment["PYTHONPATH"]])
    launcher = Launcher(tmp_path / "state", {**environment, "PYTHONPATH": path})
    try:
        with pytest.raises(LauncherUnavailable, match="it ended"):
            launcher.fork(tmp_path)
        assert "no torch here" in (tmp_path / "state" / "launcher" / "log").read_text(encoding="utf-8")
    finally:
        launcher.stop()


HOLDS = """
import sys, time
from pathlib import Path
from webapp.runtimes.launcher import Launcher
from webapp.runtimes.transformers.command import worker_environment
launcher = Launcher(Path(sys.argv[1]), worker_environment())
launcher.start()
while not (launcher.is_ready or (sys.argv[2] == "importing" and launcher.pid())):
    time.sleep(0.01)
print(launcher.pid(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("when", ["importing", "ready"])
def test_the_launcher_ends_with_its_warden_whatever_ends_that(tmp_path: Path, when: str) -> None:
    warden = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path), when],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert warden.stdout is not None
    pid = int(warden.stdout.readline())
    if when == "importing":
        wait_until(lambda: "libtorch" in Path(f"/proc/{pid}/maps").read_text(), "it never imports torch")
    warden.kill()
    warden.wait()
    warden.stdout.close()

    wait_until(lambda: process_start_time(pid) is None, "it outlives its Warden", patience_s=1.0)


def test_a_launcher_that_cannot_see_the_end_is_ended_by_the_next_warden(tmp_path: Path) -> None:
    warden = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path), "importing"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert warden.stdout is not None
    pid = int(warden.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    warden.kill()
    warden.wait()
    warden.stdout.close()
    assert process_start_time(pid) is not None

    following = Launcher(tmp_path, worker_environment())
    following.start()
    try:
        wait_until(lambda: process_start_time(pid) is None, "it is still there", patience_s=5.0)
    finally:
        following.stop()


def test_only_the_owner_can_look_into_the_launchers_folder(launcher: Launcher) -> None:
    folder = launcher._folder

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    assert not any(path.is_socket() for path in folder.iterdir()), "what has no name can be asked by nobody else"
