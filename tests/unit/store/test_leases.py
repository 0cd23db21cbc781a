"""The store keeps the terms on which models are held."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from webapp.domain.lease import Lease, ReleaseAnswer
from webapp.store.leases import LeaseRepository

LEASE = Lease(until=10.5, reason="оценка", idle_minutes=15, idle_set_at=2.0).asked_by("ivan", "статья", 3.0)


def test_terms_come_back_as_they_were_the_newest_alone(leases: LeaseRepository) -> None:
    leases.save_lease("one", Lease(), 1.0)
    leases.save_lease("one", LEASE, 2.0)
    leases.save_lease("two", LEASE.answered(ReleaseAnswer.KEEP, 4.0, "maria", "нет"), 2.0)
    assert leases.leases() == {"one": LEASE, "two": LEASE.answered(ReleaseAnswer.KEEP, 4.0, "maria", "нет")}


def test_terms_of_what_has_gone_are_forgotten(leases: LeaseRepository) -> None:
    leases.save_lease("one", LEASE, 1.0)
    leases.save_lease("two", LEASE, 5.0)
    leases.drop_lease("nobody")
    assert leases.drop_leases(before=5.0) == 1
    leases.drop_lease("two")
    assert leases.leases() == {}


def test_terms_that_cannot_be_read_are_left_out(leases: LeaseRepository, file: Path) -> None:
    leases.save_lease("one", LEASE, 1.0)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO leases VALUES ('x', 2.0, '{\"until\": \"soon\"}')")
    assert leases.leases() == {"one": LEASE}
