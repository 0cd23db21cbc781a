"""Addresses and names that try to leave the folder that they belong to, against the real server and the real worker's runtime."""

from __future__ import annotations

import re

import pytest

from tests.engine.server import WardenServer
from tests.integration.attacks.sockets import HOST, exchange

CLIMBS = [
    "../../../../etc/passwd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2fsecret_key",
    "..%5c..%5csecret_key",
    "....//secret_key",
    "/etc/passwd",
    "%00",
    "..%00/",
]


@pytest.mark.parametrize("climb", CLIMBS)
@pytest.mark.parametrize(
    "below",
    [
        "/static/",
        "/static/js/",
        "/static/v/0/",
        "/instances/",
        "/operations/",
        "/api/v1/operations/",
        "/api/v1/tickets/",
        "/",
    ],
)
def test_no_address_leads_to_another_file(server: WardenServer, below: str, climb: str) -> None:
    raw = f"GET {below}{climb} HTTP/1.0\r\n".encode() + HOST + b"\r\n"

    answer = exchange(server.url, raw)

    assert re.match(rb"HTTP/1\.[01] (404|308|400) ", answer), answer[:100]
    assert b"root:" not in answer


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2f..", "%00", ".", "%2e", "spare-1", "../../lock"])
@pytest.mark.parametrize("route", ["/instances/{}/log", "/fragments/instances/{}/log", "/api/v1/instances/{}/unload"])
def test_an_instances_name_is_no_folder(server: WardenServer, route: str, name: str) -> None:
    """``STATE/workers/..`` is the state folder: a name is looked up in what is loaded before it is part of a path."""
    method = "POST" if "unload" in route else "GET"
    raw = f"{method} {route.format(name)} HTTP/1.0\r\nContent-Length: 0\r\n".encode() + HOST + b"\r\n"

    answer = exchange(server.url, raw)

    assert re.match(rb"HTTP/1\.[01] (404|308|400|405) ", answer), answer[:100]
    assert (server.state / "secret_key").exists()


@pytest.mark.parametrize(
    "model",
    [
        "../../etc",
        "/etc/passwd",
        "lab/../lab/one",
        "./lab/one",
        "lab/one/",
        "lab/one\x00",
        "lab%2fone",
        "lab\\one",
        "file:///etc",
        "--help",
        "-h",
        "lab/one --trust-remote-code",
        "lab/one\n--trust-remote-code",
        "https://evil.example/model",
        "LAB/ONE",
    ],
)
@pytest.mark.parametrize("call", ["switch", "plan", "tickets"])
def test_a_model_that_the_cache_does_not_hold_is_unknown_whatever_its_name_looks_like(
    server: WardenServer, call: str, model: str
) -> None:
    """A name is compared with those of the list and never made a path; what is started gets the list's own folder."""
    answer = server.post(f"/api/v1/{call}", {"mode": "transformers", "model": model})

    assert answer.status_code in (404, 200)
    assert answer.status_code == 404 or answer.json()["verdict"] == "refused"
    assert server.worker_pids() == []


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16 --trust-remote-code"},
        {"quantization": "int8\n--x"},
        {"max_tokens": "512 --x"},
        {"batch_size": [1]},
        {"mounts": ["/:/host"]},
        {"--trust-remote-code": True},
        {"image": "evil/image"},
        {"env": ["LD_PRELOAD=/tmp/x"]},
    ],
)
def test_an_option_is_one_of_its_values_and_nothing_else(server: WardenServer, options: dict[str, object]) -> None:
    answer = server.post("/api/v1/switch", {"mode": "transformers", "model": "lab/one", "options": options})

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid"


@pytest.mark.parametrize("device", ["../gpu-0", "gpu-0 --privileged", "all", "--gpus", ""])
def test_a_device_is_one_of_those_that_are_read(server: WardenServer, device: str) -> None:
    answer = server.post("/api/v1/switch", {"mode": "transformers", "model": "lab/one", "devices": [device]})

    assert answer.status_code in (404, 409, 422)
    assert server.worker_pids() == []
