"""Which operations a filter matches."""

from __future__ import annotations

import pytest

from webapp.domain.operation import ANY_OPERATION, Operation, OperationFilter, OperationKind, OperationState

SWITCH = Operation("op", OperationKind.SWITCH, "maria", OperationState.FAILED, started_at=1.0, model_id="lab/one")


@pytest.mark.parametrize(
    "where",
    [
        ANY_OPERATION,
        OperationFilter(kind=OperationKind.SWITCH),
        OperationFilter(actor="maria", model_id="lab/one"),
        OperationFilter(OperationKind.SWITCH, "maria", "lab/one", OperationState.FAILED),
    ],
)
def test_an_operation_that_has_every_value_is_matched(where: OperationFilter) -> None:
    assert where.matches(SWITCH)


@pytest.mark.parametrize(
    "where",
    [
        OperationFilter(kind=OperationKind.CLEAN),
        OperationFilter(actor="Maria"),
        OperationFilter(model_id="lab"),
        OperationFilter(actor="maria", state=OperationState.RUNNING),
    ],
)
def test_one_value_that_differs_is_enough_to_leave_it_out(where: OperationFilter) -> None:
    assert not where.matches(SWITCH)
