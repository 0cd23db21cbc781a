"""A database gets the tables of this version, or says why it cannot."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from tests.unit.store.samples import edit, operation, reopened, rows, url
from webapp.errors import StoreUnavailable
from webapp.store import schema
from webapp.store.database import Database
from webapp.store.migrate import MIGRATIONS
from webapp.store.operations import OperationRepository

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


def test_a_database_of_a_newer_warden_is_left_alone(
    database: Database, operations: OperationRepository, file: Path
) -> None:
    operations.save_operation(operation(1))
    database.close()
    edit(file, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreUnavailable, match="update Warden"):
        Database(url(file)).open()
    edit(file, f"UPDATE alembic_version SET version_num = '{schema.HEAD}'")
    again = reopened(file)
    assert OperationRepository(again).operation("op-001") == operation(1)
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
    database: Database, operations: OperationRepository, file: Path, damage: str, said: str
) -> None:
    operations.save_operation(operation(1))
    database.close()
    edit(file, damage)
    before = rows(file, SCHEMA)

    with pytest.raises(StoreUnavailable, match="never released") as caught:
        Database(url(file)).open()

    reason = str(caught.value.params["reason"])
    assert said in reason
    assert "backup" in reason
    assert "free space" not in reason
    assert "update Warden" not in reason
    assert rows(file, SCHEMA) == before


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
    database: Database, file: Path, migrated: Path
) -> None:
    made = rows(file, SCHEMA)

    assert {"operations", "operations_by_time", "operations_by_state", "alembic_version"} <= {row[1] for row in made}
    assert made == rows(migrated, SCHEMA)
    assert inspected(file) == inspected(migrated)
    assert rows(file, "SELECT * FROM alembic_version") == rows(migrated, "SELECT * FROM alembic_version")


def test_a_database_that_was_made_at_once_takes_the_next_revision(
    operations: OperationRepository, file: Path, tmp_path: Path
) -> None:
    operations.save_operation(operation(1))
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "next.py").write_text(NEXT_REVISION)

    upgrade(file, folder)

    assert rows(file, "SELECT version_num FROM alembic_version") == [("next",)]
    assert rows(file, "SELECT id, note FROM operations") == [("op-001", None)]


def test_operations_of_a_version_without_request_ids_have_none(tmp_path: Path) -> None:
    file = tmp_path / "earlier.db"
    upgrade(file, MIGRATIONS, "0007")
    edit(
        file,
        "INSERT INTO operations (id, kind, actor, state, started_at, ended_at, document) VALUES ('op-001', 'clean', "
        '\'anna\', \'succeeded\', 1, 2, \'{"id": "op-001", "kind": "clean", "actor": "anna", '
        '"state": "succeeded", "started_at": 1, "ended_at": 2}\')',
    )
    database = reopened(file)
    repository = OperationRepository(database)
    earlier = repository.operation("op-001")
    assert earlier is not None
    assert earlier.request_id is None
    repository.save_operation(operation(2, request_id="r1"))
    assert repository.operation_of_request("anna", "r1") == operation(2, request_id="r1")
    database.close()


@pytest.mark.parametrize("taken", ["TABLE operations (id TEXT)", "VIEW alembic_version AS SELECT 1"])
def test_tables_that_cannot_all_be_made_leave_nothing_behind(tmp_path: Path, taken: str) -> None:
    """By the revisions, where a table is there; at once, where none is."""
    database = tmp_path / "warden.db"
    edit(database, f"CREATE {taken}")

    with pytest.raises(StoreUnavailable, match="already exists"):
        Database(url(database)).open()

    assert len(rows(database, SCHEMA)) == 1
    edit(database, f"DROP {' '.join(taken.split()[:2])}")
    reopened(database).close()


@pytest.mark.parametrize("start", ["first", "later"])
def test_a_start_without_an_update_needs_no_alembic(file: Path, start: str) -> None:
    if start == "later":
        reopened(file).close()
    program = f"""
import sys
from webapp.store.database import Database
database = Database({url(file)!r})
database.open()
database.close()
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


def upgrade(file: Path, migrations: Path, revision: str = "head") -> None:
    """Run the revisions of a folder as an update does."""
    engine = create_engine(url(file))
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations))
        command.upgrade(config, revision)
    engine.dispose()


def inspected(file: Path) -> dict[str, str]:
    """What SQLAlchemy finds in each table, in words that can be compared."""
    engine = create_engine(url(file))
    found = inspect(engine)
    tables = {
        name: repr((found.get_columns(name), found.get_pk_constraint(name), found.get_indexes(name)))
        for name in found.get_table_names()
    }
    engine.dispose()
    return tables
