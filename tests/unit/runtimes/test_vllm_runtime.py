"""vLLM's runtime where there is no Docker at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp.errors import EngineMissing, EngineUnreachable
from webapp.runtimes.vllm import VllmRuntime
from webapp.settings import Settings


def runtime_on(folder: Path, socket: str) -> VllmRuntime:
    return VllmRuntime(Settings(state_dir=folder / "state", docker_socket=folder / socket))


def test_server_without_docker_has_no_leftovers(tmp_path: Path) -> None:
    assert runtime_on(tmp_path, "docker.sock").reap(frozenset) == ()


def test_server_without_docker_says_that_it_has_none_where_containers_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(EngineMissing):
        runtime_on(tmp_path, "docker.sock").discover()


def test_docker_that_does_not_answer_may_hold_leftovers(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnreachable):
        runtime_on(tmp_path, "file").reap(frozenset)
