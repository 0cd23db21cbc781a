"""Creates the demo model in a short-lived process, so that nothing heavy is imported here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from webapp.domain.modes import NOT_INSTALLED, Mode
from webapp.errors import DemoFailed, ModeUnavailable
from webapp.runtimes import extras

POLL_S = 0.1
COMMAND = (sys.executable, "-m", "webapp.worker.demo")


class DemoProgram:
    """Runs ``python -m webapp.worker.demo``. ``cache_dir`` is the Hugging Face cache to write to."""

    def __init__(self, cache_dir: Path, command: tuple[str, ...] = COMMAND) -> None:
        self._cache_dir = cache_dir
        self._command = command

    def make(self, wait: Callable[[float], None]) -> str:
        """Create the demo model and return its id.

        ``wait(seconds)`` is called while the program runs; if it raises, the program is ended.

        Raises:
            ModeUnavailable: the libraries that write a model are not installed.
            DemoFailed: the program failed; contains its last line of output.
        """
        if not extras.are_installed(Mode.TRANSFORMERS):
            mode = Mode.TRANSFORMERS
            raise ModeUnavailable(mode=mode.value, reason=NOT_INSTALLED[mode].code)
        program = subprocess.Popen(  # noqa: S603  Warden's own program and the settings' folder  # nosec B603
            [*self._command, "--cache", str(self._cache_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            while program.poll() is None:
                wait(POLL_S)
        except BaseException:
            program.kill()
            raise
        finally:
            output, errors = program.communicate()
        return _model_id(program.returncode, output, errors)


def _model_id(code: int, output: str, errors: str) -> str:
    last = (errors.strip().splitlines() or output.strip().splitlines() or [f"exit code {code}"])[-1]
    if code != 0:
        raise DemoFailed(detail=last)
    try:
        return str(json.loads(output.strip().splitlines()[-1])["id"])
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        raise DemoFailed(detail=f"unexpected answer: {last}") from exc
