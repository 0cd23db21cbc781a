"""Accounts: who signs in, for how long, and what opens a way in is never kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Connection

from webapp.auth.accounts import TOKEN_START, Accounts, SessionLimits, Visit, local_name
from webapp.auth.identity_cache import KNOWN_S, PAUSE_S
from webapp.auth.passwords import Passwords
from webapp.domain.people import AuthMethod, Identity, Permission, Role
from webapp.errors import (
    Forbidden,
    InvalidRequest,
    LastAdministrator,
    NameInUse,
    SignInFailed,
    StoreUnavailable,
    UnknownInvitation,
    UnknownToken,
    WeakPassword,
)
from webapp.store.database import Database
from webapp.store.engines import BUSY_TIMEOUT_S
from webapp.store.people import PeopleRepository

HOUR = 3600.0
HERE = Visit("10.0.0.7", "Firefox")
POLL = Visit("10.0.0.7", "Firefox", counts=False)
PASSWORD = "correct horse"


class CountingHasher(PasswordHasher):
    """Quick, and says how often it was asked. ``meanwhile`` happens while a password is checked."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        self.verified += 1
        right = super().verify(hash, password)
        self.meanwhile()
        return right


class FaultyDatabase(Database):
    """A database that can go away or become full, and counts how often it was asked."""

    away = False
    full = False
    asked = 0

    @contextmanager
    def begin(self, busy_s: float = BUSY_TIMEOUT_S) -> Iterator[Connection]:
        self.asked += 1
        if self.away:
            raise StoreUnavailable(reason="away")
        with super().begin(busy_s) as connection:
            connection.exec_driver_sql(f"PRAGMA query_only = {int(self.full)}")
            yield connection


class World:
    """Accounts over a real database, with a clock that a test moves."""

    def __init__(self, database: Path) -> None:
        self.now = 1_000_000.0
        self.database = FaultyDatabase(f"sqlite:///{database}")
        self.database.open()
        self.hasher = CountingHasher()
        self.owners = {"gone"}
        limits = SessionLimits(HOUR, 10 * HOUR)
        people, passwords = PeopleRepository(self.database), Passwords(self.hasher)
        clock = lambda: self.now  # noqa: E731
        self.accounts = Accounts(people, passwords, limits, clock, lambda: self.owners, clock)


@pytest.fixture
def planning_state(tmp_path: Path) -> Iterator[World]:
    planning_state = World(tmp_path / "warden.db")
    yield planning_state
    planning_state.database.close()


@pytest.fixture
def accounts(planning_state: World) -> Accounts:
    planning_state.accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)
    planning_state.accounts.add("anna", Role.OPERATOR, PASSWORD)
    return planning_state.accounts


def signed_in(accounts: Accounts, name: str = "anna") -> tuple[str, Identity]:
    key = accounts.sign_in(name, PASSWORD, HERE)
    identity = accounts.by_session(key, HERE)
    assert identity is not None
    return key, identity


def test_who_signs_in_is_known_by_the_session(accounts: Accounts) -> None:
    _, identity = signed_in(accounts, "ANNA")

    assert (identity.name, identity.role, identity.way) == ("anna", Role.OPERATOR, AuthMethod.SESSION)


@pytest.mark.parametrize(
    ("name", "password"), [("anna", "wrong horse"), ("nobody", PASSWORD), ("<b>", PASSWORD), ("", "")]
)
def test_a_wrong_name_costs_as_much_as_a_wrong_password(
    planning_state: World, accounts: Accounts, name: str, password: str
) -> None:
    with pytest.raises(SignInFailed):
        accounts.sign_in(name, password, HERE)

    assert planning_state.hasher.verified == 1


def test_what_a_person_may_now_is_told_by_the_name(accounts: Accounts) -> None:
    assert accounts.has_permission("anna", Permission.SWITCH)
    assert not accounts.has_permission("anna", Permission.EMERGENCY)
    assert not accounts.has_permission("nobody", Permission.SEE)
    accounts.set_disabled("anna", True)
    assert not accounts.has_permission("anna", Permission.SWITCH)


