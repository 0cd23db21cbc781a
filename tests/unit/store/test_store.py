"""The store keeps operations, finds them again, and says clearly when it cannot."""

from __future__ import annotations

import ast
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url

from webapp.domain.operation import (
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
    Step,
    StepName,
    StepState,
)
from webapp.errors import ConfigurationError, StoreUnavailable
from webapp.settings import Settings
from webapp.store import schema
from webapp.store.migrate import MIGRATIONS
from webapp.store.store import PRUNED_AT_ONCE, Store, postgresql_options

REPOSITORY = Path(__file__).parents[3]

SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"

NEXT_REVISION = f"""
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{schema.HEAD}"


def upgrade():
    op.add_column("operations", sa.Column("note", sa.Text))
"""


def operation(number: int, **changes: object) -> Operation:
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


def url(database: Path) -> str:
    return f"sqlite:///{database}"


def reopened(database: Path) -> Store:
    store = Store(url(database))
    store.open()
    return store


def test_what_was_saved_is_there_after_a_restart(store: Store, database: Path) -> None:
    store.save_operation(operation(1))
    store.close()

    again = reopened(database)

    assert again.operation("op-001") == operation(1)
    again.close()


def test_saving_again_replaces_what_was_kept(store: Store) -> None:
    store.save_operation(operation(1, state=OperationState.RUNNING, ended_at=None))
    store.save_operation(operation(1))

    assert store.operations(10) == (operation(1),)
    assert store.running() == ()


def test_an_unknown_id_is_none(store: Store) -> None:
    assert store.operation("nothing") is None


def test_operations_come_newest_first_and_by_pages(store: Store) -> None:
    for number in (2, 5, 1, 4, 3):
        store.save_operation(operation(number))

    assert ids(store.operations(2)) == ["op-005", "op-004"]
    assert ids(store.operations(2, before="op-004")) == ["op-003", "op-002"]
    assert ids(store.operations(2, before="op-001")) == []


def test_pages_miss_nothing_among_operations_of_one_moment(store: Store) -> None:
    for number in range(5):
        store.save_operation(operation(number, started_at=7.0))

    first = store.operations(3)

    assert ids(first + store.operations(3, before=first[-1].id)) == ["op-004", "op-003", "op-002", "op-001", "op-000"]


def test_a_page_after_an_unknown_operation_is_empty(store: Store) -> None:
    store.save_operation(operation(1))

    assert store.operations(10, before="gone") == ()


def test_filters_hold_together(store: Store) -> None:
    store.save_operation(operation(1, kind=OperationKind.CLEAN, model_id=None))
    store.save_operation(operation(2, actor="boris"))
    store.save_operation(operation(3, actor="boris", state=OperationState.FAILED))
    store.save_operation(operation(4, actor="boris", model_id="org/large"))

    assert ids(store.operations(10, OperationFilter(kind=OperationKind.CLEAN))) == ["op-001"]
    assert ids(store.operations(10, OperationFilter(actor="boris", model_id="org/small"))) == ["op-003", "op-002"]
    assert ids(store.operations(10, OperationFilter(actor="boris", state=OperationState.FAILED))) == ["op-003"]
    assert ids(store.operations(1, OperationFilter(actor="boris"), before="op-004")) == ["op-003"]
    assert store.operations(10, OperationFilter(actor="boris' OR 1=1 --")) == ()


def test_what_can_be_filtered_by_is_what_is_kept(store: Store, database: Path) -> None:
    assert store.values() == OperationValues()
    store.save_operation(operation(1, kind=OperationKind.CLEAN, model_id=None))
    store.save_operation(operation(2, actor="Boris", state=OperationState.FAILED))
    store.save_operation(operation(3, model_id="org/Large"))
    store.save_operation(operation(4))
    edit(database, "UPDATE operations SET kind = 'of a later version' WHERE id = 'op-004'")

    assert store.values() == OperationValues(
        kinds=(OperationKind.SWITCH, OperationKind.CLEAN),
        actors=("anna", "Boris"),
        models=("org/Large", "org/small"),
        states=(OperationState.SUCCEEDED, OperationState.FAILED),
    )


