"""The lock of a state folder holds whatever becomes of the folder and its disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.disks import SmallDisk, small_disk
from webapp.control.lock import StateLock, last_holder
from webapp.errors import AlreadyRunning, ConfigurationError

HOLD = """
import sys
from pathlib import Path
from webapp.control.lock import StateLock

lock = StateLock(Path(sys.argv[1]), "their.db")
lock.take()
print("held", flush=True)
sys.stdin.read()
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "above" / "state"


def other_process(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of ``folder`` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_removed_folder_is_still_its_holders(folder: Path) -> None:
    process = other_process(folder)
    shutil.rmtree(folder.parent)

    with pytest.raises(AlreadyRunning) as caught:
        StateLock(folder).take()
    end(process)

    assert caught.value.params["pid"] == str(process.pid)
    assert not folder.exists()
    lock = StateLock(folder)
    lock.take()
    lock.release()


def test_a_folder_made_anew_is_its_owners_alone(folder: Path) -> None:
    lock = StateLock(folder)
    lock.take()
    lock.release()

    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [0o700, 0o700]


def test_the_same_folder_by_another_path_is_the_same(folder: Path, tmp_path: Path) -> None:
    process = other_process(folder)
    (tmp_path / "link").symlink_to(folder)

    with pytest.raises(AlreadyRunning):
        StateLock(tmp_path / "link").take()
    end(process)


def test_a_lock_that_was_given_back_can_be_taken_again(folder: Path) -> None:
    one, two = StateLock(folder), StateLock(folder)
    one.take()
    one.take()
    with pytest.raises(AlreadyRunning):
        two.take()
    one.release()
    one.release()
    two.take()
    two.release()


def test_a_name_that_somebody_took_and_does_not_answer_stops_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from hashlib import sha256

    name = b"\0warden-" + sha256(os.fsencode(folder.resolve())).hexdigest()[:32].encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind(name)
        one, two = StateLock(folder), StateLock(folder)
        one.take()
        with pytest.raises(AlreadyRunning):
            two.take()
        one.release()

    assert "is taken by user unknown" in caplog.text


@needs_root
def test_a_full_disk_stops_no_lock_and_keeps_what_stood_in_its_file(disk: SmallDisk) -> None:
    folder = disk.folder / "state"
    first = StateLock(folder, "the.db")
    first.take()
    first.release()
    disk.fill()

    lock = StateLock(folder, "the.db")
    lock.take()

    holder = last_holder(folder)
    assert holder is not None
    assert (holder.database, holder.is_running) == ("the.db", True)
    with pytest.raises(AlreadyRunning):
        StateLock(folder).take()
    lock.release()


@needs_root
def test_a_full_disk_stops_no_lock_of_a_new_folder(disk: SmallDisk) -> None:
    disk.fill()
    lock = StateLock(disk.folder / "state", "the.db")

    lock.take()

    with pytest.raises(AlreadyRunning):
        StateLock(disk.folder / "state").take()
    lock.release()


@needs_root
@pytest.mark.parametrize("has_file", [True, False])
def test_a_read_only_disk_stops_no_lock(disk: SmallDisk, has_file: bool) -> None:
    folder = disk.folder / "state"
    folder.mkdir(mode=0o700)
    if has_file:
        (folder / "lock").write_text("7\nthe.db\n")
    disk.make_read_only()

    process = other_process(folder)
    with pytest.raises(AlreadyRunning):
        StateLock(folder).take()
    end(process)


@needs_root
def test_a_folder_that_a_read_only_disk_lacks_is_named_with_what_to_do(disk: SmallDisk) -> None:
    disk.make_read_only()

    with pytest.raises(ConfigurationError, match="mounted read-only: mount it for writing") as caught:
        StateLock(disk.folder / "state").take()

    assert caught.value.params["value"] == str(disk.folder / "state")
