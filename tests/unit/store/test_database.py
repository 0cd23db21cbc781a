"""The database survives what happens to its file, and says clearly when it cannot be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.unit.store.samples import edit, ids, operation, reopened, trouble_of, url
from webapp.errors import ConfigurationError, StoreUnavailable
from webapp.settings import load_settings
from webapp.store.database import Database
from webapp.store.engines import postgresql_options
from webapp.store.operations import OperationRepository


def locked(file: Path) -> sqlite3.Connection:
    """Hold the write lock of a file, as a backup or a hung process does."""
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder


def test_a_locked_database_refuses_within_a_second_what_somebody_waits_for(
    database: Database, operations: OperationRepository, file: Path
) -> None:
    with closing(locked(file)) as holder:
        began = time.monotonic()
        assert trouble_of(lambda: operations.save_operation(operation(1))) == "locked"
        assert time.monotonic() - began < 1.5
        assert trouble_of(database.look) == "locked"
        holder.rollback()
    assert not database.look()
    operations.save_operation(operation(1))


@pytest.mark.parametrize("names", [("",), ("", "-wal", "-shm")], ids=["the file", "all files"])
def test_a_deleted_database_takes_nothing_until_it_is_written_again_with_all_that_it_held(
    database: Database, operations: OperationRepository, file: Path, names: tuple[str, ...]
) -> None:
    operations.save_operation(operation(1))
    for name in names:
        Path(f"{file}{name}").unlink()

    assert trouble_of(lambda: operations.save_operation(operation(2))) == "gone"
    assert database.look()
    assert not database.look()
    operations.save_operation(operation(3))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = reopened(file)
    assert ids(OperationRepository(again).operations(10)) == ["op-003", "op-001"]
    again.close()
    assert not list(file.parent.glob("*.new*"))


def test_a_database_that_another_one_replaces_is_read_from_then_on(
    database: Database, operations: OperationRepository, file: Path, tmp_path: Path
) -> None:
    other = reopened(tmp_path / "backup.db")
    OperationRepository(other).save_operation(operation(7))
    other.close()
    (tmp_path / "backup.db").replace(file)

    assert trouble_of(lambda: operations.save_operation(operation(2))) == "gone"
    assert database.look()
    operations.save_operation(operation(3))
    assert ids(operations.operations(10)) == ["op-007", "op-003"]


def test_a_database_whose_folder_is_gone_too_says_so_until_it_is_back(
    database: Database, operations: OperationRepository, file: Path
) -> None:
    operations.save_operation(operation(1))
    shutil.rmtree(file.parent)
    file.parent.touch()  # nothing can be made there

    for _ in range(2):
        assert trouble_of(database.look) == "gone"
        assert ids(operations.operations(10)) == ["op-001"]
    file.parent.unlink()

    assert database.look()
    operations.save_operation(operation(2))
    assert ids(operations.operations(10)) == ["op-002", "op-001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(b"x" * 4096):
            pass
    return file


def test_a_full_disk_is_called_that_and_the_end_of_it_is_noticed(small_disk: Path) -> None:
    database = reopened(small_disk / "state" / "warden.db")
    operations = OperationRepository(database)
    operations.save_operation(operation(1))
    ballast = fill(small_disk)
    large = operation(2, actor="x" * 300_000)

    assert trouble_of(lambda: operations.save_operation(large)) == "full"
    assert ids(operations.operations(10)) == ["op-001"]
    ballast.unlink()

    assert not database.look()
    operations.save_operation(large)
    assert ids(operations.operations(10)) == ["op-002", "op-001"]
    database.close()


def test_two_processes_may_hold_the_database(operations: OperationRepository, file: Path) -> None:
    other = reopened(file)
    OperationRepository(other).save_operation(operation(1))
    operations.save_operation(operation(2))

    assert ids(OperationRepository(other).operations(10)) == ids(operations.operations(10)) == ["op-002", "op-001"]
    other.close()


def test_sqlite_is_set_up_for_many_readers_and_one_writer_whose_commits_outlive_a_power_failure(
    database: Database,
) -> None:
    with database.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_only_the_owner_can_read_the_files(operations: OperationRepository, file: Path) -> None:
    operations.save_operation(operation(1))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}

    assert modes == {"warden.db": 0o600, "warden.db-wal": 0o600, "warden.db-shm": 0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_restricted(tmp_path: Path) -> None:
    database = tmp_path / "warden.db"
    database.touch(mode=0o644)

    reopened(database).close()

    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_closed_store_says_so_and_closes_twice(database: Database, operations: OperationRepository) -> None:
    database.close()
    database.close()

    with pytest.raises(StoreUnavailable, match="not open"):
        operations.operations(1)


def test_a_corrupt_file_is_named_with_what_to_do(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is no database" * 100)

    with pytest.raises(StoreUnavailable, match=f"{file}.*move the file away"):
        Database(url(file)).open()


def test_a_database_that_breaks_while_in_use_is_unavailable(operations: OperationRepository, file: Path) -> None:
    edit(file, "DROP TABLE operations")

    for call in (
        lambda: operations.operations(1),
        lambda: operations.save_operation(operation(1)),
        operations.running,
        operations.values,
        lambda: operations.prune(1.0),
    ):
        with pytest.raises(StoreUnavailable, match="no such table"):
            call()


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match="WARDEN_STATE_DIR"):
        Database(f"sqlite:///{tmp_path}/file/warden.db").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_of_another_user_is_named_with_what_to_do(file: Path) -> None:
    file.parent.mkdir()
    file.touch(mode=0o000)

    with pytest.raises(StoreUnavailable, match="owner"):
        Database(url(file)).open()


@pytest.mark.parametrize("name", ["50%20off", "what?mode=memory", "100%", "a#b", "ключ %3F"])
def test_the_database_stays_in_its_folder_whatever_the_path_is_called(tmp_path: Path, name: str) -> None:
    settings = load_settings(state_dir=tmp_path / name)
    database = Database(settings.storage.database)
    database.open()
    database.close()

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "warden.db").is_file()


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("no url", "not an SQLAlchemy URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://somewhere/warden", "only SQLite and PostgreSQL"),
        ("postgresql+nodriver://anna:secret@somewhere/warden", "nodriver"),
        ("postgresql+psycopg2://anna:secret@somewhere/warden", "pip install psycopg2"),
        ("postgresql+pg8000://anna:secret@somewhere/warden", "deadlines"),
    ],
)
def test_a_url_that_cannot_be_used_names_the_setting_and_hides_the_password(text: str, detail: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(text).open()

    assert caught.value.params["setting"] == "WARDEN_DATABASE_URL"
    assert detail in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_extra_of_postgresql_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigurationError) as caught:
        Database("postgresql+psycopg://anna:secret@somewhere/warden").open()

    assert "pip install 'warden[postgresql]'" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "changed"),
    [
        ("", {"connect_timeout": 3, "options": "-c statement_timeout=5000"}),
        ("?connect_timeout=9", {"options": "-c statement_timeout=5000"}),
        (
            "?options=-c%20search_path=lab",
            {"connect_timeout": 3, "options": "-c statement_timeout=5000 -c search_path=lab"},
        ),
    ],
)
def test_postgresql_has_deadlines_and_the_url_has_the_last_word(query: str, changed: dict[str, object]) -> None:
    asked = postgresql_options(make_url(f"postgresql://anna@somewhere/warden{query}"))

    assert asked["connect_args"] == {"tcp_user_timeout": 5000, **changed}
    assert (asked["pool_timeout"], asked["pool_pre_ping"]) == (3.0, True)