def test_running_lists_every_operation_that_has_not_ended(store: Store) -> None:
    store.save_operation(operation(1, state=OperationState.RUNNING, ended_at=None))
    store.save_operation(operation(2))
    store.save_operation(operation(3, state=OperationState.RUNNING, ended_at=None))

    assert ids(store.running()) == ["op-003", "op-001"]


def test_prune_drops_what_ended_before_and_never_a_running_one(store: Store) -> None:
    store.save_operation(operation(0, state=OperationState.RUNNING, ended_at=None))
    for number in range(1, 6):
        store.save_operation(operation(number))

    assert not store.prune(before=2004.0)
    assert ids(store.operations(10)) == ["op-005", "op-004", "op-000"]


def test_prune_drops_some_at_a_time_and_says_that_there_are_more(store: Store) -> None:
    for number in range(PRUNED_AT_ONCE + 1):
        store.save_operation(operation(number))

    assert store.prune(before=9e9)
    assert len(store.operations(10)) == 1
    assert not store.prune(before=9e9)
    assert store.operations(10) == ()


def test_an_operation_that_was_not_begun_is_forgotten(store: Store) -> None:
    store.save_operation(operation(1))
    store.drop_operation("op-001")
    store.drop_operation("op-001")
    assert store.operation("op-001") is None


# What happens to the file


def locked(database: Path) -> sqlite3.Connection:
    """Hold the write lock of a database, as a backup or a hung process does."""
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder


def trouble_of(act: Callable[[], object]) -> object:
    with pytest.raises(StoreUnavailable) as caught:
        act()
    return caught.value.params.get("trouble")


def test_a_locked_database_refuses_within_a_second_what_somebody_waits_for(store: Store, database: Path) -> None:
    with closing(locked(database)) as holder:
        began = time.monotonic()
        assert trouble_of(lambda: store.save_operation(operation(1))) == "locked"
        assert time.monotonic() - began < 1.5
        assert trouble_of(store.look) == "locked"
        holder.rollback()
    assert not store.look()
    store.save_operation(operation(1))


@pytest.mark.parametrize("names", [("",), ("", "-wal", "-shm")], ids=["the file", "all files"])
def test_a_deleted_database_takes_nothing_until_it_is_written_again_with_all_that_it_held(
    store: Store, database: Path, names: tuple[str, ...]
) -> None:
    store.save_operation(operation(1))
    for name in names:
        Path(f"{database}{name}").unlink()

    assert trouble_of(lambda: store.save_operation(operation(2))) == "gone"
    assert store.look()
    assert not store.look()
    store.save_operation(operation(3))

    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    again = reopened(database)
    assert ids(again.operations(10)) == ["op-003", "op-001"]
    again.close()
    assert not list(database.parent.glob("*.new*"))


def test_a_database_that_another_one_replaces_is_read_from_then_on(
    store: Store, database: Path, tmp_path: Path
) -> None:
    other = reopened(tmp_path / "backup.db")
    other.save_operation(operation(7))
    other.close()
    (tmp_path / "backup.db").replace(database)

    assert trouble_of(lambda: store.save_operation(operation(2))) == "gone"
    assert store.look()
    store.save_operation(operation(3))
    assert ids(store.operations(10)) == ["op-007", "op-003"]


def test_a_database_whose_folder_is_gone_too_says_so_until_it_is_back(store: Store, database: Path) -> None:
    store.save_operation(operation(1))
    shutil.rmtree(database.parent)
    database.parent.touch()  # nothing can be made there

    for _ in range(2):
        assert trouble_of(store.look) == "gone"
        assert ids(store.operations(10)) == ["op-001"]
    database.parent.unlink()

    assert store.look()
    store.save_operation(operation(2))
    assert ids(store.operations(10)) == ["op-002", "op-001"]


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
    store = reopened(small_disk / "state" / "warden.db")
    store.save_operation(operation(1))
    ballast = fill(small_disk)
    large = operation(2, actor="x" * 300_000)

    assert trouble_of(lambda: store.save_operation(large)) == "full"
    assert ids(store.operations(10)) == ["op-001"]
    ballast.unlink()

    assert not store.look()
    store.save_operation(large)
    assert ids(store.operations(10)) == ["op-002", "op-001"]
    store.close()


