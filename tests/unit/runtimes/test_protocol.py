"""Files and answers are taken only when they are of the protocol."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from webapp.runtimes.protocol import (
    LoadSpec,
    ProcessRecord,
    ProtocolError,
    StateReport,
    StopRequest,
    WorkerSpec,
    decode,
    decode_spec,
    encode,
    process_start_time,
    write_file,
)


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    """What is written goes to a device that is always full."""
    (tmp_path / f".exit.json.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "exit.json", b"{}")

    assert list(tmp_path.iterdir()) == []


LOAD = LoadSpec("m", "r", "/s", "cpu", None, "auto", "none", 128, 1)


@pytest.mark.parametrize("spec", [WorkerSpec("a", "t", None), WorkerSpec("a", "t", LOAD)])
def test_a_spec_comes_back_as_it_went(spec: WorkerSpec) -> None:
    assert decode_spec(encode(spec)) == spec


def test_unknown_keys_are_ignored_and_whole_numbers_are_numbers() -> None:
    assert decode(StopRequest, '{"wait_s": 3, "more": 1}') == StopRequest(3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"protocol": 1}',
        b'{"protocol": "1", "id": "a", "pid": 1, "state": "ready"}',
        b'{"protocol": true, "id": "a", "pid": 1, "state": "ready"}',
        b'{"protocol": 1, "id": null, "pid": 1, "state": "ready"}',
        b'{"protocol": 1, "id": "a", "pid": 1, "state": "ready", "in_flight": 1.5}',
    ],
)
def test_what_is_not_of_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(StateReport, data)


@pytest.mark.parametrize("load", ['"x"', "[]", '{"model_id": "m"}'])
def test_a_broken_load_is_refused(load: str) -> None:
    with pytest.raises(ProtocolError):
        decode_spec(f'{{"id": "a", "token": "t", "load": {load}}}')


def test_a_file_is_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    write_file(path, b"{}")
    write_file(path, encode(ProcessRecord(1, 2, 3)))

    assert json.loads(path.read_bytes())["start_time"] == 3
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_has_a_start_time_and_one_that_is_gone_has_none() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    zombie = process_start_time(child)
    os.waitpid(child, 0)

    assert zombie is None
    assert process_start_time(child) is None
    assert process_start_time(os.getpid())
