"""A real NVIDIA GPU and the real worker on it. Elsewhere these tests are skipped, each with the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache as once
from pathlib import Path

import pytest

from tests.engine.dockerd import BUILD
from tests.engine.models import make_big_model, make_model
from tests.engine.server import WardenServer

FIGURES = BUILD / "gpu_figures.md"
CONTROL = Path("/dev/nvidiactl")
_ASK_TORCH = "import torch; print(torch.version.cuda, torch.cuda.device_count() if torch.cuda.is_available() else 0)"
_ASK_S = 120


@once
def why_no_gpu() -> str | None:
    """Say why there is nothing to test on; ``None`` where torch can use a GPU. CUDA stays out of this process."""
    if not CONTROL.exists():
        return f"there is no NVIDIA GPU: {CONTROL} is missing"
    asked = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_ASK_S, check=False
    )
    if asked.returncode != 0:
        return f"torch cannot be asked: {asked.stderr.strip()[-200:]}"
    built, count = asked.stdout.split()
    if built == "None":
        return "torch is built without CUDA"
    return None if int(count) else "there is no NVIDIA GPU that torch can use"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, and skip it where there is no GPU."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    reason = why_no_gpu() if here else None
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with a tiny model and one of about 1 GB in bfloat16."""
    folder = tmp_path_factory.mktemp("cache")
    make_model(folder, "lab/tiny", dtype="bfloat16")
    make_big_model(folder, "lab/big")
    return folder


@pytest.fixture
def start_server(tmp_path: Path, cache: Path) -> Iterator[Callable[..., WardenServer]]:
    """Start servers; each is stopped at the end, and its models with it."""
    started: list[WardenServer] = []

    def start(**settings: object) -> WardenServer:
        server = WardenServer(tmp_path / "state", cache, **settings)
        started.append(server)
        server.start()
        server.models(2)
        return server

    yield start
    for server in started:
        server.stop()
        server.end_models()


@pytest.fixture(scope="session")
def figures() -> Iterator[Callable[[str], None]]:
    """Lines that a run measured, written to ``build/gpu_figures.md`` for bench/RESULTS.md."""
    lines: list[str] = []
    yield lines.append
    BUILD.mkdir(exist_ok=True)
    FIGURES.write_text("\n".join(lines) + "\n")