def test_text_that_a_column_cannot_hold_is_kept_in_the_document(store: Store) -> None:
    strange = operation(1, actor="lone \ud800 surrogate", model_id="nul \0 byte")

    store.save_operation(strange)

    assert store.operation("op-001") == strange
    assert store.operations(10, OperationFilter(actor="lone \ud800 surrogate", model_id="nul \0 byte")) == (strange,)


def test_an_unreadable_document_does_not_hide_the_others(store: Store, database: Path) -> None:
    store.save_operation(operation(1))
    store.save_operation(operation(2))
    edit(database, "UPDATE operations SET document = '{}' WHERE id = 'op-002'")

    assert ids(store.operations(10)) == ["op-001"]
    with pytest.raises(StoreUnavailable, match="op-002"):
        store.operation("op-002")


def test_many_threads_save_and_read_at_once(store: Store) -> None:
    def save_and_read(number: int) -> bool:
        store.save_operation(operation(number))
        return store.operation(f"op-{number:03}") == operation(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(save_and_read, range(100)))
    assert len(store.operations(1000)) == 100


def test_two_processes_may_hold_the_database(store: Store, database: Path) -> None:
    other = reopened(database)
    other.save_operation(operation(1))
    store.save_operation(operation(2))

    assert ids(other.operations(10)) == ids(store.operations(10)) == ["op-002", "op-001"]
    other.close()


def test_sqlite_is_set_up_for_many_readers_and_one_writer_whose_commits_outlive_a_power_failure(store: Store) -> None:
    with store._begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_only_the_owner_can_read_the_files(store: Store, database: Path) -> None:
    store.save_operation(operation(1))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in database.parent.iterdir()}

    assert modes == {"warden.db": 0o600, "warden.db-wal": 0o600, "warden.db-shm": 0o600}
    assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_restricted(tmp_path: Path) -> None:
    database = tmp_path / "warden.db"
    database.touch(mode=0o644)

    reopened(database).close()

    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_closed_store_says_so_and_closes_twice(store: Store) -> None:
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable, match="not open"):
        store.operations(1)


def test_a_corrupt_file_is_named_with_what_to_do(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"this is no database" * 100)

    with pytest.raises(StoreUnavailable, match=f"{database}.*move the file away"):
        Store(url(database)).open()


def test_a_database_that_breaks_while_in_use_is_unavailable(store: Store, database: Path) -> None:
    edit(database, "DROP TABLE operations")

    for call in (
        lambda: store.operations(1),
        lambda: store.save_operation(operation(1)),
        store.running,
        store.values,
        lambda: store.prune(1.0),
    ):
        with pytest.raises(StoreUnavailable, match="no such table"):
            call()


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match="WARDEN_STATE_DIR"):
        Store(f"sqlite:///{tmp_path}/file/warden.db").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_of_another_user_is_named_with_what_to_do(database: Path) -> None:
    database.parent.mkdir()
    database.touch(mode=0o000)

    with pytest.raises(StoreUnavailable, match="owner"):
        Store(url(database)).open()


def test_a_database_of_a_newer_warden_is_left_alone(store: Store, database: Path) -> None:
    store.save_operation(operation(1))
    store.close()
    edit(database, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreUnavailable, match="update Warden"):
        Store(url(database)).open()
    edit(database, f"UPDATE alembic_version SET version_num = '{schema.HEAD}'")
    again = reopened(database)
    assert again.operation("op-001") == operation(1)
    again.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0003a'", "revision 0003a"),
        ("UPDATE alembic_version SET version_num = '0000'", "revision 0000"),
        ("UPDATE alembic_version SET version_num = '0003'", "table tickets already exists"),
        ("DROP TABLE alembic_version", "table operations already exists"),
    ],
)
def test_a_database_of_an_unreleased_version_is_told_from_a_newer_one(
    store: Store, database: Path, damage: str, said: str
) -> None:
    store.save_operation(operation(1))
    store.close()
    edit(database, damage)
    before = rows(database, SCHEMA)

    with pytest.raises(StoreUnavailable, match="never released") as caught:
        Store(url(database)).open()

    reason = str(caught.value.params["reason"])
    assert said in reason
    assert "backup" in reason
    assert "free space" not in reason
    assert "update Warden" not in reason
    assert rows(database, SCHEMA) == before


