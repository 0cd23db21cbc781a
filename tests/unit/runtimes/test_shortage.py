"""A start that finds the machine short of something says of what, on real disks and limits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from webapp.errors import DiskFull, DiskReadOnly, LaunchBlocked, LaunchFailed, TooManyFiles, TooManyProcesses
from webapp.runtimes.shortage import launch_error, mount_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


@contextmanager
def mounted(point: Path, options: str) -> Iterator[Path]:
    """A small disk of its own."""
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def failure_of_writing(path: Path, size: int = 2**20) -> OSError:
    with pytest.raises(OSError) as failed:
        path.write_bytes(b"x" * size)
    return failed.value


@needs_root
def test_full_disk_is_named_by_its_mount(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        error = launch_error(failure_of_writing(disk / "spec.json"), disk / "workers" / "one", "lab/one")
    assert isinstance(error, DiskFull)
    assert error.params == {"model": "lab/one", "path": str(disk / "workers" / "one"), "mount": str(disk)}


@needs_root
def test_disk_that_is_mounted_read_only_is_named(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        error = launch_error(failure_of_writing(disk / "spec.json"), disk, "lab/one")
    assert isinstance(error, DiskReadOnly)
    assert error.params["mount"] == str(disk)


def test_descriptors_that_are_used_up_are_named_with_their_limit(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "last").open("w") as last:
        limit = last.fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            error = launch_error(failure_of_writing(tmp_path / "spec.json"), tmp_path, "lab/one")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(error, TooManyFiles)
    assert error.params["limit"] == limit


FORKS_AT_THE_LIMIT = """
import os, resource, sys
from pathlib import Path
from webapp.runtimes.shortage import launch_error
os.setgid(65534); os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    os.fork()
except OSError as exc:
    print(launch_error(exc, Path("/"), "lab/one").code)
"""


@needs_root
def test_process_that_may_not_be_started_is_named() -> None:
    said = subprocess.run(
        [sys.executable, "-c", FORKS_AT_THE_LIMIT],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert said.stdout.strip() == TooManyProcesses.code, said.stderr


def test_other_failures_say_what_the_system_says(tmp_path: Path) -> None:
    error = launch_error(failure_of_writing(tmp_path / "missing" / "file"), tmp_path, "lab/one")
    assert type(error) is LaunchFailed
    assert "No such file" in str(error.params["detail"])


@pytest.mark.parametrize("kind", [DiskFull, DiskReadOnly, TooManyFiles, TooManyProcesses])
def test_shortage_is_not_the_models_fault(kind: type[LaunchFailed]) -> None:
    assert issubclass(kind, LaunchBlocked)


def test_mount_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    assert mount_of(tmp_path / "not" / "there") == mount_of(tmp_path)
