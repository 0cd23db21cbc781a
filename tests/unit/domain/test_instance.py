"""The table of transitions, its full product: every pair that is allowed and every one that is not."""

from __future__ import annotations

import pytest

from tests.unit.control.fakes import loaded, model
from webapp.domain.instance import TRANSITIONS, InstanceState


@pytest.mark.parametrize("before", list(InstanceState))
@pytest.mark.parametrize("after", list(InstanceState))
def test_only_the_tables_transitions_are_allowed(before: InstanceState, after: InstanceState) -> None:
    instance = loaded(model(), state=before)
    if after is before or after in TRANSITIONS[before]:
        assert instance.to(after).state is after
    else:
        with pytest.raises(ValueError, match="cannot go"):
            instance.to(after)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(InstanceState)


def test_dead_instance_holds_nothing() -> None:
    instance = loaded(model(), state=InstanceState.DEAD, measured_bytes={"gpu-0": 5})
    assert instance.held_bytes("gpu-0") == 0
