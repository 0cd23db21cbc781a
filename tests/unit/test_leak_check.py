"""The leak check that every test is under finds what it should and forgives what it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

TESTS = """
import subprocess
import threading
import pytest

STOP = threading.Event()


def test_leaky():
    threading.Thread(target=STOP.wait, args=(20,), name="forgotten", daemon=True).start()
    subprocess.run("sleep 60 >/dev/null 2>&1 & echo $! >orphan", shell=True, check=True)  # an orphan at once


@pytest.mark.leaves("another test ends it")
def test_excused():
    threading.Thread(target=STOP.wait, args=(20,), daemon=True).start()


def test_clean():
    thread = threading.Thread(target=threading.Event().wait, args=(0.2,))
    thread.start()
    subprocess.run(["true"], check=True)
"""


def test_a_forgotten_thread_and_an_orphaned_process_fail_their_test_alone(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_bytes(CONFTEST.read_bytes())
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CONFTEST.parents[1])},
        check=False,
    )
    os.kill(int((tmp_path / "orphan").read_text(encoding="utf-8")), signal.SIGKILL)

    assert "3 passed, 1 error" in done.stdout
    assert "ERROR test_some.py::test_leaky" in done.stdout
    assert "thread forgotten (daemon)" in done.stdout
    assert "sleep 60" in done.stdout