@pytest.mark.parametrize("name", ["50%20off", "what?mode=memory", "100%", "a#b", "ключ %3F"])
def test_the_database_stays_in_its_folder_whatever_the_path_is_called(tmp_path: Path, name: str) -> None:
    settings = Settings(state_dir=tmp_path / name)
    store = Store(settings.database)
    store.open()
    store.close()

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
        Store(text).open()

    assert caught.value.params["setting"] == "WARDEN_DATABASE_URL"
    assert detail in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_extra_of_postgresql_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigurationError) as caught:
        Store("postgresql+psycopg://anna:secret@somewhere/warden").open()

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


def test_the_known_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_the_revisions_make_the_tables_that_the_code_knows(migrated: Path) -> None:
    engine = create_engine(url(migrated))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_an_empty_database_gets_the_very_tables_that_the_revisions_make(
    store: Store, database: Path, migrated: Path
) -> None:
    made = rows(database, SCHEMA)

    assert {"operations", "operations_by_time", "operations_by_state", "alembic_version"} <= {row[1] for row in made}
    assert made == rows(migrated, SCHEMA)
    assert inspected(database) == inspected(migrated)
    assert rows(database, "SELECT * FROM alembic_version") == rows(migrated, "SELECT * FROM alembic_version")


def test_a_database_that_was_made_at_once_takes_the_next_revision(store: Store, database: Path, tmp_path: Path) -> None:
    store.save_operation(operation(1))
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "next.py").write_text(NEXT_REVISION)

    upgrade(database, folder)

    assert rows(database, "SELECT version_num FROM alembic_version") == [("next",)]
    assert rows(database, "SELECT id, note FROM operations") == [("op-001", None)]


@pytest.mark.parametrize("taken", ["TABLE operations (id TEXT)", "VIEW alembic_version AS SELECT 1"])
def test_tables_that_cannot_all_be_made_leave_nothing_behind(tmp_path: Path, taken: str) -> None:
    """By the revisions, where a table is there; at once, where none is."""
    database = tmp_path / "warden.db"
    edit(database, f"CREATE {taken}")

    with pytest.raises(StoreUnavailable, match="already exists"):
        Store(url(database)).open()

    assert len(rows(database, SCHEMA)) == 1
    edit(database, f"DROP {' '.join(taken.split()[:2])}")
    reopened(database).close()


@pytest.mark.parametrize("start", ["first", "later"])
def test_a_start_without_an_update_needs_no_alembic(database: Path, start: str) -> None:
    if start == "later":
        reopened(database).close()
    program = f"""
import sys
from webapp.store.store import PRUNED_AT_ONCE, Store, postgresql_options
store = Store({url(database)!r})
store.open()
store.close()
print(sorted(name for name in sys.modules if name in ("alembic", "mako", "sqlalchemy.orm")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)

    assert ast.literal_eval(done.stdout) == []


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """A database that all revisions were run on, one by one."""
    database = tmp_path / "migrated.db"
    upgrade(database, MIGRATIONS)
    return database


def upgrade(database: Path, migrations: Path) -> None:
    """Run the revisions of a folder as an update does."""
    engine = create_engine(url(database))
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations))
        command.upgrade(config, "head")
    engine.dispose()


def inspected(database: Path) -> dict[str, str]:
    """What SQLAlchemy finds in each table, in words that can be compared."""
    engine = create_engine(url(database))
    found = inspect(engine)
    tables = {
        name: repr((found.get_columns(name), found.get_pk_constraint(name), found.get_indexes(name)))
        for name in found.get_table_names()
    }
    engine.dispose()
    return tables


def rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def edit(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    try:
        with connection:
            connection.execute(statement)
    finally:
        connection.close()
