"""The launcher from Warden's side, without its imports: what it does where a thread, a fork or a moment is missing."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.server import wait_for
from webapp.runtimes.launcher import Launcher, LauncherUnavailable, _Running
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.protocol import process_start_time

FAKE = Path(__file__).with_name("fake_launcher.py")
ROOT = Path(__file__).parents[3]
PATIENCE_S = 30.0
HUGE_STACK = 2**47 - 2**20


@contextmanager
def launcher(folder: Path, **answer: object) -> Iterator[Launcher]:
    """A launcher that gives every request this answer."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_ANSWER": json.dumps(answer)}
    made = Launcher(folder, environment, command=(sys.executable, str(FAKE)))
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def no_thread_to_be_had() -> Iterator[None]:
    """Within the block no thread can be started: there is no room for the stack of one."""
    threading.stack_size(HUGE_STACK)
    try:
        yield
    finally:
        threading.stack_size(0)


def wait_until(is_so: Callable[[], object]) -> None:
    wait_for(is_so, PATIENCE_S, lambda: "what was waited for did not come")


def test_a_worker_that_was_forked_is_named(tmp_path: Path) -> None:
    with launcher(tmp_path, pid=12, start_time=34) as one:
        assert one.fork(tmp_path) == ProcessId(12, 34)


def test_without_a_thread_it_is_not_to_be_had_and_the_next_call_tries_again(tmp_path: Path) -> None:
    with launcher(tmp_path, pid=12, start_time=34) as one:
        with no_thread_to_be_had(), pytest.raises(LauncherUnavailable, match="thread"):
            one.fork(tmp_path)
        assert not one.is_to_be_had

        one.start()
        wait_until(lambda: one.is_ready)
        assert one.is_to_be_had
        assert one.fork(tmp_path) == ProcessId(12, 34)


def test_a_stop_without_a_thread_is_none(tmp_path: Path) -> None:
    with launcher(tmp_path) as one, no_thread_to_be_had():
        one.start()
        one.stop()


class LateLauncher(Launcher):
    """Is told to stop in the moment between the start of the process and the note that it runs."""

    def _spawn(self) -> _Running:
        running = super()._spawn()
        self._stopping.set()  # ``stop`` has found nothing to end
        return running


def test_a_stop_while_it_is_started_ends_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_ANSWER": "{}"}
    one = LateLauncher(tmp_path, environment, command=(sys.executable, str(FAKE)))
    one.start()
    thread = one._thread
    assert thread is not None
    thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert one.pid() is None


def test_no_memory_for_a_copy_of_it_leaves_the_worker_to_be_started_by_itself(tmp_path: Path) -> None:
    answer = {"errno": errno.ENOMEM, "detail": "Cannot allocate memory"}
    with launcher(tmp_path, **answer) as one, pytest.raises(LauncherUnavailable, match="Cannot allocate memory"):
        one.fork(tmp_path)


def test_an_error_of_the_systems_is_raised_as_it_is(tmp_path: Path) -> None:
    answer = {"errno": errno.EACCES, "detail": "Permission denied"}
    with launcher(tmp_path, **answer) as one, pytest.raises(PermissionError) as raised:
        one.fork(tmp_path)
    assert str(raised.value) == f"[Errno 13] Permission denied: '{tmp_path}'"


def test_a_launcher_that_does_not_fork_is_ended_and_not_counted_on_until_another_is_ready(tmp_path: Path) -> None:
    with launcher(tmp_path, detail="the launcher has 2 threads") as one:
        one.start()
        wait_until(lambda: one.is_ready)
        refused = one.pid()
        with pytest.raises(LauncherUnavailable, match="2 threads"):
            one.fork(tmp_path)

        assert process_start_time(refused or 0) is None
        wait_until(lambda: one.pid() not in (refused, None))
        wait_until(lambda: one.is_ready)
        assert one.is_to_be_had
