"""One small server for the attacks that change nothing on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.models import make_model
from tests.engine.server import WardenServer, running

THREADS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WardenServer]:
    """A Warden with few threads, so that few clients could take them all."""
    folder = tmp_path_factory.mktemp("attacked")
    make_model(folder / "cache", "lab/one")
    with running(WardenServer(folder / "state", folder / "cache", threads=THREADS, log_level="DEBUG")) as started:
        yield started


@pytest.fixture(autouse=True)
def _server_first(server: WardenServer) -> None:
    """The server is there before the leak check looks."""
