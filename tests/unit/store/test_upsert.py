"""Rows are inserted or replaced by primary key, in either dialect."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_mock_engine, select

from webapp.store.database import Database
from webapp.store.schema import timeline
from webapp.store.upsert import upsert


def row(taken_at: float, document: str) -> dict[str, object]:
    return {"step_s": 10, "device_id": "gpu-0", "taken_at": taken_at, "document": document}


def test_rows_of_a_known_key_are_replaced_and_the_others_stay(database: Database) -> None:
    with database.begin() as connection:
        upsert(connection, timeline, row(1.0, "a"), row(2.0, "b"))
        upsert(connection, timeline, row(2.0, "c"), row(3.0, "d"))
        found = connection.execute(select(timeline.c.taken_at, timeline.c.document)).all()

    assert sorted(tuple(each) for each in found) == [(1.0, "a"), (2.0, "c"), (3.0, "d")]


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_the_key_and_what_is_replaced_are_named_in_each_dialect(backend: str) -> None:
    statements: list[str] = []

    def execute(statement: Any, *_rows: object) -> None:
        statements.append(" ".join(str(statement.compile(dialect=engine.dialect)).split()))

    engine = create_mock_engine(f"{backend}://", execute)

    upsert(engine, timeline, row(1.0, "a"))  # type: ignore[arg-type]

    (statement,) = statements
    assert statement.startswith("INSERT INTO timeline (step_s, device_id, taken_at, document) VALUES")
    assert statement.endswith("ON CONFLICT (step_s, device_id, taken_at) DO UPDATE SET document = excluded.document")
