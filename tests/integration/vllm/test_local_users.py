"""The container's port on 127.0.0.1, which every local user can reach: without the key it answers nothing of the model."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.engine.dockerd import PrivateEngine
from tests.integration.vllm.conftest import MODELS, StartWarden, inspect, standin

ONE = MODELS[0]


def test_the_containers_port_is_this_machines_alone_and_asks_for_the_key(
    warden: StartWarden, engine: PrivateEngine
) -> None:
    one = warden(vllm_env=standin())
    one.load(ONE)
    (container,) = engine.containers()
    (binding,) = inspect(engine, container)["NetworkSettings"]["Ports"]["8000/tcp"]
    url = f"http://127.0.0.1:{binding['HostPort']}"
    question = {"model": ONE, "messages": [{"role": "user", "content": "hello"}]}

    assert binding["HostIp"] == "127.0.0.1"
    for headers in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": "Basic eDp5"}):
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 401
        for route in ("/v1/chat/completions", "/invocations", "/tokenize"):
            assert httpx.post(url + route, headers=headers, json=question).status_code == 401
    assert httpx.get(f"{url}/health").status_code == 200


def test_the_key_stands_in_no_log_file_or_label_and_the_cache_is_read_only(
    warden: StartWarden, engine: PrivateEngine, tmp_path: Path
) -> None:
    one = warden(vllm_env=standin())
    one.load(ONE)
    (container,) = engine.containers()
    seen = inspect(engine, container)
    (key,) = [word.partition("=")[2] for word in seen["Config"]["Env"] if word.startswith("VLLM_API_KEY=")]

    assert len(key) >= 32
    assert key not in json.dumps([seen["Config"]["Labels"], seen["Args"], seen["Path"], seen["Name"]])
    assert key not in engine.cli("logs", container)
    for path in (path for path in (tmp_path / "state").rglob("*") if path.is_file()):
        assert key.encode() not in path.read_bytes() or path.stat().st_mode & 0o077 == 0
    assert [mount["RW"] for mount in seen["Mounts"] if mount["Destination"] == "/hf-cache"] == [False]
    assert seen["HostConfig"]["Privileged"] is False
