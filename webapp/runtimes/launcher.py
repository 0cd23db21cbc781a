"""Warden's side of the launcher: starts the process that forks workers, sends it requests, and restarts it.

Requests pass through an unnamed socket pair, so no other process can send any. The launcher ends as soon as Warden's
end of the pair is closed, for whatever reason; its workers outlive it. See ``webapp.worker.launcher``.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from webapp.folders import make_private
from webapp.runtimes import processes
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.protocol import (
    LOG_FILE,
    PROCESS_FILE,
    ROOM_LENGTH,
    ROOM_VARIABLE,
    ForkReply,
    ForkRequest,
    LauncherReady,
    LauncherRecord,
    ProtocolError,
    decode,
    encode,
    exit_text,
    process_start_time,
    write_file,
)

log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-m", "webapp.worker.launcher", "--control")
FOLDER: Final = "launcher"
MESSAGE_BYTES: Final = 1 << 16
IMPORT_S: Final = 120.0
"""How long the imports may take; a loaded machine needs 20 s."""
FORK_S: Final = 15.0
PAUSES_S: Final = (0.2, 1.0, 5.0, 30.0, 120.0)
"""Pauses before each restart of a launcher that ended; once a launcher was ready, they start over."""
STOP_S: Final = 2.0
LOG_LIMIT_BYTES: Final = 2**20
LOG_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class LauncherUnavailable(Exception):
    """No worker can be forked now; the text says why. A worker can still be started by its own command."""


@dataclass(frozen=True)
class _Running:
    """A launcher that was started."""

    program: subprocess.Popen[bytes]
    control: socket.socket
    ready: bool = False


class Launcher:
    """Keeps one launcher running from the first ``start`` or ``fork`` until ``stop``. Safe to use from any thread."""

    def __init__(
        self,
        state_dir: Path,
        environment: Mapping[str, str],
        fork_s: float = FORK_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """``environment`` is for the workers; ``command`` gets the launcher's end of the socket pair as last
        argument."""
        self._fork_s = fork_s
        self._command = command
        self._folder = state_dir / FOLDER
        self._environment = {**environment, ROOM_VARIABLE: "." * ROOM_LENGTH}
        self._changed = threading.Condition()
        self._running: _Running | None = None
        self._problem: str | None = None
        """Why the last launcher ended or was ended; ``None`` once another is ready."""
        self._asking = threading.Lock()
        """Held for one request and its reply: replies have no ids."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # Life

    def start(self) -> None:
        """Start the launcher in the background; idempotent. If there is no thread left, the next call tries again."""
        with self._changed:
            if self._thread is not None or self._stopping.is_set():
                return
            thread = threading.Thread(target=self._keep, name="warden-launcher", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                self._problem = f"it cannot be started: {exc}"
                return
            self._thread = thread

    def stop(self) -> None:
        """End the launcher; its workers stay."""
        self._stopping.set()
        with self._changed:
            running, thread = self._running, self._thread
            self._changed.notify_all()
        if running is not None:
            running.program.kill()  # it holds nothing that needs an orderly end
        if thread is not None:
            thread.join(STOP_S)

    @property
    def is_ready(self) -> bool:
        """Whether a fork would start at once."""
        running = self._running
        return running is not None and running.ready

    @property
    def is_to_be_had(self) -> bool:
        """Whether a worker started now would be forked, at once or after the imports."""
        return self._problem is None

    def pid(self) -> int | None:
        """Return the launcher's pid; ``None`` while there is no launcher. Never waits."""
        running = self._running
        return None if running is None else running.program.pid

    # Questions

    def fork(self, folder: Path) -> ProcessId:
        """Fork a worker into ``folder`` and return its process; waits for a launcher that is still importing.

        Raises:
            LauncherUnavailable: there is no launcher, or the system cannot commit the memory for a copy of it.
            OSError: the system has no process, file or disk space left.
        """
        self.start()
        with self._asking:
            running = self._wait_until_ready()
            try:
                reply = self._ask(running, ForkRequest(str(folder)))
            except LauncherUnavailable as exc:
                self._give_up(running, str(exc))
                raise
        if reply.errno is not None and reply.errno != errno.ENOMEM:
            raise OSError(reply.errno, reply.detail, str(folder))
        if reply.pid is None or reply.start_time is None:
            self._give_up(running, reply.detail)
            raise LauncherUnavailable(reply.detail)
        return ProcessId(reply.pid, reply.start_time)

    def _wait_until_ready(self) -> _Running:
        with self._changed:
            self._changed.wait_for(self._is_decided, IMPORT_S)
            running = self._running
        if running is None or not running.ready:
            raise LauncherUnavailable(self._problem or f"it is not ready after {IMPORT_S:.0f} s")
        return running

    def _is_decided(self) -> bool:
        return self.is_ready or self._problem is not None or self._stopping.is_set()

    def _ask(self, running: _Running, request: ForkRequest) -> ForkReply:
        try:
            running.control.settimeout(self._fork_s)
            running.control.send(encode(request))
            return decode(ForkReply, running.control.recv(MESSAGE_BYTES))
        except (OSError, ProtocolError) as exc:
            raise LauncherUnavailable(f"it does not answer: {exc}") from exc

    def _give_up(self, running: _Running, problem: str) -> None:
        """End a launcher that failed to fork. Until another is ready, workers share nothing, and no plan counts on it.

        A late reply would be taken for the reply to the next request, and the cause may persist (a second thread). A
        worker that is just being forked learns from the launcher's end that it is no longer wanted.
        """
        with self._changed:
            if self._running is running:
                self._set(None, problem)
        running.program.kill()
        with suppress(subprocess.TimeoutExpired):
            running.program.wait(STOP_S)

    # Keeping it

    def _keep(self) -> None:
        self._end_earlier()
        failures = 0
        while not self._stopping.is_set():
            failures = 0 if self._run_once() else failures + 1
            self._stopping.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])

    def _run_once(self) -> bool:
        """Start a launcher and wait until it has ended; return whether it was ready."""
        try:
            running = self._spawn()
        except OSError as exc:
            self._set(None, f"it cannot be started: {exc}")
            return False
        was_ready = False
        try:
            self._set(running, self._problem)
            if self._stopping.is_set():  # ``stop`` was called before there was a launcher to kill
                running.program.kill()
            was_ready = self._await_ready(running)
            running.program.wait()
        finally:
            running.program.kill()
            how = exit_text(running.program.wait())
            running.control.close()
            # A launcher that was ready will soon be ready again, so ``fork`` may wait for it, unless it was given up.
            self._set(None, self._problem if was_ready else f"it ended ({how}); see {self._folder / LOG_FILE}")
        if not self._stopping.is_set():
            log.warning("the launcher, pid %s, ended: %s", running.program.pid, how)
        return was_ready

    def _await_ready(self, running: _Running) -> bool:
        running.control.settimeout(IMPORT_S)
        try:
            ready = decode(LauncherReady, running.control.recv(MESSAGE_BYTES))
        except (OSError, ProtocolError) as exc:
            log.warning("the launcher does not become ready: %s", exc)
            running.program.kill()
            return False
        log.info("the launcher, pid %s, forks workers after %s s", ready.pid, ready.seconds)
        self._set(replace(running, ready=True), None)
        return True

    def _set(self, running: _Running | None, problem: str | None) -> None:
        with self._changed:
            self._running, self._problem = running, problem
            self._changed.notify_all()

    def _spawn(self) -> _Running:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._log() as output:
                program = subprocess.Popen(  # noqa: S603 - this very program, no shell
                    [*self._command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        self._write_down(program.pid)
        return _Running(program, ours)

    def _log(self) -> IO[bytes]:
        """Open the log, emptied if it is long; if it cannot be written, the launcher runs without one."""
        try:
            make_private(self._folder)
            path = self._folder / LOG_FILE
            is_long = path.exists() and path.stat().st_size > LOG_LIMIT_BYTES
            return os.fdopen(os.open(path, LOG_FLAGS | (os.O_TRUNC if is_long else 0), 0o600), "wb")
        except OSError as exc:
            log.warning("the launcher has no log: %s", exc)
            return open(os.devnull, "wb")  # noqa: PTH123 - the same kind of file as above

    def _write_down(self, pid: int) -> None:
        """Record the launcher and its Warden, for the next Warden in case this one is killed."""
        warden = os.getpid()
        record = LauncherRecord(pid, process_start_time(pid) or 0, warden, process_start_time(warden) or 0)
        with suppress(OSError):
            write_file(self._folder / PROCESS_FILE, encode(record))

    def _end_earlier(self) -> None:
        """End the launcher of a killed Warden if it could not notice that: it is stopped, or stuck in an import."""
        try:
            record = decode(LauncherRecord, (self._folder / PROCESS_FILE).read_bytes())
        except (OSError, ProtocolError):
            return
        if not ProcessId(record.warden_pid, record.warden_start_time).is_alive:
            processes.send(ProcessId(record.pid, record.start_time), signal.SIGKILL)
