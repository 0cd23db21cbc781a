"""The stand-in for vLLM: its log says what Warden's reader of vLLM's log knows, and it serves, drains and ends as vLLM does."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from webapp.errors import (
    ArchitectureUnsupported,
    ArgumentRejected,
    ContainerExited,
    ContextTooLong,
    KvCacheTooSmall,
    LaunchFailed,
    OutOfMemory,
    ProfileDisturbed,
    StartMemoryShort,
)
from webapp.runtimes.vllm.causes import cause_of
from webapp.runtimes.vllm.log import LogReader, Stage, clean_line, split_chunks
from webapp.runtimes.vllm.server import Load, NotServing, Rubbish, VllmServer

PROGRAM = Path(__file__).parents[1] / "engine" / "standin" / "vllm"
KEY = "secret"
NAME = "lab/one"
PATIENCE_S = 10.0
GPU = ("--gpu-memory-utilization", "0.5")
CPU = ("--kv-cache-memory-bytes", "268435456")


class Run:
    """One stand-in on a free port of this machine."""

    def __init__(self, model: Path, *flags: str, fault: str | None = None, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.server = VllmServer(free.getsockname()[1], KEY)
        named = ("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(self.server.port))
        settings = {"STANDIN_SECONDS": "0.1", "STANDIN_MB": "8", "STANDIN_TOKEN_SECONDS": "0.001", **environment}
        if fault is not None:
            settings["STANDIN_FAULT"] = fault
        self.process = subprocess.Popen(
            [PROGRAM, "serve", str(model), *named, "--max-model-len", "512", *flags],
            env={**os.environ, "VLLM_API_KEY": KEY, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until(self, text: str) -> str:
        """Return the next line that has ``text``."""
        while (line := self._news.get(timeout=PATIENCE_S)) is not None:
            if text in line:
                return line
        raise AssertionError("\n".join(self.lines))

    def ready(self) -> Run:
        self.until("Application startup complete")
        return self

    def ended(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(PATIENCE_S)

    def written(self) -> list[str]:
        """All that it wrote until its end."""
        self.ended()
        self._reader.join(PATIENCE_S)
        return self.lines

    @property
    def engine(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def close(self) -> None:
        for process in psutil.Process(self.process.pid).children() if self.process.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        while piece := os.read(self.process.stdout.fileno(), 65536):
            lines, rest = split_chunks(rest + piece)
            for line in map(clean_line, lines):
                self.lines.append(line)
                self._news.put(line)
        self._news.put(None)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def begin(*flags: str, model: Path = tmp_path, fault: str | None = None, **environment: str) -> Run:
            run = Run(model, *flags, fault=fault, **environment)
            stack.callback(run.close)
            return run

        yield begin


def cause(run: Run) -> LaunchFailed:
    lines = run.written()
    code = run.ended()
    name = signal.Signals(-code).name if code < 0 else None
    return cause_of(lines, model=NAME, max_tokens=512, exit_code=code, exit_signal=name)


@pytest.mark.parametrize(
    ("fault", "flags", "error", "code"),
    [
        ("short_memory", GPU, StartMemoryShort, 1),
        ("short_memory", CPU, StartMemoryShort, 1),
        ("kv_small", GPU, KvCacheTooSmall, 1),
        ("no_kv", GPU, KvCacheTooSmall, 1),
        ("architecture", GPU, ArchitectureUnsupported, 1),
        ("oom", GPU, OutOfMemory, 1),
        ("oom", CPU, OutOfMemory, 1),
        ("oom_warmup", GPU, OutOfMemory, 1),
        ("long_context", GPU, ContextTooLong, 1),
        ("disturbed", GPU, ProfileDisturbed, 1),
        ("missing_model", GPU, LaunchFailed, 1),
        ("crash", GPU, ContainerExited, 1),
        ("exit_code", GPU, ContainerExited, 3),
        ("killed", GPU, ContainerExited, -signal.SIGKILL),
        ("dies_later", CPU, ContainerExited, 1),
        (None, ("--no-such-flag",), ArgumentRejected, 2),
        (None, ("--max-num-seqs", "many"), ArgumentRejected, 2),
    ],
)
def test_each_fault_is_told_from_its_log(
    start: Start, fault: str | None, flags: tuple[str, ...], error: type[LaunchFailed], code: int
) -> None:
    run = start(*flags, fault=fault, STANDIN_DIE_AFTER_S="0.1")
    assert type(cause(run)) is error, run.lines
    assert run.ended() == code


def test_a_model_that_is_not_there_is_refused_without_a_fault(start: Start, tmp_path: Path) -> None:
    run = start(*CPU, model=tmp_path / "nowhere")
    assert "nowhere" in str(cause(run).params)


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        (GPU, list(Stage)),
        (CPU, [stage for stage in Stage if stage is not Stage.GRAPHS]),
    ],
)
def test_a_start_goes_through_vllms_stages(start: Start, flags: tuple[str, ...], stages: list[Stage]) -> None:
    run = start(*flags).ready()
    reader, seen, shares = LogReader(), [Stage.STARTING], []
    for line in run.lines:
        reader.feed(line)
        if reader.stage is not seen[-1]:
            seen.append(reader.stage)
        if reader.stage is Stage.WEIGHTS and reader.progress not in shares:
            shares.append(reader.progress)
    assert seen == stages
    assert [share for share in shares if share is not None] == [0, 0.25, 0.5, 0.75, 1]
    assert reader.figures["kv_cache_tokens"] == 262144


def test_it_serves_its_model_to_who_has_the_key(start: Start) -> None:
    run = start(*CPU).ready()
    assert run.server.models(PATIENCE_S) == (NAME,)
    assert run.server.load(PATIENCE_S) == Load(0, 0)
    with httpx.Client(base_url=run.server.base_url, trust_env=False) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").json() == {"error": "Unauthorized"}
        client.headers.update(run.server.headers)
        asked = {"model": NAME, "messages": [], "max_tokens": 3}
        choice = client.post("/v1/chat/completions", json=asked).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("This is the ", "length")
        events = client.post("/v1/completions", json={"model": NAME, "prompt": "", "stream": True}).text.split("\n\n")
        assert (len(events), events[-2]) == (10, "data: [DONE]")
        unknown = client.post("/v1/completions", json={"model": "lab/two", "prompt": ""})
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "NotFoundError")
    assert run.server.load(PATIENCE_S) == Load(0, 2)


def test_its_engine_holds_the_memory_and_ends_with_it(start: Start) -> None:
    run = start(*CPU, STANDIN_MB="48").ready()
    engine = run.engine
    assert engine.memory_info().rss >= 48 * 2**20
    assert engine.name().startswith("VLLM::")
    run.process.kill()
    engine.wait(PATIENCE_S)


def test_sigterm_lets_answers_end_and_ends_it(start: Start) -> None:
    run = start(*CPU, "--shutdown-timeout", "5", STANDIN_TOKEN_SECONDS="0.05").ready()
    engine = run.engine
    with httpx.stream(
        "POST",
        run.server.base_url + "/v1/completions",
        json={"model": NAME, "prompt": "", "stream": True},
        headers=dict(run.server.headers),
        trust_env=False,
    ) as response:
        lines = response.iter_lines()
        next(lines)
        run.process.terminate()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert run.ended() == 0
    assert not engine.is_running()
    assert any("[shutdown] API server: shutdown triggered" in line for line in run.written())


def test_sigterm_ends_an_idle_one_at_once(start: Start) -> None:
    run = start(*CPU, "--shutdown-timeout", "30").ready()
    before = time.monotonic()
    run.process.terminate()
    assert run.ended() == 0
    assert time.monotonic() - before < 2


def test_a_deaf_one_serves_on_after_sigterm(start: Start) -> None:
    run = start(*CPU, fault="deaf").ready()
    run.process.terminate()
    assert run.server.models(PATIENCE_S) == (NAME,)


def test_an_engine_may_be_left_behind(start: Start) -> None:
    run = start(*CPU, fault="leave_engine").ready()
    engine = run.engine
    try:
        engine.terminate()
        run.process.terminate()
        assert run.ended() == 0
        assert engine.is_running()
    finally:
        engine.kill()


@pytest.mark.parametrize(("fault", "error"), [("hang_http", NotServing), ("garbage_http", Rubbish)])
def test_a_port_may_answer_nothing_or_rubbish(start: Start, fault: str, error: type[Exception]) -> None:
    run = start(*CPU, fault=fault).ready()
    with pytest.raises(error):
        run.server.models(0.3)


def test_another_model_may_be_listed(start: Start) -> None:
    assert start(*CPU, fault="wrong_model").ready().server.models(PATIENCE_S) == ("somebody/else",)


def test_a_silent_one_says_no_more_than_its_banner(start: Start) -> None:
    run = start(*CPU, fault="silent")
    assert re.search("non-default args", run.until("non-default args"))
    run.process.terminate()
    assert run.ended() == 0
    assert not any("Resolved architecture" in line for line in run.written())


def test_a_fault_is_for_one_model_and_for_so_many_starts(start: Start, tmp_path: Path) -> None:
    start(*CPU, fault="crash", STANDIN_FAULT_MODEL="lab/two").ready()
    once = {"fault": "crash", "STANDIN_FAULT_TIMES": "1", "STANDIN_STATE": str(tmp_path)}
    assert start(*CPU, **once).ended() == 1
    start(*CPU, **once).ready()


def test_it_ends_when_its_engine_is_killed(start: Start) -> None:
    run = start(*CPU).ready()
    run.engine.kill()
    assert run.ended() == 1
    assert type(cause(run)) is ContainerExited
