"""An installed Warden works in a folder that holds nothing: the page, its files and languages, and a model from load to answer."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import psutil
import pytest

from tests.engine.packages import Installation, build_wheel
from tests.engine.server import WardenServer, running

ENGLISH = {"Accept-Language": "en"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def server_of(installation: Installation, folder: Path) -> WardenServer:
    """``warden run`` of the installation, in an empty folder."""
    server = WardenServer(folder / "state", folder / "cache")
    server.folder = folder / "empty"
    server.folder.mkdir()
    server.environment = {"PYTHONPATH": "", "HOME": str(folder)}
    server.started_by = lambda command: [str(installation.bin / "warden"), "run"]
    return server


def test_a_wheel_with_its_extras_serves_the_page_in_both_languages_and_runs_a_model(
    wheel: Path, tmp_path: Path
) -> None:
    installation = Installation(tmp_path / "environment", wheel, ("transformers", "vllm"))
    with running(server_of(installation, tmp_path)) as server:
        with httpx.Client(base_url=server.url, headers=ENGLISH, follow_redirects=True, timeout=30) as browser:
            page = browser.get("/").raise_for_status().text
            files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
            for file in files:
                assert browser.get(file).raise_for_status().content
            russian = browser.get("/language/ru").raise_for_status().text
        made = server.finished(server.post("/api/v1/demo").json()["id"])
        (model,) = server.models()
        loaded = server.load(model["id"])
        instance = server.instance_of(model["id"])["id"]
        answer = server.post(f"/api/v1/instances/{instance}/ask", {"prompt": "Hello", "max_tokens": 4})
        assert server.process is not None
        command = psutil.Process(server.process.pid).cmdline()

    assert "Skip to content" in page
    assert len(files) >= 3
    assert "К содержанию" in russian
    assert (made["state"], loaded["state"]) == ("succeeded", "succeeded")
    assert answer.status_code == 200, answer.text
    assert str(installation.packages / "webapp" / "server" / "gunicorn_conf.py") in command
    assert list(server.folder.iterdir()) == []


def test_a_wheel_without_extras_serves_the_page_and_names_the_extra_of_each_mode(wheel: Path, tmp_path: Path) -> None:
    installation = Installation(tmp_path / "environment", wheel)
    with running(server_of(installation, tmp_path)) as server:
        problems = server.status()["mode_problems"]
        page = httpx.get(server.url, headers=ENGLISH, timeout=30).raise_for_status().text
        demo = server.finished(server.post("/api/v1/demo").json()["id"])

    assert {mode: problem["code"] for mode, problem in problems.items()} == {
        "transformers": "transformers_not_installed",
        "vllm": "vllm_not_installed",
    }
    assert "it needs the extra warden[transformers]" in page
    assert "it needs the extra warden[vllm]" in page
    assert demo["error"]["code"] == "mode_unavailable"
