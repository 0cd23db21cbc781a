"""What could not be ended is looked at again: it leaves the list once nothing of it is left, and is listed as what it is when it lives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, loaded, model
from webapp.control.context import Context
from webapp.control.stuck import FIRST_PAUSE_S, LONGEST_PAUSE_S, StuckInstances
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.errors import Busy, EngineUnreachable

AWAY = EngineUnreachable(socket="/run/docker.sock", detail="timed out")


def make_stuck(bench: Bench) -> Instance:
    """Load a model in a container and unload it while Docker is away."""
    bench.vllm.problem = None
    bench.wait(bench.controller.switch(replace(bench.request("lab/one"), mode=Mode.VLLM), "ivan"))
    (instance,) = bench.state_store.state.instances.values()
    bench.vllm.fails["lab/one"] = "no_engine"
    bench.vllm.raises["ask"] = AWAY
    failed = bench.wait(bench.controller.unload(instance.id, "maria"))
    assert failed.state is OperationState.FAILED
    assert bench.state_store.state.instances[instance.id].state is InstanceState.STUCK
    return instance


def cleared(bench: Bench) -> Operation:
    """The operation that Warden itself made of it."""
    bench.until(lambda: any(o.actor == "warden" for o in bench.state_store.state.recent))
    return next(o for o in bench.state_store.state.recent if o.actor == "warden")


def test_instance_that_lives_is_listed_as_ready_once_its_runtime_answers_again(bench: Bench) -> None:
    instance = make_stuck(bench)
    bench.vllm.raises.clear()
    bench.vllm.fails.clear()
    bench.until(lambda: bench.state_store.state.instances[instance.id].state is InstanceState.READY)
    assert bench.state_store.state.instances[instance.id].problem is None
    assert not [o for o in bench.state_store.state.recent if o.actor == "warden"]


def test_instance_stays_stuck_while_its_runtime_cannot_be_asked(bench: Bench) -> None:
    instance = make_stuck(bench)
    seen = bench.controller.health().controller_age_s
    bench.until(lambda: (bench.controller.health().controller_age_s or 0) < (seen or 0))
    assert bench.state_store.state.instances[instance.id].state is InstanceState.STUCK


def test_instance_of_which_nothing_is_left_leaves_the_list_and_its_owner_is_told(bench: Bench) -> None:
    instance = make_stuck(bench)
    bench.vllm.alive.clear()
    bench.machine.held.clear()
    bench.vllm.raises.clear()
    bench.vllm.fails.clear()
    operation = cleared(bench)
    assert (operation.kind, operation.state) == (OperationKind.UNLOAD, OperationState.SUCCEEDED)
    assert operation.outcome is not None
    assert operation.outcome.code == "stuck_cleared"
    assert operation.receipts == ()
    assert instance.id not in bench.state_store.state.instances
    assert [(n.to, n.message.code) for n in bench.context.leases.notices][-1] == ("ivan", "stuck_cleared")


def test_what_is_left_of_an_ended_instance_is_removed_with_a_receipt(bench: Bench) -> None:
    instance = make_stuck(bench)
    bench.vllm.fails["lab/one"] = "exited"
    bench.vllm.raises.clear()
    operation = cleared(bench)
    assert operation.outcome is not None
    assert operation.outcome.code == "unload_done"
    (receipt,) = operation.receipts
    assert (receipt.settled, receipt.freed_bytes) == (True, receipt.expected_bytes)
    assert instance.id not in bench.state_store.state.instances


class Attempts:
    """Counts the attempts at an instance that stays stuck."""

    def __init__(self, context: Context) -> None:
        self.count = 0
        self.stuck = StuckInstances(context, self.begin)

    def begin(self, instance: Instance) -> None:
        self.count += 1
        raise Busy(operation="another")

    def after(self, bench: Bench, seconds: float) -> int:
        """Let time pass; return how many attempts there were in all."""
        bench.ahead_s += seconds
        self.stuck.look({"old"})
        return self.count


def test_instance_that_stays_stuck_is_tried_after_pauses_that_double(bench: Bench) -> None:
    bench.state_store.put(loaded(model("lab/one"), state=InstanceState.STUCK))
    bench.vllm.raises["probe"] = bench.runtime.raises["probe"] = AWAY
    attempts = Attempts(bench.context)
    assert attempts.after(bench, 0) == 1
    assert attempts.after(bench, FIRST_PAUSE_S - 1) == 1
    assert attempts.after(bench, 1.5) == 2
    assert attempts.after(bench, FIRST_PAUSE_S) == 2
    assert attempts.after(bench, FIRST_PAUSE_S) == 3
    for _ in range(20):
        attempts.after(bench, LONGEST_PAUSE_S)
    assert attempts.count == 23


@pytest.mark.parametrize("over", [set(), {"another"}])
def test_instance_that_is_not_over_is_left_alone(bench: Bench, over: set[str]) -> None:
    bench.state_store.put(loaded(model("lab/one"), state=InstanceState.STUCK))
    bench.runtime.raises["probe"] = AWAY
    attempts = Attempts(bench.context)
    attempts.stuck.look(over)
    assert attempts.count == 0


def test_claimed_device_is_waited_for(bench: Bench) -> None:
    bench.runtime.raises["probe"] = AWAY
    bench.state_store.put(loaded(model("lab/one"), state=InstanceState.STUCK))
    gate = bench.runtime.gates["reap"] = Gate()
    cleaning = bench.controller.clean("maria")
    gate.wait_reached()
    attempts = Attempts(bench.context)
    assert attempts.after(bench, 0) == 0
    gate.open()
    bench.wait(cleaning)
    assert attempts.after(bench, 0) == 1
