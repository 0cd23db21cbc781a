"""What an address asks of the list of operations."""

from __future__ import annotations

import pytest

from webapp.domain.operation import ANY_OPERATION, OperationFilter, OperationKind, OperationState
from webapp.errors import InvalidRequest
from webapp.web.filters import NAME_LIMIT
from webapp.web.operations.query import OperationsQuery


def test_nothing_asked_is_everything() -> None:
    query = OperationsQuery.read({"kind": "", "other": "x"})

    assert query.to_filter() == ANY_OPERATION
    assert not query.is_filter
    assert query.address() == ""


def test_every_value_becomes_its_filter() -> None:
    query = OperationsQuery.read({"kind": "switch", "actor": "Мария", "model": "lab/one", "state": "failed"})

    assert query.to_filter() == OperationFilter(OperationKind.SWITCH, "Мария", "lab/one", OperationState.FAILED)
    assert query.is_filter


@pytest.mark.parametrize(
    ("field", "value"), [("kind", "SWITCH"), ("state", "ok"), ("actor", "x" * (NAME_LIMIT + 1)), ("model", "y" * 1000)]
)
def test_a_value_that_cannot_be_meant_is_named(field: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        OperationsQuery.read({field: value}).to_filter()

    assert caught.value.params["field"] == field
    assert len(str(caught.value.params["value"])) <= 100


def test_an_address_says_the_same_filter_at_another_place() -> None:
    query = OperationsQuery(actor="a&b", model="lab/один", before="op1")

    assert query.address("op2") == "actor=a%26b&model=lab%2F%D0%BE%D0%B4%D0%B8%D0%BD&before=op2"
    assert "before" not in query.address()
