"""A database on a disk that takes nothing: what it holds can be read, what is to be kept is refused, and it comes back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.disks import SmallDisk, small_disk
from tests.unit.store.samples import operation
from webapp.domain.lease import NO_LEASE
from webapp.domain.operation import Operation
from webapp.errors import StoreUnavailable
from webapp.store import stand_in
from webapp.store.database import Database
from webapp.store.leases import LeaseRepository
from webapp.store.operations import OperationRepository

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")

KEPT = operation(1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder in memory for the copies of this test only: other tests make theirs at the same time."""
    with tempfile.TemporaryDirectory(dir=stand_in.IN_MEMORY) as folder:
        monkeypatch.setattr(stand_in, "IN_MEMORY", Path(folder))
        yield


@pytest.fixture
def database(disk: SmallDisk) -> Iterator[Database]:
    database = Database(f"sqlite:///{disk.folder / 'state' / 'warden.db'}")
    before = copies()
    yield database
    database.close()
    assert copies() == before


def copies() -> set[Path]:
    return set(stand_in.IN_MEMORY.glob(f"{stand_in.PREFIX}*"))


def keep(database: Database, kept: Operation = KEPT) -> None:
    database.open()
    OperationRepository(database).save_operation(kept)
    database.close()


def read_only(disk: SmallDisk) -> None:
    disk.make_read_only()


def full(disk: SmallDisk) -> None:
    disk.fill()


@pytest.mark.parametrize(("harm", "said"), [(full, "full"), (read_only, "mounted read-only")])
def test_what_the_database_holds_is_read_while_its_disk_takes_nothing(
    database: Database,
    operations: OperationRepository,
    leases: LeaseRepository,
    disk: SmallDisk,
    harm: Callable[[SmallDisk], None],
    said: str,
) -> None:
    keep(database)
    harm(disk)

    why = database.open_or_read()

    assert why is not None
    assert said in str(why.params["reason"])
    assert operations.operation("op-001") == KEPT
    writes: tuple[Callable[[], object], ...] = (
        lambda: operations.save_operation(operation(2)),
        lambda: leases.save_lease("i1", NO_LEASE, 1.0),
    )
    for write in writes:
        with pytest.raises(StoreUnavailable, match=r"warden\.db") as caught:
            write()
        assert caught.value.params == why.params
    with pytest.raises(StoreUnavailable):
        database.look()
    assert operations.operation("op-002") is None


def test_a_new_database_that_no_disk_takes_is_empty_until_there_is_space(
    database: Database, operations: OperationRepository, disk: SmallDisk
) -> None:
    disk.fill()

    assert database.open_or_read() is not None
    assert operations.operations(10) == ()
    with pytest.raises(StoreUnavailable):
        operations.save_operation(KEPT)
    disk.free()

    assert database.look()
    operations.save_operation(KEPT)
    assert not database.look()
    database.close()
    database.open()
    assert operations.operation("op-001") == KEPT


def test_a_database_that_opens_on_a_full_disk_says_that_nothing_is_kept(
    database: Database, operations: OperationRepository, disk: SmallDisk
) -> None:
    """One that a killed Warden left has its journal there already."""
    killed = Database(f"sqlite:///{disk.folder / 'state' / 'warden.db'}")
    killed.open()
    OperationRepository(killed).save_operation(KEPT)
    disk.fill()
    before = copies()

    why = database.open_or_read()

    assert why is not None
    assert "free space on it" in str(why.params["reason"])
    assert copies() == before
    assert operations.operation("op-001") == KEPT
    killed.close()


def test_a_database_that_opens_has_no_copy(database: Database) -> None:
    before = copies()

    assert database.open_or_read() is None
    assert copies() == before


def test_what_is_wrong_with_the_database_itself_is_refused_as_ever(database: Database, disk: SmallDisk) -> None:
    keep(database)
    (disk.folder / "state" / "warden.db").write_text("not a database at all, and long enough to be read as one" * 20)

    with pytest.raises(StoreUnavailable, match="move the file away"):
        database.open_or_read()
