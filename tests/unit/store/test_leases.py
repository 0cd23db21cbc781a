"""The store keeps the terms on which models are held."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from webapp.domain.lease import Lease, ReleaseAnswer
from webapp.store.store import Store

LEASE = Lease(until=10.5, reason="оценка", idle_minutes=15, idle_set_at=2.0).asked_by("ivan", "статья", 3.0)


def test_terms_come_back_as_they_were_the_newest_alone(store: Store) -> None:
    store.save_lease("one", Lease(), 1.0)
    store.save_lease("one", LEASE, 2.0)
    store.save_lease("two", LEASE.answered(ReleaseAnswer.KEEP, 4.0, "maria", "нет"), 2.0)
    assert store.leases() == {"one": LEASE, "two": LEASE.answered(ReleaseAnswer.KEEP, 4.0, "maria", "нет")}


def test_terms_of_what_has_gone_are_forgotten(store: Store) -> None:
    store.save_lease("one", LEASE, 1.0)
    store.save_lease("two", LEASE, 5.0)
    store.drop_lease("nobody")
    assert store.drop_leases(before=5.0) == 1
    store.drop_lease("two")
    assert store.leases() == {}


def test_terms_that_cannot_be_read_are_left_out(store: Store, database: Path) -> None:
    store.save_lease("one", LEASE, 1.0)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO leases VALUES ('x', 2.0, '{\"until\": \"soon\"}')")
    assert store.leases() == {"one": LEASE}
