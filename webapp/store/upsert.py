"""Insert or replace rows by primary key, in the dialect of the connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import sqlite


def upsert(connection: Connection, table: Table, *rows: Mapping[str, Any]) -> None:
    """Insert ``rows``, each replacing the row of the same primary key."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415  0.1 s of the page's start; most databases are SQLite

        insert: Any = postgresql.insert
    else:
        insert = sqlite.insert
    statement = insert(table)
    replaced = {each.name: statement.excluded[each.name] for each in table.columns if not each.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=table.primary_key, set_=replaced), list(rows))
