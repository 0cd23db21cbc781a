"""Operations to keep, and the database file looked at and changed without Warden."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from webapp.domain.operation import (
    Operation,
    OperationKind,
    OperationState,
    Step,
    StepName,
    StepState,
)
from webapp.errors import StoreUnavailable
from webapp.store.database import Database


def operation(number: int, **changes: Any) -> Operation:
    base = Operation(
        id=f"op-{number:03}",
        kind=OperationKind.SWITCH,
        actor="anna",
        state=OperationState.SUCCEEDED,
        started_at=1000.0 + number,
        ended_at=2000.0 + number,
        steps=(Step(StepName.PLAN, StepState.DONE, 1.0, 2.0),),
        mode="transformers",
        model_id="org/small",
    )
    return replace(base, **changes)


def ids(found: tuple[Operation, ...]) -> list[str]:
    return [each.id for each in found]


def url(file: Path) -> str:
    return f"sqlite:///{file}"


def reopened(file: Path) -> Database:
    database = Database(url(file))
    database.open()
    return database


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


def edit(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    try:
        with connection:
            connection.execute(statement)
    finally:
        connection.close()


def trouble_of(act: Callable[[], object]) -> object:
    with pytest.raises(StoreUnavailable) as caught:
        act()
    return caught.value.params.get("trouble")
