"""Fixtures of the Docker tests: a real engine with the images."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.engine import images
from tests.engine.dockerd import PrivateEngine, private_engine, why_unavailable

REQUIRE_ALL = "WARDEN_TEST_REQUIRE_ALL"
"""If set, tests whose requirements are missing fail instead of being skipped."""


def need(*reasons: str | None) -> None:
    """Skip with the first reason that is not ``None``; fail instead under ``REQUIRE_ALL``."""
    for reason in reasons:
        if reason is not None:
            if os.environ.get(REQUIRE_ALL):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[PrivateEngine]:
    """Yield an engine that accepts GPU requests (without GPUs), with the stand-in's image."""
    need(why_unavailable(), images.why_not_made())
    with private_engine("docker", gpu_hook=True) as engine:
        images.load_standin(engine)
        yield engine


@pytest.fixture(scope="session")
def bare_engine() -> Iterator[PrivateEngine]:
    """Yield an engine without GPU support, with the stand-in's image."""
    need(why_unavailable(), images.why_not_made())
    with private_engine("docker-bare") as engine:
        images.load_standin(engine)
        yield engine


@pytest.fixture(scope="session")
def real_vllm(docker_engine: PrivateEngine) -> dict[str, object]:
    """Return settings with which Warden runs the real vLLM on the CPU."""
    need(images.why_not_real())
    return {
        **engine_settings(docker_engine),
        "vllm_image": images.load_real(docker_engine),
        "vllm_mounts": f'["{images.SITE_MOUNT}"]',
        "vllm_args": "--enforce-eager",
    }


@pytest.fixture
def engine(docker_engine: PrivateEngine) -> Iterator[PrivateEngine]:
    """Yield the engine for one test, empty before and after."""
    yield docker_engine
    docker_engine.resume()
    if not docker_engine.is_running():
        docker_engine.restart()
    docker_engine.remove_everything()


def engine_settings(engine: PrivateEngine, **settings: object) -> dict[str, object]:
    """Return settings with which Warden uses this engine and the stand-in."""
    return {
        "docker_socket": engine.socket,
        "docker_poll_s": 0.5,
        "vllm_image": images.STANDIN,
        "vllm_ports": "18100-18199",
        **settings,
    }


def variables(**values: object) -> str:
    """Return a value for the setting of the containers' environment (``STANDIN_*``)."""
    pairs = ", ".join(f'"{name.upper()}={value}"' for name, value in values.items())
    return f"[{pairs}]"
