"""Starts and stops of containers in one Warden, twenty of the stand-in and two of the real vLLM: what there is afterwards is what
there was before.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.engine.server import WardenServer, wait_for
from tests.integration.vllm.conftest import ENDED, MODELS, PORTS, StartServer, Traces, Witness, load

CYCLES = 20


@dataclass(frozen=True)
class Count:
    """What the web process has open, and what there is on the engine."""

    descriptors: int
    threads: int
    children: int
    traces: Traces


def count(server: WardenServer, witness: Witness) -> Count:
    (web,) = server.web_processes()
    return Count(web.num_fds(), web.num_threads(), len(web.children(recursive=True)), witness.traces())


def cycle(server: WardenServer, model: str) -> None:
    instance = load(server, model)
    operation = server.finished(server.post(f"/api/v1/instances/{instance['id']}/unload").json()["id"])
    assert operation["state"] in ENDED, operation


@pytest.mark.slow
def test_twenty_starts_and_stops_leave_everything_as_it_was(server: StartServer, witness: Witness) -> None:
    one = server(settle_deadline_s=1)
    for model in MODELS:  # pools and caches are filled by now
        cycle(one, model)
    before = count(one, witness)
    for number in range(CYCLES):
        cycle(one, MODELS[number % len(MODELS)])
        witness.ids()
    assert len(witness.ids()) == 2 * (len(MODELS) + CYCLES)
    becomes_as_before(one, witness, before)


@pytest.mark.slow
def test_another_start_and_stop_of_the_real_vllm_leaves_everything_as_it_was(
    server: StartServer, real_vllm: dict[str, object], witness: Witness
) -> None:
    real: dict[str, object] = {"vllm_env": "[]", "vllm_term_s": 30, "launch_stall_s": 120, "vllm_ports": PORTS}
    one = server(**{**real_vllm, **real})
    cycle(one, MODELS[0])  # the volume for compiled code is made, and everything is imported once
    before = count(one, witness)
    cycle(one, MODELS[0])
    assert len(witness.ids()) == 4
    becomes_as_before(one, witness, before)


def becomes_as_before(one: WardenServer, witness: Witness, before: Count) -> None:
    """Wait a moment for threads and connections to end."""
    try:
        wait_for(lambda: grown(before, count(one, witness)) == {}, 10, lambda: "")
    except AssertionError:
        pytest.fail(f"grown: {grown(before, count(one, witness))}")


def grown(before: Count, now: Count) -> dict[str, tuple[object, object]]:
    """What there is more of than before; a thread of the server's pool may be started late, and a connection still be open."""
    slack = {"descriptors": 4, "threads": 2, "children": 0}
    more = {
        name: (getattr(before, name), getattr(now, name))
        for name, some in slack.items()
        if getattr(now, name) > getattr(before, name) + some
    }
    return more if now.traces == before.traces else {**more, "traces": (before.traces, now.traces)}
