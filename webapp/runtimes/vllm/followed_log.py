"""Follows a container's log: its last lines, the stage of the start, and how the container ended."""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque

from webapp.domain.instance import MemoryReport
from webapp.errors import EngineUnavailable
from webapp.message import Message
from webapp.runtimes.vllm.docker.connections import LogStream
from webapp.runtimes.vllm.docker.containers import Inspected, moment
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone
from webapp.runtimes.vllm.log import LogReader, Stage, clean_line, is_own_question, split_chunks

log = logging.getLogger(__name__)

KILLED = 128 + signal.SIGKILL
AGAIN_S = 0.5
"""Pause before asking for the log again after the engine hung up or was unreachable."""


class FollowedLog:
    """Follows one container in its own thread until the container has ended or ``stop`` is called."""

    def __init__(self, engine: DockerEngine, container_id: str, instance_id: str, lines: int) -> None:
        self._engine = engine
        self._container_id = container_id
        self._kept = lines
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=lines)
        self._reader = LogReader()
        self._count = 0
        self._last: float | None = None
        self._rest = b""
        self._stream: LogStream | None = None
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._exit: Inspected | None = None
        self._thread = threading.Thread(target=self._follow, name=f"warden-log-{instance_id}", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading and wait for the thread; what was read stays."""
        self._stopped.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        self._thread.join(AGAIN_S * 4)

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        with self._lock:
            return tuple(self._lines)

    @property
    def count(self) -> int:
        """How many lines there were in total; rises with every new line."""
        return self._count

    @property
    def stage(self) -> Stage:
        """How far the start has come."""
        with self._lock:
            return self._reader.stage

    @property
    def message(self) -> Message:
        """The stage in words."""
        with self._lock:
            return self._reader.message

    @property
    def memory(self) -> MemoryReport | None:
        """The memory that vLLM reported; ``None`` if it has not."""
        with self._lock:
            return self._reader.memory

    @property
    def progress(self) -> float | None:
        """The finished share of the stage, 0 to 1; ``None`` if unknown."""
        with self._lock:
            return self._reader.progress

    @property
    def has_ended(self) -> bool:
        """Whether the container has ended and its log was read to the end."""
        return self._ended.is_set()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until ``has_ended``; return False on timeout."""
        return self._ended.wait(timeout_s)

    @property
    def exit(self) -> Inspected | None:
        """How the container ended; ``None`` while it runs, or if it was removed."""
        return self._exit

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._read()
                seen = self._engine.inspect(self._container_id)
            except ContainerGone:
                self._end(None)
                return
            except EngineUnavailable as exc:
                log.debug("the log of %s cannot be read: %s", self._container_id[:12], exc)
            else:
                if not seen.running and seen.status != "created":
                    self._end(None if self._is_being_removed(seen) else seen)
                    return
            self._stopped.wait(AGAIN_S)

    def _is_being_removed(self, seen: Inspected) -> bool:
        """Whether a container that ended by SIGKILL is being removed: Docker kills first and forgets a moment later."""
        if seen.status == "removing":
            return True
        if seen.exit_code != KILLED or seen.oom_killed:
            return False
        self._stopped.wait(AGAIN_S)
        try:
            return not self._engine.exists(self._container_id)
        except EngineUnavailable:
            return False

    def _end(self, how: Inspected | None) -> None:
        self._keep([self._rest.decode(errors="replace")])  # a last line without a newline
        self._exit = how
        self._ended.set()

    def _read(self) -> None:
        stream = self._engine.follow(self._container_id, since=self._last, tail=self._kept)
        with self._lock:
            self._stream = stream
        try:
            if not self._stopped.is_set():
                seen = self._last
                for piece in stream:
                    self._take(piece, seen)
        finally:
            with self._lock:
                self._stream = None
            stream.close()

    def _take(self, piece: bytes, seen: float | None) -> None:
        """Process a piece, which begins with its time; pieces repeated after a pause are skipped."""
        stamp, blank, text = piece.partition(b" ")
        at = moment(stamp)
        if at is None or not blank:
            text = piece
        elif seen is not None and at <= seen:
            return
        else:
            self._last = at
        lines, self._rest = split_chunks(self._rest + text)
        self._keep(lines)

    def _keep(self, raw_lines: list[str]) -> None:
        lines = [line for raw in raw_lines if (line := clean_line(raw))]
        with self._lock:
            for line in lines:
                self._reader.feed(line)
                if not is_own_question(line):
                    self._lines.append(line)
                    self._count += 1
