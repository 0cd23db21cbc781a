"""Processes are known by identity, found by their mark, and ended by no more force than needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from webapp.runtimes.base import StopStage
from webapp.runtimes.processes import (
    ProcessId,
    StopTimes,
    end_processes,
    find_marked,
    group_members,
    identify,
    reap_child,
    resident_bytes,
    send,
    shared_memory,
    survivor,
    unlink_unused,
    wait_gone,
)
from webapp.runtimes.protocol import INSTANCE_VARIABLE, ROOT_VARIABLE

SHARING = """
import mmap, os, signal, sys
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.ftruncate(descriptor, 4096)
mapped = mmap.mmap(descriptor, 4096)
print("mapped", flush=True)
signal.pause()
"""
QUICK = StopTimes(2.0, 0.2, 2.0)
DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


class Child:
    """A child in a group of its own that is waited for by its pid alone."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            command, env={**os.environ, **environment}, start_new_session=True, stdout=subprocess.PIPE
        )
        self.id = identify(self.popen.pid) or ProcessId(0, 0)

    def alive(self) -> frozenset[ProcessId]:
        return frozenset({self.id}) if self.id.is_alive else frozenset()

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = Child("sleep", "60", **{ROOT_VARIABLE: str(tmp_path), INSTANCE_VARIABLE: "one"})
    yield child
    child.close()


@pytest.fixture
def deaf() -> Iterator[Child]:
    child = Child(sys.executable, "-c", DEAF)
    assert child.popen.stdout is not None
    assert child.popen.stdout.readline() == b"deaf\n"
    yield child
    child.close()


def test_a_process_is_more_than_its_pid(sleeper: Child) -> None:
    other = ProcessId(sleeper.id.pid, sleeper.id.start_time - 1)

    send(other, signal.SIGKILL)

    assert sleeper.id.is_alive
    assert not other.is_alive
    assert wait_gone((other,), 0)
    assert not wait_gone((sleeper.id,), 0.01)


def test_how_a_child_ended_is_told_once(sleeper: Child) -> None:
    assert reap_child(sleeper.id.pid) is None
    send(sleeper.id, signal.SIGKILL)
    assert wait_gone((sleeper.id,), 5)

    assert reap_child(sleeper.id.pid) == "SIGKILL"
    assert reap_child(sleeper.id.pid) is None
    assert reap_child(1) is None, "no child of ours"
    send(sleeper.id, signal.SIGKILL)
    assert survivor(sleeper.id).command is None


def test_a_mark_and_a_group_lead_to_a_process(sleeper: Child, tmp_path: Path) -> None:
    assert find_marked(str(tmp_path)) == {sleeper.id: "one"}
    assert find_marked(str(tmp_path / "other")) == {}
    assert group_members(sleeper.id.pid) == {sleeper.id}


def test_a_process_that_ends_when_asked_gets_no_signal(sleeper: Child) -> None:
    stages: list[StopStage] = []

    def ask() -> bool:
        os.kill(sleeper.id.pid, signal.SIGUSR1)
        return True

    stage, survivors = end_processes(
        sleeper.alive, StopTimes(60, 2, 2), ask=ask, leader=sleeper.id, on_stage=stages.append
    )

    assert (stage, survivors) == (StopStage.ASK, ())
    assert stages == [StopStage.ASK, StopStage.VERIFY]


def test_a_process_that_cannot_be_asked_gets_sigterm_at_once(sleeper: Child) -> None:
    stage, survivors = end_processes(
        sleeper.alive, StopTimes(60, 2, 2), ask=lambda: False, leader=sleeper.id, on_stage=lambda _: None
    )

    assert (stage, survivors) == (StopStage.TERMINATE, ())


def test_a_deaf_process_is_killed(deaf: Child) -> None:
    stages: list[StopStage] = []

    stage, survivors = end_processes(deaf.alive, QUICK, ask=lambda: False, leader=deaf.id, on_stage=stages.append)

    assert (stage, survivors) == (StopStage.KILL, ())
    assert stages == [StopStage.ASK, StopStage.TERMINATE, StopStage.KILL, StopStage.VERIFY]


def test_what_survives_everything_is_described(deaf: Child) -> None:
    """Nothing of ours survives SIGKILL in a test, so here it is looked for where it cannot be sent."""
    stage, survivors = end_processes(
        lambda: frozenset({ProcessId(os.getppid(), 0)}),
        StopTimes(0, 0, 0.05),
        ask=None,
        leader=None,
        on_stage=lambda _: None,
    )

    assert stage is StopStage.KILL
    assert [one.pid for one in survivors] == [os.getppid()]
    described = survivor(deaf.id)
    assert described.user
    assert described.command is not None
    assert "signal" in described.command
    assert described.state in ("S", "R")


def test_nothing_to_end_needs_no_step() -> None:
    stages: list[StopStage] = []

    result = end_processes(frozenset, QUICK, ask=lambda: True, leader=None, on_stage=stages.append)

    assert result == (StopStage.ASK, ())
    assert stages == []


def test_resident_memory_of_what_lives_is_summed_and_what_has_gone_counts_nothing(sleeper: Child) -> None:
    here = identify(os.getpid())
    assert here is not None
    own = resident_bytes([here])
    assert own > 10 * 2**20
    assert resident_bytes([here, sleeper.id, ProcessId(2**22 + 1, 0)]) > own


@pytest.fixture
def shared() -> Iterator[tuple[Path, Callable[[], Child]]]:
    """A file of /dev/shm, and what starts processes that map it."""
    path = Path("/dev/shm") / f"warden-test-{os.getpid()}"
    children: list[Child] = []

    def start() -> Child:
        child = Child(sys.executable, "-c", SHARING, str(path))
        children.append(child)
        assert child.popen.stdout is not None
        assert child.popen.stdout.readline() == b"mapped\n"
        return child

    yield path, start
    for child in children:
        child.close()
    path.unlink(missing_ok=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees everybody's maps")


@needs_root
def test_shared_memory_of_the_killed_goes_when_nobody_maps_it(shared: tuple[Path, Callable[[], Child]]) -> None:
    path, start = shared
    one, other = start(), start()
    files = shared_memory([one.id])
    assert [file.path for file in files] == [str(path)]
    one.popen.kill()
    one.popen.wait()
    unlink_unused(files)
    assert path.exists()  # the other maps it still
    other.popen.kill()
    other.popen.wait()
    unlink_unused(files)
    assert not path.exists()


@needs_root
def test_another_file_of_the_same_name_is_left(shared: tuple[Path, Callable[[], Child]]) -> None:
    path, start = shared
    child = start()
    files = shared_memory([child.id])
    child.popen.kill()
    child.popen.wait()
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"somebody else's")
    path.with_suffix(".old").unlink()
    unlink_unused(files)
    assert path.exists()
