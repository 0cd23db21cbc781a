"""The command that starts a worker if no launcher forks it, and its environment."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from webapp.domain.modes import NOT_INSTALLED, Mode
from webapp.message import Message
from webapp.runtimes import extras
from webapp.runtimes.protocol import INSTANCE_VARIABLE, ROOT_VARIABLE
from webapp.runtimes.worker_folder import WorkerFolder
from webapp.settings import WORKER_COMMAND

COMMAND_LOOK_S = 2.0
"""How long the result of looking for the program is kept: every request asks whether the mode can be chosen."""
_KEPT_FROM_WORKERS = frozenset({"WARDEN_DATABASE_URL", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Secrets that a worker does not need and must not get, as it may run a model's own code."""


class WorkerCommand:
    """The command from the settings. Its program is looked for at most once in ``COMMAND_LOOK_S``."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._looked_at = float("-inf")
        self._problem: Message | None = None

    def problem(self) -> Message | None:
        """Return why it cannot start a worker, or ``None``. Never waits."""
        now = time.monotonic()
        if now - self._looked_at >= COMMAND_LOOK_S:
            self._looked_at, self._problem = now, self._look()
        return self._problem

    def _look(self) -> Message | None:
        if self._command == WORKER_COMMAND and not extras.are_installed(Mode.TRANSFORMERS):
            return NOT_INSTALLED[Mode.TRANSFORMERS]
        words = self._words()
        if not words or shutil.which(words[0]) is None:
            return Message("worker_command_missing", {"command": self._command})
        return None

    def _words(self) -> list[str]:
        try:
            return shlex.split(self._command)
        except ValueError:
            return []

    def start(self, folder: WorkerFolder) -> int:
        """Start a worker in ``folder``, in a new session, and return its pid. Raises OSError."""
        descriptor = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = _Detached(
                [*self._words(), "--dir", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=folder.path,
                env={**worker_environment(), INSTANCE_VARIABLE: folder.id, ROOT_VARIABLE: str(folder.path.parent)},
                close_fds=True,  # including the listening socket: a worker would keep the port after Warden's end
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return process.pid


class _Detached(subprocess.Popen[bytes]):
    """A child that outlives this program on purpose, so no ResourceWarning is issued. Others wait for it by its pid."""

    def __del__(self) -> None:
        return


def worker_environment() -> dict[str, str]:
    """Return the environment of workers and launcher: Warden's own without its secrets, plus the path of this
    package."""
    kept = {key: value for key, value in os.environ.items() if key not in _KEPT_FROM_WORKERS}
    package = str(Path(__file__).parents[3])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
