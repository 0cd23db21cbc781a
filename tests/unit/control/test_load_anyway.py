"""Loading against the estimate: the gate lets it pass, the journal says who wanted it, and a failure puts everything back."""

from __future__ import annotations

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import model
from webapp.domain.operation import Finding, Operation, OperationState, StepName, StepState
from webapp.domain.units import gib
from webapp.errors import InstanceInUse, NotEnoughMemory

HUGE = "lab/huge"


@pytest.fixture(name="tight")
def _tight(bench: Bench) -> Bench:
    """A bench with a model that the estimate does not let in."""
    bench.catalog.models = (*bench.catalog.models, model(HUGE, weights_bytes=gib(30)))
    return bench


def risk(operation: Operation) -> Finding | None:
    return next((f for f in operation.findings if f.message.code == "loaded_anyway"), None)


def test_it_is_loaded_and_the_operation_says_who_wanted_it_and_what_lacked(tight: Bench) -> None:
    tight.load("lab/one")
    with pytest.raises(NotEnoughMemory) as refusal:
        tight.controller.switch(tight.request(HUGE), "ivan")
    operation = tight.load(HUGE, load_anyway=True)
    assert (operation.state, tight.loaded) == (OperationState.SUCCEEDED, [HUGE])
    found = risk(operation)
    assert found is not None
    assert not found.ok
    assert (found.message.params["actor"], found.message.params["model"]) == ("ivan", HUGE)
    assert found.message.params["missing_bytes"] == refusal.value.params["missing_bytes"]
    check = next(step for step in operation.steps if step.name is StepName.CHECK)
    assert check.message is not None
    assert (check.state, check.message.code) == (StepState.WARNING, "checked_overruled")
    assert tight.store.saved[operation.id] == operation


def test_what_fits_after_all_is_no_risk(bench: Bench) -> None:
    operation = bench.load("lab/one", load_anyway=True)
    assert (operation.state, risk(operation)) == (OperationState.SUCCEEDED, None)


def test_out_of_memory_puts_the_earlier_model_back_as_always(tight: Bench) -> None:
    tight.load("lab/one")
    tight.runtime.fails[HUGE] = "oom"
    operation = tight.load(HUGE, load_anyway=True)
    assert operation.error is not None
    assert operation.outcome is not None
    assert (operation.state, operation.error.code, operation.outcome.code) == (
        OperationState.FAILED,
        "out_of_memory",
        "rolled_back",
    )
    assert risk(operation) is not None
    assert tight.loaded == ["lab/one"]
    assert HUGE in tight.state_store.state.cooldowns


def test_answer_under_way_is_still_waited_for(tight: Bench) -> None:
    tight.load("lab/one")
    (instance,) = tight.state_store.state.instances.values()
    tight.runtime.in_flight["lab/one"] = 1
    tight.state_store.change(instance.id, lambda i: i.to(i.state, in_flight=1))
    with pytest.raises(InstanceInUse):
        tight.controller.switch(tight.request(HUGE, load_anyway=True), "ivan")
