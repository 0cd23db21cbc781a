"""Connections to an engine that cannot be reached leave nothing open."""

from __future__ import annotations

import gc
import io
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.runtimes.test_vllm_command import on_host, planned
from webapp.errors import EngineMissing, EngineUnreachable
from webapp.runtimes.vllm.docker.creation import archive_of, environment_of
from webapp.runtimes.vllm.docker.engine import DockerEngine


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
    engine = DockerEngine(refusing, timeout_s=1)
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
        DockerEngine(tmp_path / "docker.sock", timeout_s=1).containers()


class Images:
    """The one question of a client that is asked here."""

    def __init__(self, *environment: str) -> None:
        self._environment = list(environment)

    def inspect_image(self, image: str) -> dict[str, dict[str, list[str]]]:
        return {"Config": {"Env": self._environment}}


@pytest.mark.parametrize(
    ("of_image", "of_settings", "path"),
    [
        ((), (), "/opt/warden"),
        (("PATH=/bin", "PYTHONPATH=/opt/vllm"), (), "/opt/warden:/opt/vllm"),
        (("PYTHONPATH=/opt/vllm",), ("PYTHONPATH=/a:/b",), "/opt/warden:/a:/b"),
    ],
)
def test_wardens_modules_come_before_those_that_the_image_or_the_settings_name(
    of_image: tuple[str, ...], of_settings: tuple[str, ...], path: str
) -> None:
    plan = planned(on_host(), vllm_env=of_settings)

    environment = environment_of(Images(*of_image), plan)  # type: ignore[arg-type]

    assert environment == {**plan.environment, "PYTHONPATH": path}


def test_modules_are_files_of_their_own_folder() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive_of({"one": b"x = 1"}))) as archive:
        assert archive.getnames() == ["opt/warden/one.py"]
        assert archive.getmember("opt/warden/one.py").mode == 0o644
