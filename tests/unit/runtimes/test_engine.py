"""Connections to an engine that cannot be reached leave nothing open."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.errors import EngineMissing, EngineUnreachable
from webapp.runtimes.engine import Engine


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Path]:
    """A socket that somebody has left behind."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    yield path


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("version", [None, "1.41"])
def test_engine_that_refuses_is_unreachable_and_costs_no_descriptor(refusing: Path, version: str | None) -> None:
    engine = Engine(refusing, timeout_s=1)
    engine._version = version
    gc.collect()
    before = descriptors()
    gc.disable()
    try:
        with pytest.raises(EngineUnreachable, match="ECONNREFUSED"):
            engine.containers()
        assert descriptors() == before
    finally:
        gc.enable()


def test_socket_that_is_not_there_is_a_missing_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineMissing):
        Engine(tmp_path / "docker.sock", timeout_s=1).containers()
