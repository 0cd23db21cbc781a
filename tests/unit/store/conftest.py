"""A database in a file of its own, and its repositories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.store.database import Database
from webapp.store.leases import LeaseRepository
from webapp.store.measurements import MeasurementRepository
from webapp.store.operations import OperationRepository
from webapp.store.queue import QueueRepository
from webapp.store.timeline import TimelineRepository


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "state" / "warden.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{file}")
    database.open()
    yield database
    database.close()


@pytest.fixture
def operations(database: Database) -> OperationRepository:
    return OperationRepository(database)


@pytest.fixture
def timeline(database: Database) -> TimelineRepository:
    return TimelineRepository(database)


@pytest.fixture
def measurements(database: Database) -> MeasurementRepository:
    return MeasurementRepository(database)


@pytest.fixture
def queue(database: Database) -> QueueRepository:
    return QueueRepository(database)


@pytest.fixture
def leases(database: Database) -> LeaseRepository:
    return LeaseRepository(database)
