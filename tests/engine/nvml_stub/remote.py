"""The real ``NvmlProbe`` in a process with the stub as driver; a test calls it as if it were local.

A process can load only one ``libnvidia-ml.so.1``, and on a machine with a GPU the tests' process may hold the real one.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from webapp.domain.memory import Reading

ROOT = Path(__file__).resolve().parents[3]


class RemoteProbe:
    """A probe whose calls run in a child process; their exceptions are raised here."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.nvml_stub.remote"],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def use(
        self, folder: Path, workers: Mapping[int, str] | None = None, containers: Mapping[str, str] | None = None
    ) -> None:
        """Use a fresh probe on the machine in ``folder``."""
        self._call("use", str(folder), dict(workers or {}), dict(containers or {}))

    def open(self) -> None:
        """Call ``NvmlProbe.open``."""
        self._call("open")

    def read(self, *, anew: bool = False) -> tuple[Reading, ...]:
        """Call ``NvmlProbe.read``."""
        readings: tuple[Reading, ...] = self._call("read")
        return readings

    def close(self) -> None:
        """Call ``NvmlProbe.close``."""
        self._call("close")

    def end(self) -> None:
        """End the child."""
        with self._child as child:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(10)

    def _call(self, name: str, *arguments: object) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        pickle.dump((name, arguments), self._child.stdin)
        self._child.stdin.flush()
        error, answer = pickle.load(self._child.stdout)
        if error is not None:
            kind, params = error
            raise kind(**params)
        return answer


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Process requests until the stream ends."""
    from webapp.errors import WardenError
    from webapp.hardware.holders import Holders
    from webapp.hardware.nvml import NvmlProbe

    probe = NvmlProbe(Holders())
    while True:
        try:
            name, arguments = pickle.load(requests)
        except EOFError:
            return
        error: tuple[type[WardenError], dict[str, Any]] | None = None
        answer = None
        try:
            if name == "use":
                probe.close()
                folder, workers, containers = arguments
                os.environ["NVML_STUB_DIR"] = folder
                probe = NvmlProbe(Holders(partial(dict, workers), partial(dict, containers)))
            else:
                answer = getattr(probe, name)(*arguments)
        except WardenError as exc:
            error = type(exc), dict(exc.params)
        pickle.dump((error, answer), answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