def test_a_disabled_person_does_not_sign_in(accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    accounts.set_disabled("anna", True)

    assert accounts.by_session(key, HERE) is None
    with pytest.raises(SignInFailed):
        accounts.sign_in("anna", PASSWORD, HERE)

    accounts.set_disabled("anna", False)
    assert accounts.by_session(key, HERE) is None
    signed_in(accounts)


def test_a_session_ends_when_nobody_used_it(planning_state: World, accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    planning_state.now += HOUR - 1
    assert accounts.by_session(key, HERE) is not None
    planning_state.now += HOUR - 1
    assert accounts.by_session(key, HERE) is not None
    planning_state.now += HOUR
    assert accounts.by_session(key, HERE) is None


def test_an_open_page_that_only_polls_is_no_use(planning_state: World, accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    planning_state.now += HOUR - 1
    assert accounts.by_session(key, POLL) is not None
    planning_state.now += 1
    assert accounts.by_session(key, POLL) is None


def test_a_session_ends_in_any_case(planning_state: World, accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    for _ in range(19):
        planning_state.now += HOUR / 2
        assert accounts.by_session(key, HERE) is not None
    planning_state.now += HOUR / 2
    assert accounts.by_session(key, HERE) is None


def test_a_sign_out_ends_the_session_and_no_other(accounts: Accounts) -> None:
    first, identity = signed_in(accounts)
    second, _ = signed_in(accounts)

    accounts.sign_out(identity)

    assert accounts.by_session(first, HERE) is None
    assert accounts.by_session(second, HERE) is not None
    assert len(accounts.sessions(identity.person_id or "")) == 1


def test_a_new_password_ends_all_sessions(accounts: Accounts) -> None:
    keys = [signed_in(accounts)[0] for _ in range(2)]

    accounts.change_password("anna", PASSWORD, "another horse")

    assert [accounts.by_session(key, HERE) for key in keys] == [None, None]
    with pytest.raises(SignInFailed):
        accounts.sign_in("anna", PASSWORD, HERE)
    accounts.sign_in("anna", "another horse", HERE)


def test_a_password_is_changed_by_who_knows_it_and_to_a_good_one(accounts: Accounts) -> None:
    with pytest.raises(SignInFailed):
        accounts.change_password("anna", "wrong horse", "another horse")
    with pytest.raises(WeakPassword):
        accounts.change_password("anna", PASSWORD, "short")
    signed_in(accounts)


@pytest.mark.parametrize("change", ["password", "disabled"])
def test_what_changes_while_a_password_is_checked_leaves_no_session(
    planning_state: World, accounts: Accounts, change: str
) -> None:
    anna = accounts.person("anna")
    planning_state.hasher.meanwhile = {
        "password": lambda: accounts.set_password("anna", "another horse"),
        "disabled": lambda: accounts.set_disabled("anna", True),
    }[change]

    with pytest.raises(SignInFailed):
        accounts.sign_in("anna", PASSWORD, HERE)

    assert accounts.sessions(anna.id) == ()


def test_who_knew_the_old_password_does_not_change_the_new_one(planning_state: World, accounts: Accounts) -> None:
    planning_state.hasher.meanwhile = lambda: accounts.set_password("anna", "another horse")

    with pytest.raises(SignInFailed):
        accounts.change_password("anna", PASSWORD, "third horse here")

    planning_state.hasher.meanwhile = lambda: None
    accounts.sign_in("anna", "another horse", HERE)


def test_a_role_counts_from_the_next_request_on(accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    accounts.set_role("anna", Role.VIEWER)

    identity = accounts.by_session(key, HERE)

    assert identity is not None
    assert identity.role is Role.VIEWER


def test_the_last_administrator_stays_and_accounts_stay_in_force(accounts: Accounts) -> None:
    for leave in (
        lambda: accounts.set_role("boss", Role.OPERATOR),
        lambda: accounts.set_disabled("boss", True),
        lambda: accounts.remove("boss"),
    ):
        with pytest.raises(LastAdministrator):
            leave()
    assert accounts.has_administrator()


def test_there_is_no_administrator_until_one_is_made(planning_state: World) -> None:
    assert not planning_state.accounts.has_administrator()
    planning_state.accounts.add("anna", Role.OPERATOR, PASSWORD)
    planning_state.accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)
    planning_state.now += 1
    assert planning_state.accounts.has_administrator()


@pytest.mark.parametrize(("name", "problem"), [("", InvalidRequest), ("a b", InvalidRequest), ("Anna", NameInUse)])
def test_a_name_has_to_be_plain_and_free(accounts: Accounts, name: str, problem: type[Exception]) -> None:
    with pytest.raises(problem):
        accounts.add(name, Role.VIEWER, PASSWORD)


@pytest.mark.parametrize("name", ["warden", "Warden"])
def test_wardens_own_name_is_nobodys(accounts: Accounts, name: str) -> None:
    for make in (
        lambda: accounts.check_new(name),
        lambda: accounts.check_new(name, at_the_machine=True),
        lambda: accounts.add(name, Role.VIEWER, PASSWORD),
        lambda: accounts.accept(accounts.invite(Role.VIEWER, HOUR, "boss"), name, PASSWORD),
    ):
        with pytest.raises(NameInUse):
            make()
    assert accounts.by_proxy(name, Role.VIEWER) is None


@pytest.mark.parametrize("name", [local_name(), local_name().upper(), "gone", "GONE"])
def test_a_name_that_owns_something_is_given_at_the_machine_alone(accounts: Accounts, name: str) -> None:
    """The local person's, and that of an account that is gone while its model is loaded."""
    key = accounts.invite(Role.VIEWER, HOUR, "boss")

    with pytest.raises(NameInUse):
        accounts.accept(key, name, PASSWORD)

    accounts.check_new(name, at_the_machine=True)
    accounts.add(name, Role.VIEWER, PASSWORD)


# API tokens


def token_of(accounts: Accounts, name: str = "boss", scope: Role = Role.OPERATOR, valid_s: float | None = None) -> str:
    return accounts.add_token(accounts.person(name), "nightly", scope, valid_s)


def test_a_token_speaks_for_its_owner_within_its_scope(accounts: Accounts) -> None:
    key = token_of(accounts)

    assert key.startswith(TOKEN_START)
    identity = accounts.by_token(key)
    assert identity is not None
    assert (identity.name, identity.role, identity.way) == ("boss", Role.OPERATOR, AuthMethod.TOKEN)
    assert accounts.tokens()[0].used_at is not None


def test_a_token_shrinks_with_its_owner(accounts: Accounts) -> None:
    key = token_of(accounts, "anna", Role.OPERATOR)
    accounts.set_role("anna", Role.VIEWER)

    identity = accounts.by_token(key)

    assert identity is not None
    assert identity.role is Role.VIEWER


def test_a_token_reaches_no_higher_than_its_owner(accounts: Accounts) -> None:
    with pytest.raises(Forbidden):
        token_of(accounts, "anna", Role.ADMINISTRATOR)


def test_a_token_ends_by_its_time_by_a_revocation_and_with_its_owner(planning_state: World, accounts: Accounts) -> None:
    timed, revoked = token_of(accounts, "anna", Role.VIEWER, HOUR), token_of(accounts, "anna", Role.VIEWER)
    (number,) = [token.id for token in accounts.tokens() if token.expires_at is None]
    owned = token_of(accounts, "anna", Role.VIEWER)

    accounts.drop_token(number)
    planning_state.now += HOUR

    assert [accounts.by_token(key) is None for key in (timed, revoked, owned)] == [True, True, False]
    accounts.remove("anna")
    assert accounts.by_token(owned) is None
    assert accounts.tokens() == ()


def test_a_token_that_is_not_there_is_not_revoked(accounts: Accounts) -> None:
    with pytest.raises(UnknownToken):
        accounts.drop_token("nothing")


@pytest.mark.parametrize("label", ["", "  ", "x" * 61])
def test_a_token_has_a_name(accounts: Accounts, label: str) -> None:
    with pytest.raises(InvalidRequest):
        accounts.add_token(accounts.person("boss"), label, Role.VIEWER, None)


# Invitations


def test_an_invitation_is_accepted_once(accounts: Accounts) -> None:
    key = accounts.invite(Role.VIEWER, HOUR, "boss")

    assert accounts.accept(key, "new", PASSWORD).role is Role.VIEWER

    signed_in(accounts, "new")
    with pytest.raises(UnknownInvitation):
        accounts.accept(key, "second", PASSWORD)


def test_an_invitation_ends(planning_state: World, accounts: Accounts) -> None:
    late, dropped = accounts.invite(Role.VIEWER, HOUR, "boss"), accounts.invite(Role.VIEWER, 2 * HOUR, "boss")
    planning_state.now += HOUR
    (open_,) = accounts.invitations()
    accounts.drop_invitation(open_.id)

    for key in (late, dropped, "", "guessed"):
        with pytest.raises(UnknownInvitation):
            accounts.invitation(key)


@pytest.mark.parametrize("way", ["demoted", "disabled", "removed"])
def test_no_administrator_comes_back_by_an_invitation_of_before(accounts: Accounts, way: str) -> None:
    accounts.add("second", Role.ADMINISTRATOR, PASSWORD)
    key = accounts.invite(Role.ADMINISTRATOR, HOUR, "second")

    ways: dict[str, Callable[[], object]] = {
        "demoted": lambda: accounts.set_role("second", Role.VIEWER),
        "disabled": lambda: accounts.set_disabled("second", True),
        "removed": lambda: accounts.remove("second"),
    }
    ways[way]()

    with pytest.raises(UnknownInvitation):
        accounts.accept(key, "third", PASSWORD)


def test_the_local_persons_invitation_works(accounts: Accounts) -> None:
    key = accounts.invite(Role.VIEWER, HOUR, local_name())

    assert accounts.accept(key, "new", PASSWORD).role is Role.VIEWER


# The proxy


def test_a_person_whom_the_proxy_names_first_gets_the_role_of_newcomers(accounts: Accounts) -> None:
    identity = accounts.by_proxy("carol@lab", Role.VIEWER)

    assert identity is not None
    assert (identity.name, identity.role, identity.way) == ("carol@lab", Role.VIEWER, AuthMethod.PROXY)
    with pytest.raises(SignInFailed):
        accounts.sign_in("carol@lab", "", HERE)


def test_the_proxy_lets_only_known_people_in_where_that_is_wished(accounts: Accounts) -> None:
    assert accounts.by_proxy("carol", None) is None
    assert accounts.by_proxy("anna, boss", Role.VIEWER) is None
    known = accounts.by_proxy("Anna", None)
    assert known is not None
    assert known.role is Role.OPERATOR

    accounts.set_disabled("anna", True)
    assert accounts.by_proxy("anna", Role.VIEWER) is None


def test_the_proxy_makes_no_account_of_the_local_persons_name(accounts: Accounts) -> None:
    assert accounts.by_proxy(local_name(), Role.VIEWER) is None

    accounts.add(local_name(), Role.OPERATOR, None)

    assert accounts.by_proxy(local_name(), Role.VIEWER) is not None


def test_who_was_removed_does_not_come_back_by_the_proxy(accounts: Accounts) -> None:
    accounts.by_proxy("carol", Role.OPERATOR)
    token = token_of(accounts, "carol", Role.VIEWER)

    assert not accounts.remove("carol")

    assert accounts.by_proxy("carol", Role.VIEWER) is None
    assert accounts.person("carol").disabled
    accounts.set_disabled("carol", False)
    assert accounts.by_token(token) is None


# What is kept and said


def test_no_key_and_no_password_is_kept_or_logged(
    planning_state: World, accounts: Accounts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    session, identity = signed_in(accounts)
    token, invitation = token_of(accounts), accounts.invite(Role.VIEWER, HOUR, "boss")
    accounts.by_token(token)
    accounts.accept(invitation, "new", PASSWORD)
    accounts.sign_out(identity)
    planning_state.database.close()

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (session, token, invitation, PASSWORD):
        assert secret.encode() not in kept
        assert secret not in caplog.text
    assert "anna signed in from 10.0.0.7" in caplog.text


# A database that fails


def test_who_was_there_a_moment_ago_stays_while_the_database_fails(planning_state: World, accounts: Accounts) -> None:
    assert accounts.has_administrator()
    key, identity = signed_in(accounts)
    planning_state.database.close()

    for _ in range(3):
        planning_state.now += KNOWN_S / 3
        assert accounts.by_session(key, HERE) == identity
    with pytest.raises(StoreUnavailable):
        accounts.by_session("guessed", HERE)
    assert accounts.has_administrator()


def test_no_polling_keeps_anybody_in_while_the_database_fails(planning_state: World, accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    planning_state.database.away = True
    planning_state.now += KNOWN_S - 1
    assert accounts.by_session(key, POLL) is not None
    planning_state.now += 2

    with pytest.raises(StoreUnavailable):
        accounts.by_session(key, POLL)


@pytest.mark.parametrize("over", ["idle", "in any case"])
def test_a_session_that_is_over_is_so_on_a_full_disk(planning_state: World, accounts: Accounts, over: str) -> None:
    key, _ = signed_in(accounts)
    if over == "in any case":
        for _ in range(20):
            planning_state.now += HOUR / 2 - 5
            assert accounts.by_session(key, HERE) is not None
        planning_state.now += 100
    else:
        planning_state.now += HOUR - 100
        assert accounts.by_session(key, POLL) is not None
        planning_state.now += 100
    planning_state.database.full = True

    for _ in range(3):
        assert accounts.by_session(key, POLL) is None
        planning_state.now += 100


def test_what_opens_something_in_one_way_opens_nothing_in_another(planning_state: World, accounts: Accounts) -> None:
    """The names that a proxy says are no secrets: sent as a token they are worth nothing, also while the database fails."""
    accounts.by_proxy("Anna", None)
    session, _ = signed_in(accounts, "boss")
    token = token_of(accounts)
    accounts.by_token(token)
    planning_state.database.away = True

    assert accounts.by_proxy("Anna", None) is not None
    for key in ("Anna", "proxy Anna", f"session {session}", session):
        with pytest.raises(StoreUnavailable):
            accounts.by_token(key)
    for key in ("Anna", "proxy Anna", f"token {token}", token):
        with pytest.raises(StoreUnavailable):
            accounts.by_session(key, HERE)


def test_a_database_that_failed_is_left_alone_for_a_while(planning_state: World, accounts: Accounts) -> None:
    key, identity = signed_in(accounts)
    token = token_of(accounts)
    planning_state.database.away, planning_state.database.asked = True, 0

    def everybody_asks() -> None:
        assert accounts.by_session(key, HERE) == identity
        for ask in (
            lambda: accounts.by_session("guessed", HERE),
            lambda: accounts.by_token(token),
            lambda: accounts.by_proxy("anna", Role.VIEWER),
            lambda: accounts.sign_in("anna", PASSWORD, HERE),
            lambda: accounts.has_permission("anna", Permission.SWITCH),
            accounts.has_administrator,
        ):
            with pytest.raises(StoreUnavailable, match="away"):
                ask()

    everybody_asks()
    planning_state.now += PAUSE_S - 1
    everybody_asks()
    assert planning_state.database.asked == 1

    planning_state.now += 1
    everybody_asks()
    assert planning_state.database.asked == 2

    planning_state.database.away = False
    planning_state.now += PAUSE_S
    assert accounts.by_session(key, HERE) == identity
    assert accounts.by_token(token) is not None


def test_notes_that_fail_hold_up_one_request_a_while_and_no_reading(planning_state: World, accounts: Accounts) -> None:
    token = token_of(accounts)
    planning_state.database.full, planning_state.database.asked = True, 0

    for _ in range(3):
        assert accounts.by_token(token) is not None

    assert planning_state.database.asked == 4


def test_who_was_there_long_ago_does_not(planning_state: World, accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    planning_state.database.close()
    planning_state.now += KNOWN_S + 1

    with pytest.raises(StoreUnavailable):
        accounts.by_session(key, HERE)


def test_rights_that_were_changed_are_not_remembered(planning_state: World, accounts: Accounts) -> None:
    key, _ = signed_in(accounts)
    accounts.set_role("anna", Role.VIEWER)
    planning_state.database.close()

    with pytest.raises(StoreUnavailable):
        accounts.by_session(key, HERE)


def test_that_nothing_was_ever_read_lets_nobody_in(tmp_path: Path) -> None:
    accounts = Accounts(
        PeopleRepository(Database(f"sqlite:///{tmp_path}/x.db")), Passwords(), SessionLimits(1, 1), lambda: 0.0
    )

    with pytest.raises(StoreUnavailable):
        accounts.has_administrator()
