"""``warden users`` and ``warden tokens`` manage accounts while Warden runs, and show a secret once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.cli.test_main import Answering
from webapp.auth.accounts import local_name
from webapp.cli.main import main
from webapp.control.lock import StateLock
from webapp.domain.audit import Action, AuditChannel, AuditEntry, Detail, Kind, Target
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.services import open_accounts, open_people
from webapp.settings import load_settings
from webapp.store.database import Database
from webapp.store.operations import OperationRepository
from webapp.store.urls import shown_database

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WARDEN_STATE_DIR", str(tmp_path))
        environment.setenv("WARDEN_CONFIG", str(tmp_path / "none.toml"))
        environment.setenv("COLUMNS", "200")
        has_run(tmp_path)
        yield tmp_path


def has_run(folder: Path, database: str | None = None) -> None:
    """Leave behind what a Warden leaves that ran with a state folder and has ended."""
    lock = StateLock(folder, database or f"{folder / 'warden.db'}")
    lock.take()
    lock.release()


def warden(*arguments: str, said: str = f"{PASSWORD}\n{PASSWORD}\n") -> Result:
    return CliRunner().invoke(main, arguments, input=said)


def users() -> dict[str, dict[str, object]]:
    return {user["name"]: user for user in json.loads(warden("users", "list", "--json").stdout)}


def test_the_one_command_makes_the_first_administrator_and_shows_no_password() -> None:
    result = warden("users", "add", "boss", "--role", "administrator")

    assert result.exit_code == 0
    assert "boss is administrator." in result.output
    assert PASSWORD not in result.output
    assert users()["boss"]["role"] == "administrator"


WRITING = (
    ("users", "add", "anna"),
    ("users", "role", "boss", "viewer"),
    ("users", "disable", "boss"),
    ("users", "enable", "boss"),
    ("users", "password", "boss"),
    ("users", "remove", "boss", "--yes"),
    ("tokens", "add", "boss", "nightly"),
    ("tokens", "revoke", "t1"),
)
LOOKING = (("users", "list"), ("tokens", "list"))


@pytest.mark.parametrize("command", [*WRITING, *LOOKING], ids=" ".join)
def test_a_folder_in_which_no_warden_has_ever_run_is_refused_and_stays_empty(
    folder: Path, command: tuple[str, ...]
) -> None:
    elsewhere = folder / "elsewhere"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WARDEN_STATE_DIR", str(elsewhere))
        result = warden(*command)

    assert result.exit_code == 1
    assert f"no Warden has ever run with the state folder {elsewhere}" in result.output
    assert "WARDEN_STATE_DIR=" in result.output
    assert "--new" in result.output
    assert "Password" not in result.output
    assert not elsewhere.exists()


@pytest.mark.parametrize("command", [*WRITING, *LOOKING], ids=" ".join)
def test_each_command_says_which_database_it_uses_and_whether_a_warden_runs(
    folder: Path, command: tuple[str, ...]
) -> None:
    warden("users", "add", "boss")
    place = f"State folder {folder}, database {folder / 'warden.db'}: "
    assert place + "Warden is not running.\n" in warden(*command).stderr

    lock = StateLock(folder, str(folder / "warden.db"))
    lock.take()
    try:
        assert place + f"Warden is running (process {os.getpid()}).\n" in warden(*command).stderr
    finally:
        lock.release()


def test_a_new_installation_is_written_when_that_is_asked_for(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WARDEN_STATE_DIR", str(folder / "fresh"))
        result = warden("users", "add", "boss", "--role", "administrator", "--new")
        assert result.exit_code == 0
        assert "no Warden has ever run here" in result.stderr
        assert warden("users", "add", "anna").exit_code == 1
        assert json.loads(warden("users", "list", "--json", "--new").stdout)[0]["name"] == "boss"


def test_the_folder_of_a_warden_that_uses_another_database_is_refused(folder: Path) -> None:
    has_run(folder, "postgresql://db/warden")

    result = warden("users", "add", "boss")

    assert result.exit_code == 1
    assert "uses the database postgresql://db/warden" in result.output
    assert "WARDEN_DATABASE_URL" in result.output
    assert not (folder / "warden.db").exists()


def test_a_database_that_a_warden_has_used_is_known_from_any_folder(folder: Path) -> None:
    file = folder / "service.db"
    database = Database(f"sqlite:///{file}")
    database.open()
    OperationRepository(database).save_operation(
        Operation("o1", OperationKind.CLEAN, "ivan", OperationState.SUCCEEDED, 1.0, ended_at=2.0)
    )
    database.close()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WARDEN_DATABASE_URL", f"sqlite:///{file}")
        environment.setenv("WARDEN_STATE_DIR", str(folder / "elsewhere"))
        result = warden("users", "add", "boss")

    assert result.exit_code == 0
    assert f"database {file}: a Warden has used it; this state folder does not show" in result.stderr


def test_a_folder_of_an_older_warden_is_known_by_its_database(folder: Path) -> None:
    (folder / "lock").write_text("4242\n")
    assert warden("users", "add", "boss").exit_code == 1

    with open_accounts(load_settings()):
        pass
    database = Database(load_settings().storage.database)
    database.open()
    OperationRepository(database).save_operation(
        Operation("o1", OperationKind.CLEAN, "ivan", OperationState.SUCCEEDED, 1.0, ended_at=2.0)
    )
    database.close()
    assert warden("users", "add", "boss").exit_code == 0


def test_the_password_of_a_database_is_not_printed() -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WARDEN_DATABASE_URL", "postgresql+nodriver://anna:hunter2@db/warden?password=hunter3")
        result = warden("users", "add", "boss")

    assert result.exit_code == 1
    assert "hunter" not in result.output


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/warden/warden.db", "/var/lib/warden/warden.db"),
        ("postgresql://anna:hunter2@db:5433/warden?password=hunter3&sslmode=require", "postgresql://db:5433/warden"),
        ("postgresql:///warden?host=/run/postgresql", "postgresql:///warden?host=%2Frun%2Fpostgresql"),
        ("no url", "(unreadable)"),
    ],
)
def test_a_database_is_shown_without_what_opens_it(url: str, shown: str) -> None:
    assert shown_database(url) == shown


def test_a_password_comes_from_the_input_when_a_program_gives_it() -> None:
    assert warden("users", "add", "boss", "--password-stdin", said=f"{PASSWORD}\n").exit_code == 0
    with open_accounts(load_settings()) as accounts:
        accounts.change_password("boss", PASSWORD, "another horse")


def test_accounts_are_changed_while_somebody_else_has_the_database_open() -> None:
    with open_accounts(load_settings()) as accounts:
        warden("users", "add", "boss", "--role", "administrator")
        warden("users", "add", "anna")
        warden("users", "role", "anna", "operator")
        warden("users", "disable", "anna")
        assert accounts.person("anna").disabled
        warden("users", "enable", "anna")
        warden("users", "password", "anna", said="another horse\nanother horse\n")
        accounts.change_password("anna", "another horse", PASSWORD)
        assert warden("users", "remove", "anna", said="n\n").exit_code == 1
        assert warden("users", "remove", "anna", "--yes").exit_code == 0
        assert [person.name for person in accounts.people()] == ["boss"]


def test_removing_whom_only_the_proxy_signs_in_disables_and_says_so() -> None:
    warden("users", "add", "anna", "--proxied")

    result = warden("users", "remove", "anna", "--yes")

    assert result.exit_code == 0
    assert "anna has lost its tokens and is disabled, not removed: the proxy would create it again." in result.output
    assert users()["anna"]["disabled"]
    assert "without a password is disabled instead" in warden("users", "remove", "--help").output


def test_the_name_of_the_machines_user_is_given_here() -> None:
    assert warden("users", "add", local_name(), "--role", "administrator").exit_code == 0


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("users", "role", "boss", "viewer"), "boss is the only administrator"),
        (("users", "disable", "boss"), "boss is the only administrator"),
        (("users", "remove", "boss", "--yes"), "boss is the only administrator"),
        (("users", "add", "BOSS"), "The name BOSS is taken"),
        (("users", "add", "warden"), "The name warden is taken"),
        (("users", "add", "a b"), "The field “name” cannot be “a b”"),
        (("users", "password", "nobody"), "There is no account nobody"),
        (("tokens", "add", "nobody", "x"), "There is no account nobody"),
        (("tokens", "revoke", "nothing"), "There is no token nothing"),
    ],
)
def test_a_refusal_is_one_sentence(command: tuple[str, ...], sentence: str) -> None:
    warden("users", "add", "boss", "--role", "administrator")

    result = warden(*command)

    assert result.exit_code == 1
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert users()["boss"]["role"] == "administrator"


def recorded() -> list[AuditEntry]:
    """What was put down, oldest first."""
    with open_people(load_settings()) as (_, audit):
        return list(reversed(audit.entries(100)))


def test_every_command_that_changes_something_is_put_down() -> None:
    for command in (
        ("users", "add", "boss", "--role", "administrator"),
        ("users", "add", "anna"),
        ("users", "role", "anna", "operator"),
        ("users", "disable", "anna"),
        ("users", "enable", "anna"),
        ("users", "password", "anna"),
        ("tokens", "add", "boss", "nightly", "--scope", "viewer"),
        ("users", "list"),
        ("tokens", "list"),
    ):
        assert warden(*command).exit_code == 0
    (token,) = json.loads(warden("tokens", "list", "--json").stdout)
    warden("tokens", "revoke", token["id"])
    warden("users", "remove", "anna", said="n\n")
    warden("users", "remove", "anna", "--yes")
    warden("users", "role", "boss", "viewer")

    kept = recorded()
    assert [entry.action for entry in kept] == [
        Action.PERSON_MADE,
        Action.PERSON_MADE,
        Action.ROLE,
        Action.DISABLED,
        Action.ENABLED,
        Action.PASSWORD,
        Action.TOKEN_MADE,
        Action.TOKEN_REVOKED,
        Action.REMOVED,
        Action.ROLE,
    ]
    assert {(entry.doer.came, entry.address) for entry in kept} == {(AuditChannel.COMMAND_LINE, "")}
    assert kept[2].details == ((Detail.ROLE_BEFORE, "viewer"), (Detail.ROLE, "operator"))
    assert kept[2].target == kept[8].target
    assert kept[7].target == Target(Kind.TOKEN, token["id"], "nightly")
    assert (kept[-1].result.value, kept[-1].problem) == ("refused", "last_administrator")
    assert PASSWORD not in repr(kept)
    assert "wdn_" not in repr(kept)


def test_a_weak_password_is_refused_with_the_rule() -> None:
    result = warden("users", "add", "boss", said="short\nshort\n")

    assert "needs 10 to 200 characters" in result.output
    assert users() == {}


def test_a_token_is_printed_once_and_alone() -> None:
    warden("users", "add", "anna", "--role", "operator")

    result = warden("tokens", "add", "anna", "nightly", "--scope", "operator", "--days", "30")

    assert result.stdout.startswith("wdn_")
    assert len(result.stdout.splitlines()) == 1
    listed = warden("tokens", "list", "--json").stdout
    assert result.stdout.strip() not in listed + warden("tokens", "list").output
    (token,) = json.loads(listed)
    assert (token["owner"], token["label"], token["scope"], token["used_at"]) == ("anna", "nightly", "operator", None)

    assert warden("tokens", "revoke", token["id"]).exit_code == 0
    assert json.loads(warden("tokens", "list", "--json").stdout) == []


def test_a_token_above_its_owner_is_refused() -> None:
    warden("users", "add", "anna")

    result = warden("tokens", "add", "anna", "x", "--scope", "administrator")

    assert result.exit_code == 1
    assert "This needs the role “administrator”, not “viewer”" in result.output


def test_the_tables_show_everybody() -> None:
    warden("users", "add", "anna", "--proxied", "--role", "operator")

    rows = [line.replace("│", " ").split() for line in warden("users", "list").output.splitlines()]

    assert ["anna", "operator", "by", "proxy"] in rows


def test_a_warden_whose_people_sign_in_asks_the_terminal_for_a_token() -> None:
    with Answering(401, b"{}") as env:
        result = CliRunner().invoke(main, ["status"], env=env)

    assert result.exit_code == 1
    assert "WARDEN_TOKEN" in result.output
