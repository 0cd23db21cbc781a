"""Operations are kept and found again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.store.samples import edit, ids, operation, reopened
from webapp.domain.operation import (
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
)
from webapp.errors import StoreUnavailable
from webapp.store.database import Database
from webapp.store.operations import PRUNED_AT_ONCE, OperationRepository


def test_what_was_saved_is_there_after_a_restart(
    database: Database, operations: OperationRepository, file: Path
) -> None:
    operations.save_operation(operation(1))
    database.close()

    again = reopened(file)

    assert OperationRepository(again).operation("op-001") == operation(1)
    again.close()


def test_saving_again_replaces_what_was_kept(operations: OperationRepository) -> None:
    operations.save_operation(operation(1, state=OperationState.RUNNING, ended_at=None))
    operations.save_operation(operation(1))

    assert operations.operations(10) == (operation(1),)
    assert operations.running() == ()


def test_an_unknown_id_is_none(operations: OperationRepository) -> None:
    assert operations.operation("nothing") is None


def test_operations_come_newest_first_and_by_pages(operations: OperationRepository) -> None:
    for number in (2, 5, 1, 4, 3):
        operations.save_operation(operation(number))

    assert ids(operations.operations(2)) == ["op-005", "op-004"]
    assert ids(operations.operations(2, before="op-004")) == ["op-003", "op-002"]
    assert ids(operations.operations(2, before="op-001")) == []


def test_pages_miss_nothing_among_operations_of_one_moment(operations: OperationRepository) -> None:
    for number in range(5):
        operations.save_operation(operation(number, started_at=7.0))

    first = operations.operations(3)

    assert ids(first + operations.operations(3, before=first[-1].id)) == [
        "op-004",
        "op-003",
        "op-002",
        "op-001",
        "op-000",
    ]


def test_a_page_after_an_unknown_operation_is_empty(operations: OperationRepository) -> None:
    operations.save_operation(operation(1))

    assert operations.operations(10, before="gone") == ()


def test_filters_hold_together(operations: OperationRepository) -> None:
    operations.save_operation(operation(1, kind=OperationKind.CLEAN, model_id=None))
    operations.save_operation(operation(2, actor="boris"))
    operations.save_operation(operation(3, actor="boris", state=OperationState.FAILED))
    operations.save_operation(operation(4, actor="boris", model_id="org/large"))

    assert ids(operations.operations(10, OperationFilter(kind=OperationKind.CLEAN))) == ["op-001"]
    assert ids(operations.operations(10, OperationFilter(actor="boris", model_id="org/small"))) == ["op-003", "op-002"]
    assert ids(operations.operations(10, OperationFilter(actor="boris", state=OperationState.FAILED))) == ["op-003"]
    assert ids(operations.operations(1, OperationFilter(actor="boris"), before="op-004")) == ["op-003"]
    assert operations.operations(10, OperationFilter(actor="boris' OR 1=1 --")) == ()


def test_what_can_be_filtered_by_is_what_is_kept(operations: OperationRepository, file: Path) -> None:
    assert operations.values() == OperationValues()
    operations.save_operation(operation(1, kind=OperationKind.CLEAN, model_id=None))
    operations.save_operation(operation(2, actor="Boris", state=OperationState.FAILED))
    operations.save_operation(operation(3, model_id="org/Large"))
    operations.save_operation(operation(4))
    edit(file, "UPDATE operations SET kind = 'of a later version' WHERE id = 'op-004'")

    assert operations.values() == OperationValues(
        kinds=(OperationKind.SWITCH, OperationKind.CLEAN),
        actors=("anna", "Boris"),
        models=("org/Large", "org/small"),
        states=(OperationState.SUCCEEDED, OperationState.FAILED),
    )


def test_running_lists_every_operation_that_has_not_ended(operations: OperationRepository) -> None:
    operations.save_operation(operation(1, state=OperationState.RUNNING, ended_at=None))
    operations.save_operation(operation(2))
    operations.save_operation(operation(3, state=OperationState.RUNNING, ended_at=None))

    assert ids(operations.running()) == ["op-003", "op-001"]


def test_prune_drops_what_ended_before_and_never_a_running_one(operations: OperationRepository) -> None:
    operations.save_operation(operation(0, state=OperationState.RUNNING, ended_at=None))
    for number in range(1, 6):
        operations.save_operation(operation(number))

    assert not operations.prune(before=2004.0)
    assert ids(operations.operations(10)) == ["op-005", "op-004", "op-000"]


def test_prune_drops_some_at_a_time_and_says_that_there_are_more(operations: OperationRepository) -> None:
    for number in range(PRUNED_AT_ONCE + 1):
        operations.save_operation(operation(number))

    assert operations.prune(before=9e9)
    assert len(operations.operations(10)) == 1
    assert not operations.prune(before=9e9)
    assert operations.operations(10) == ()


def test_an_operation_that_was_not_begun_is_forgotten(operations: OperationRepository) -> None:
    operations.save_operation(operation(1))
    operations.drop_operation("op-001")
    operations.drop_operation("op-001")
    assert operations.operation("op-001") is None


def test_text_that_a_column_cannot_hold_is_kept_in_the_document(operations: OperationRepository) -> None:
    strange = operation(1, actor="lone \ud800 surrogate", model_id="nul \0 byte")

    operations.save_operation(strange)

    assert operations.operation("op-001") == strange
    assert operations.operations(10, OperationFilter(actor="lone \ud800 surrogate", model_id="nul \0 byte")) == (
        strange,
    )


def test_an_unreadable_document_does_not_hide_the_others(operations: OperationRepository, file: Path) -> None:
    operations.save_operation(operation(1))
    operations.save_operation(operation(2))
    edit(file, "UPDATE operations SET document = '{}' WHERE id = 'op-002'")

    assert ids(operations.operations(10)) == ["op-001"]
    with pytest.raises(StoreUnavailable, match="op-002"):
        operations.operation("op-002")


def test_many_threads_save_and_read_at_once(operations: OperationRepository) -> None:
    def save_and_read(number: int) -> bool:
        operations.save_operation(operation(number))
        return operations.operation(f"op-{number:03}") == operation(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(save_and_read, range(100)))
    assert len(operations.operations(1000)) == 100
