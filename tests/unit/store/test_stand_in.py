"""A database on a disk that takes nothing: what it holds can be read, what is to be kept is refused, and it comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.disks import SmallDisk, small_disk
from tests.unit.store.test_store import operation
from webapp.domain.lease import NO_LEASE
from webapp.domain.operation import Operation
from webapp.errors import StoreUnavailable
from webapp.store.stand_in import IN_MEMORY, PREFIX
from webapp.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")

KEPT = operation(1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def store(disk: SmallDisk) -> Iterator[Store]:
    store = Store(f"sqlite:///{disk.folder / 'state' / 'warden.db'}")
    before = copies()
    yield store
    store.close()
    assert copies() == before


def copies() -> set[Path]:
    return set(IN_MEMORY.glob(f"{PREFIX}*"))


def keep(store: Store, kept: Operation = KEPT) -> None:
    store.open()
    store.save_operation(kept)
    store.close()


def read_only(disk: SmallDisk) -> None:
    disk.make_read_only()


def full(disk: SmallDisk) -> None:
    disk.fill()


@pytest.mark.parametrize(("harm", "said"), [(full, "full"), (read_only, "mounted read-only")])
def test_what_the_database_holds_is_read_while_its_disk_takes_nothing(
    store: Store, disk: SmallDisk, harm: object, said: str
) -> None:
    keep(store)
    assert callable(harm)
    harm(disk)

    why = store.open_or_read()

    assert why is not None
    assert said in str(why.params["reason"])
    assert store.operation("op-001") == KEPT
    for write in (lambda: store.save_operation(operation(2)), lambda: store.save_lease("i1", NO_LEASE, 1.0)):
        with pytest.raises(StoreUnavailable, match=r"warden\.db") as caught:
            write()
        assert caught.value.params == why.params
    with pytest.raises(StoreUnavailable):
        store.look()
    assert store.operation("op-002") is None


def test_a_new_database_that_no_disk_takes_is_empty_until_there_is_space(store: Store, disk: SmallDisk) -> None:
    disk.fill()

    assert store.open_or_read() is not None
    assert store.operations(10) == ()
    with pytest.raises(StoreUnavailable):
        store.save_operation(KEPT)
    disk.free()

    assert store.look()
    store.save_operation(KEPT)
    assert not store.look()
    store.close()
    store.open()
    assert store.operation("op-001") == KEPT


def test_a_database_that_opens_on_a_full_disk_says_that_nothing_is_kept(store: Store, disk: SmallDisk) -> None:
    """One that a killed Warden left has its journal there already."""
    killed = Store(f"sqlite:///{disk.folder / 'state' / 'warden.db'}")
    killed.open()
    killed.save_operation(KEPT)
    disk.fill()
    before = copies()

    why = store.open_or_read()

    assert why is not None
    assert "free space on it" in str(why.params["reason"])
    assert copies() == before
    assert store.operation("op-001") == KEPT
    killed.close()


def test_a_database_that_opens_has_no_copy(store: Store) -> None:
    before = copies()

    assert store.open_or_read() is None
    assert copies() == before


def test_what_is_wrong_with_the_database_itself_is_refused_as_ever(store: Store, disk: SmallDisk) -> None:
    keep(store)
    (disk.folder / "state" / "warden.db").write_text("not a database at all, and long enough to be read as one" * 20)

    with pytest.raises(StoreUnavailable, match="move the file away"):
        store.open_or_read()
