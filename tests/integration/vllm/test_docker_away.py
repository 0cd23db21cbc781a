"""Docker dies or hangs in the middle of what Warden does: nothing is lost for it, nothing stays stuck, what comes back is noticed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.engine.dockerd import PrivateEngine
from tests.engine.server import wait_for
from tests.integration.vllm.conftest import (
    ACTOR,
    ENDED,
    MODELS,
    FaultTable,
    StartWarden,
    Warden,
    Witness,
    standin,
    switch_request,
)
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationState, StepName, StepState
from webapp.errors import CannotEnd

ONE, TWO = MODELS[:2]
UNSEEN = {"docker_poll_s": 60, "docker_timeout_s": 1, "docker_start_timeout_s": 1}
"""The next look at Docker comes too late for the plan to know."""

FAULTY = Path(__file__).parents[2] / "engine" / "workers" / "faulty_worker.py"


def codes(operation: Operation) -> list[str]:
    return [finding.message.code for finding in operation.findings]


def error_and_outcome(operation: Operation) -> tuple[str | None, str | None]:
    error, outcome = operation.error, operation.outcome
    return None if error is None else error.code, None if outcome is None else outcome.code


def is_at(one: Warden, operation: Operation, name: StepName) -> bool:
    step = one.controller.operation(operation.id).current_step
    return step is not None and step.name is name


def stays(one: Warden, instance: Instance) -> bool:
    """Whether an instance is listed as it was."""
    return [(i.id, i.state) for i in one.instances] == [(instance.id, InstanceState.READY)]


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_switch_away_from_a_container_ends_nothing_while_docker_cannot_be_asked(
    warden: StartWarden, engine: PrivateEngine, how: str
) -> None:
    one = warden(vllm_env=standin(), **UNSEEN)
    instance = one.load(ONE)
    engine.kill() if how == "killed" else engine.pause()
    refused = one.switch(TWO, Mode.TRANSFORMERS)
    assert error_and_outcome(refused) == ("engine_unreachable", "nothing_changed")
    assert stays(one, instance)
    engine.restart() if how == "killed" else engine.resume()
    assert one.unload(instance).state in ENDED


def test_plan_says_that_docker_cannot_be_asked_before_anybody_applies_it(
    warden: StartWarden, engine: PrivateEngine
) -> None:
    one = warden(vllm_env=standin())
    instance = one.load(ONE)
    engine.kill()
    one.becomes_possible("engine_unreachable")
    plan = one.controller.plan(switch_request(TWO, Mode.TRANSFORMERS), ACTOR)
    assert plan.refusal is not None
    assert plan.refusal.code == "cannot_end"
    with pytest.raises(CannotEnd):
        one.controller.switch(switch_request(TWO, Mode.TRANSFORMERS), ACTOR)
    assert stays(one, instance)
    engine.restart()
    one.becomes_possible(None)
    assert one.controller.plan(switch_request(TWO, Mode.TRANSFORMERS), ACTOR).refusal is None


def test_who_wants_no_return_switches_while_docker_is_dead_and_nothing_stays_behind(
    warden: StartWarden, engine: PrivateEngine, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden(vllm_env=standin(), docker_timeout_s=1, launch_stall_s=120)
    before = witness.traces()
    one.load(ONE)
    witness.ids()
    engine.kill()
    one.becomes_possible("engine_unreachable")
    done = one.switch(TWO, Mode.TRANSFORMERS, restore_on_failure=False)
    assert (done.state, error_and_outcome(done)) == (OperationState.WARNING, (None, "switch_done"))
    assert codes(done) == ["container_not_removed", "runtime_unreachable"]
    assert next(step.state for step in done.steps if step.name is StepName.CLEAN) is StepState.WARNING
    assert [i.model_id for i in one.instances] == [TWO]
    engine.restart()
    wait_for(lambda: not engine.containers(), 30, lambda: f"{engine.containers()} are left")
    assert witness.traces() == before
    seconds = (done.ended_at or 0) - done.started_at
    fault_table.add("Docker dead, switch away from a container (no return wanted)", "switch_done", seconds, before)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_docker_that_goes_between_the_preparation_and_the_launch_leaves_nothing_stuck(
    warden: StartWarden, engine: PrivateEngine, witness: Witness, how: str
) -> None:
    one = warden(vllm_env=standin(), launch_stall_s=120, **UNSEEN)
    before = witness.traces()
    one.load(TWO, Mode.TRANSFORMERS)
    running = one.controller.switch(switch_request(ONE), ACTOR)
    wait_for(lambda: is_at(one, running, StepName.SETTLE), 30, lambda: "nothing was unloaded")
    engine.kill() if how == "killed" else engine.pause()
    failed = one.finished(running, 120)
    assert error_and_outcome(failed) == ("engine_unreachable", "rolled_back")
    assert [(i.model_id, i.state) for i in one.instances] == [(TWO, InstanceState.READY)]
    engine.restart() if how == "killed" else engine.resume()
    wait_for(lambda: witness.traces() == before, 90, lambda: f"{witness.traces()} are left")


def test_container_that_could_not_come_back_is_one_click_away_once_docker_is_back(
    warden: StartWarden, engine: PrivateEngine
) -> None:
    hangs = shlex.join([sys.executable, str(FAULTY), "--fault", "hangs_in_load"])
    one = warden(vllm_env=standin(), worker_command=hangs, docker_timeout_s=1, docker_start_timeout_s=1)
    one.load(ONE)
    running = one.controller.switch(switch_request(TWO, Mode.TRANSFORMERS), ACTOR)
    wait_for(lambda: is_at(one, running, StepName.LAUNCH), 30, lambda: "the launch was not reached")
    engine.kill()
    failed = one.finished(running)
    assert error_and_outcome(failed) == ("launch_stalled", "restore_failed")
    assert not one.instances
    assert [evicted.model_id for evicted in failed.to_restore] == [ONE]
    engine.restart()
    one.becomes_possible(None)
    again = one.finished(one.controller.restore(failed.id, ACTOR))
    assert again.state is OperationState.SUCCEEDED, again
    assert [(i.model_id, i.mode, i.state) for i in one.instances] == [(ONE, Mode.VLLM, InstanceState.READY)]
