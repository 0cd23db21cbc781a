"""What every test is held to: it ends the threads and the processes that it started."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings
from werkzeug.routing import Rule
from xdist.scheduler import LoadScopeScheduling

from tests.engine.engine_fixtures import bare_engine, docker_engine, engine, real_vllm  # noqa: F401  fixtures of all tests

MARK = "RUN_OF_TESTS"
"""Set in the environment of the test run, so that a process is known as ours after its parent has died."""
ALONE = frozenset({"docker_engine", "bare_engine", "browser"})
"""Fixtures whose tests must not run at the same time…"""
ONE_BY_ONE = ("tests/integration/vllm/", "tests/e2e/")
"""…and where these are."""
QUICK = (
    "tests/unit/",
    "tests/web/",
    "tests/integration/test_launcher.py",
    "tests/integration/test_nvml.py",
    "tests/integration/test_switching.py::test_load_switch_unload_give_receipts_and_leave_nothing",
    "tests/integration/test_switching.py::test_fifty_simultaneous_applies_are_one_load_and_forty_nine_refusals",
    "tests/integration/test_switching.py::test_stop_keeps_the_models_and_the_next_start_adopts_them",
    "tests/e2e/test_main_job.py::test_from_an_empty_cache_to_an_answer_and_back[chromium-en-US]",
    "tests/e2e/test_main_job.py::test_everything_works_without_scripts",
)
"""What ``make test`` runs; ``make test-all`` runs all other tests."""
PATIENCE_S = 3.0
"""A thread or a process that was told to end may take this long."""
KEPT_THREADS = (
    "asyncio_",  # the event loop's pool lives as long as the loop
    "tqdm",
)
"""Threads that libraries keep for the whole run, by the start of their names."""


settings.register_profile("warden", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(
    "warden"
)  # how long a drawn example takes says how busy the machine is, and nothing of the program


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaves(reason): starts what another test or fixture ends; no leak check")
    os.environ[MARK] = uuid.uuid4().hex
    gc.set_threshold(50_000, 10, 100)  # at Python's 700 a tenth of the time goes into looking for garbage


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=("quick", "rest"), help="run the quick tests alone, or all but these")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare the long part the import of thousands of tests that are not its own; ``None`` leaves the choice to pytest."""
    folder = f"{collection_path.relative_to(config.rootpath).as_posix()}/"
    return True if config.getoption("--part") == "rest" and folder in QUICK else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("--part")
    if part is None:
        return
    left = [item for item in items if item.nodeid.startswith(QUICK) is not (part == "quick")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item.nodeid.startswith(QUICK) is (part == "quick")]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Where tests run side by side, those of the Docker engines and of the browser stay in one process.

    The engines share a data root, ports and images; and each container's network makes Chromium give up what it loads
    just then.
    """
    return Scheduling(config, log)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each test to the process that is free, and those that get in each other's way to one."""

    def _split_scope(self, nodeid: str) -> str:
        return "one by one" if nodeid.startswith(ONE_BY_ONE) else nodeid


@pytest.fixture(autouse=True)
def one_by_one_by_its_place(request: pytest.FixtureRequest) -> None:
    """Fail a test of a Docker engine or a browser that ``ONE_BY_ONE`` does not know."""
    if ALONE.intersection(request.fixturenames) and not request.node.nodeid.startswith(ONE_BY_ONE):
        pytest.fail(f"{request.node.nodeid} uses Docker or a browser: put it under one of {ONE_BY_ONE}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _templates_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Otherwise each application of a test would compile the templates again, in its own state folder."""
    folder = tmp_path_factory.mktemp("templates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("webapp.web.application._template_folder", lambda state_dir: folder)
        yield


class Starts:
    """Whether this program has started a process since none of the run was there: until then there is nothing to look
    for.

    A look reads the environment of every process of the machine, 10 ms for each test before this was asked.
    """

    EVENTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"})

    def __init__(self) -> None:
        self.happened = False
        sys.addaudithook(self._note)

    def _note(self, event: str, _: object) -> None:
        if event in self.EVENTS:
            self.happened = True


STARTS = Starts()


@pytest.fixture(scope="session", autouse=True)
def _routes_compiled_once() -> Iterator[None]:
    """werkzeug compiles two functions for each route of an application, and every application here has the same routes."""
    compiled: dict[object, Any] = {}
    compile_builder = Rule._compile_builder

    def once(rule: Rule, append_unknown: bool = True) -> Any:
        key = (rule.rule, rule.endpoint, repr(rule.defaults), append_unknown)
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", once)
        yield


@pytest.fixture(autouse=True)
def leaves_nothing_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread or a process, grandchildren and orphans included."""
    threads, processes = _threads(), _processes()
    STARTS.happened = bool(processes)
    yield
    if request.node.get_closest_marker("leaves"):
        return
    left = _what_outlives(threads, processes)
    if left:
        pytest.fail("the test left running:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)


def _what_outlives(threads: set[threading.Thread], processes: set[int]) -> list[str]:
    """Describe what is there and was not before, after giving it time to end."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := _new_threads(threads) + _new_processes(processes)) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return left


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _new_threads(before: set[threading.Thread]) -> list[str]:
    return [
        f"thread {thread.name}{' (daemon)' if thread.daemon else ''}"
        for thread in threading.enumerate()
        if thread not in before and not thread.name.startswith(KEPT_THREADS)
    ]


def _processes() -> set[int]:
    """Every live process of this run: descendants, and orphans that carry the run's mark."""
    if not STARTS.happened:
        return set()
    mark, children = f"{MARK}={os.environ[MARK]}".encode(), _children()
    return {pid for pid in psutil.pids() if pid != os.getpid() and _is_ours(pid, mark, children)}


def _is_ours(pid: int, mark: bytes, children: set[int]) -> bool:
    """Whether a process carries the mark, or is a child that was started a moment ago and has no environment yet."""
    environment = _environment(pid)
    return mark in environment or (pid in children and not any(environment))


def _children() -> set[int]:
    """The live children of this program."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended meanwhile
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def _environment(pid: int) -> list[bytes]:
    """What a process was started with; nothing of one that has ended, a zombie included, or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _new_processes(before: set[int]) -> list[str]:
    """Describe the processes that were not there before and do not belong to one that was: a browser starts helpers as
    it likes.
    """
    return [line for pid in _processes() - before if (line := _describe(pid, before))]


def _describe(pid: int, before: set[int]) -> str | None:
    try:
        process = psutil.Process(pid)
        if any(parent.pid in before for parent in process.parents()):
            return None
        return f"process {pid} (parent {process.ppid()}): {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return None  # it ended meanwhile
