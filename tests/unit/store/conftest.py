"""A store on a database file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.store.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "warden.db"


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{database}")
    store.open()
    yield store
    store.close()
