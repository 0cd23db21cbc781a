"""Real servers over real models: the fixtures of the tests that start gunicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.models import make_model
from tests.engine.server import WardenServer


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A Hugging Face cache with three tiny models."""
    folder = tmp_path / "cache"
    for number, name in enumerate(("lab/one", "lab/two", "lab/three")):
        make_model(folder, name, seed=number)
    return folder


@pytest.fixture
def start_server(tmp_path: Path, cache: Path) -> Iterator[Callable[..., WardenServer]]:
    """Start servers with settings of one's own; each is stopped at the end, and its models with it."""
    started: list[WardenServer] = []

    def start(app: str = "wsgi:app", **settings: object) -> WardenServer:
        server = WardenServer(tmp_path / "state", cache, app, **settings)
        started.append(server)
        server.start()
        server.models(3)
        return server

    yield start
    for server in started:
        server.stop()
        server.end_models()
