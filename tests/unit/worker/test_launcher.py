"""The launcher's forks, without the libraries: the error if there is none, and the descriptors that stay open."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from webapp.runtimes.protocol import ForkReply
from webapp.worker.launcher import read_answer, refusal


def run(script: str, folder: Path) -> str:
    """Run a program of its own, which may fork and replace what it likes; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_the_systems_error_is_said_once() -> None:
    error = PermissionError(errno.EACCES, "Permission denied")

    assert refusal(error) == ForkReply(errno=errno.EACCES, detail="Permission denied")
    assert refusal(ValueError("no")) == ForkReply(detail="ValueError: no")


def test_a_worker_that_is_silent_is_told_from_one_that_has_ended() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as answer:
        silent = read_answer(answer, 0.01)
        os.close(writing)
        ended = read_answer(answer, 0.01)

    assert silent.detail == "the worker has not begun after 0.01 s"
    assert ended.detail == "the worker ended before it had begun"


NO_FORK = """
import os, socket, sys
from pathlib import Path
from webapp.worker import launcher
def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = refuse
control = socket.socket()
before = len(os.listdir("/proc/self/fd"))
try:
    launcher.fork(Path(sys.argv[1]), control)
except BlockingIOError:
    print(len(os.listdir("/proc/self/fd")) - before, os.getcwd() == sys.argv[1])
"""


def test_a_fork_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    assert run(NO_FORK, tmp_path) == "0 False\n"


WORK_FAILS = """
import os, sys
from pathlib import Path
from webapp.worker import launcher
def fail(spec, engine):
    os.dup2(os.open(sys.argv[1] + "/a-file", os.O_WRONLY | os.O_CREAT), writing)
    raise ValueError("surprise")
launcher._begin = lambda folder, told: (None, None)
launcher.work = fail
reading, writing = os.pipe()
if (child := os.fork()) == 0:
    launcher._work(Path(sys.argv[1]), os.fdopen(writing, "wb", buffering=0))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_worker_that_fails_later_writes_into_no_file_that_has_the_number_of_the_answer(tmp_path: Path) -> None:
    assert run(WORK_FAILS, tmp_path) == "1\n"
    assert (tmp_path / "a-file").read_bytes() == b""


IMPORTS_ONLY = """
import os
from webapp.worker import launcher
launcher.FAMILIES = ()
launcher.TorchEngine.import_libraries = lambda self: print(os.environ["OPENBLAS_NUM_THREADS"])
for chosen in ("7", None):
    os.environ.pop("OPENBLAS_NUM_THREADS", None)
    if chosen:
        os.environ["OPENBLAS_NUM_THREADS"] = chosen
    launcher.prepare()
    print(os.environ.get("OPENBLAS_NUM_THREADS"))
"""


def test_the_one_thread_of_the_imports_is_not_handed_on(tmp_path: Path) -> None:
    assert run(IMPORTS_ONLY, tmp_path).split() == ["1", "7", "1", "None"]


BAD_FORK = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from webapp.worker import launcher
sys.modules["torch"] = SimpleNamespace(
    cuda=SimpleNamespace(is_initialized=lambda: False, _is_in_bad_fork=lambda: True)
)
reading, writing = os.pipe()
try:
    launcher._begin(Path(sys.argv[1]), os.fdopen(writing, "wb", buffering=0))
except RuntimeError as exc:
    print(exc)
print(launcher.read_answer(os.fdopen(reading, "rb", buffering=0)).detail)
"""


def test_a_fork_of_a_process_that_has_asked_the_driver_goes_to_no_work(tmp_path: Path) -> None:
    said = "the launcher has initialised CUDA"
    assert run(BAD_FORK, tmp_path) == f"{said}\nRuntimeError: {said}\n"
