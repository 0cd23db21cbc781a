"""The store keeps people, and of what opens something the hash alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from webapp.domain.people import ApiToken, Invitation, Person, Role, Session
from webapp.errors import (
    LastAdministrator,
    NameInUse,
    SignInFailed,
    StoreUnavailable,
    UnknownInvitation,
    UnknownPerson,
    UnknownToken,
)
from webapp.store.database import Database
from webapp.store.people import PeopleRepository

BOSS = Person("p1", "Boss", Role.ADMINISTRATOR, 1.0)
ANNA = Person("p2", "anna", Role.OPERATOR, 2.0, has_password=False)
OTHER = Person("p3", "other", Role.ADMINISTRATOR, 1.0)
SESSION = Session("s1", "p1", 10.0, 10.0, 100.0, "10.0.0.7", "Firefox")
TOKEN = ApiToken("t1", "p1", "nightly", Role.OPERATOR, 10.0)
INVITATION = Invitation("i1", Role.OPERATOR, 10.0, 100.0, "Boss")


@pytest.fixture
def people(database: Database) -> PeopleRepository:
    people = PeopleRepository(database)
    people.add_person(BOSS, "hash")
    people.add_person(ANNA, None)
    return people


def test_people_come_back_as_they_were_by_name(people: PeopleRepository) -> None:
    assert people.people() == (ANNA, BOSS)
    assert people.person("bOSS") == BOSS
    assert people.person("boris") is None


def test_a_person_without_a_password_has_no_credentials(people: PeopleRepository) -> None:
    assert people.credentials("boss") == (BOSS, "hash")
    assert people.credentials("anna") is None


def test_a_name_is_given_once_however_it_is_written(people: PeopleRepository) -> None:
    with pytest.raises(NameInUse):
        people.add_person(Person("p3", "ANNA", Role.VIEWER, 1.0), "hash")


@pytest.mark.parametrize("leave", ["set_role", "set_disabled", "remove_person"])
def test_the_last_administrator_stays(people: PeopleRepository, leave: str) -> None:
    def go() -> None:
        extra = {"set_role": (Role.VIEWER,), "set_disabled": (True,), "remove_person": ()}[leave]
        getattr(people, leave)("p1", *extra)

    people.add_person(Person("p3", "idle", Role.ADMINISTRATOR, 1.0, disabled=True), "hash")
    with pytest.raises(LastAdministrator):
        go()
    assert people.person("boss") == BOSS

    people.set_disabled("p3", False)
    go()
    assert people.has_administrator()


@pytest.mark.parametrize("change", ["set_role", "set_disabled", "set_password", "remove_person"])
def test_nobody_who_is_not_there_is_changed(people: PeopleRepository, change: str) -> None:
    extra = {"set_role": (Role.VIEWER,), "set_disabled": (False,), "set_password": ("h",), "remove_person": ()}[change]

    with pytest.raises(UnknownPerson):
        getattr(people, change)("nobody", *extra)


def test_a_session_is_found_by_the_hash_of_its_key(people: PeopleRepository) -> None:
    people.add_session(SESSION, "k1", 0.0, "hash")
    people.touch_session(SESSION, 20.0)

    assert people.session("k1") == (replace(SESSION, used_at=20.0), replace(BOSS, seen_at=20.0))
    assert people.session("s1") is None


def test_a_new_session_sweeps_out_what_is_over(people: PeopleRepository) -> None:
    people.add_session(replace(SESSION, id="old", expires_at=15.0), "k1", 0.0, "hash")
    people.add_session(replace(SESSION, id="idle"), "k2", 0.0, "hash")
    people.add_session(replace(SESSION, id="new", created_at=20.0, used_at=20.0), "k3", 15.0, "hash")

    assert [session.id for session in people.sessions("p1")] == ["new"]


@pytest.mark.parametrize("way", ["password", "disabled", "removed", "all", "one"])
def test_sessions_end(people: PeopleRepository, way: str) -> None:
    people.add_person(OTHER, "hash")
    people.add_session(SESSION, "k1", 0.0, "hash")
    people.add_session(replace(SESSION, id="s2", person_id="p3"), "k2", 0.0, "hash")

    ways: dict[str, Callable[[], object]] = {
        "password": lambda: people.set_password("p1", "new"),
        "disabled": lambda: people.set_disabled("p1", True),
        "removed": lambda: people.remove_person("p1"),
        "all": lambda: people.end_sessions("p1"),
        "one": lambda: people.end_session("p1", "s1"),
    }
    ways[way]()

    assert people.session("k1") is None
    assert people.session("k2") is not None


@pytest.mark.parametrize("change", ["password", "disabled", "removed"])
def test_no_session_begins_by_what_was_the_password(people: PeopleRepository, change: str) -> None:
    people.add_person(OTHER, "hash")
    changes: dict[str, Callable[[], object]] = {
        "password": lambda: people.set_password("p1", "new"),
        "disabled": lambda: people.set_disabled("p1", True),
        "removed": lambda: people.remove_person("p1"),
    }
    changes[change]()

    with pytest.raises(SignInFailed):
        people.add_session(SESSION, "k1", 0.0, "hash")

    assert people.sessions("p1") == ()


def test_a_password_is_not_changed_by_what_was_the_password(people: PeopleRepository) -> None:
    people.set_password("p1", "new", "hash")

    with pytest.raises(SignInFailed):
        people.set_password("p1", "another", "hash")

    assert people.credentials("boss") == (BOSS, "new")


def test_a_person_without_a_password_is_disabled_instead_of_removed(people: PeopleRepository) -> None:
    people.add_token(replace(TOKEN, person_id="p2"), "k1")
    people.add_person(OTHER, "hash")

    assert not people.remove_person("p2")
    assert people.remove_person("p3")

    assert people.people() == (replace(ANNA, disabled=True), BOSS)
    assert people.tokens() == ()


def test_nobody_ends_anothers_session(people: PeopleRepository) -> None:
    people.add_session(SESSION, "k1", 0.0, "hash")

    people.end_session("p2", "s1")

    assert people.session("k1") is not None


def test_a_disabled_persons_token_opens_nothing(people: PeopleRepository) -> None:
    people.add_person(OTHER, "hash")
    people.add_token(TOKEN, "k1")
    assert people.token("k1") == (TOKEN, BOSS)

    people.set_disabled("p1", True)

    assert people.token("k1") is None


def test_a_token_is_revoked_by_its_owner_alone(people: PeopleRepository) -> None:
    people.add_token(TOKEN, "k1")

    with pytest.raises(UnknownToken):
        people.drop_token("t1", "p2")
    people.drop_token("t1", "p1")

    assert people.tokens() == people.tokens("p1") == ()


def test_an_invitation_makes_one_account_with_its_own_role(people: PeopleRepository) -> None:
    people.add_invitation(INVITATION, "k1")
    new = Person("p3", "new", Role.ADMINISTRATOR, 20.0)

    assert people.accept("k1", new, "hash", "root").role is Role.OPERATOR

    with pytest.raises(UnknownInvitation):
        people.accept("k1", replace(new, id="p4", name="second"), "hash", "root")
    assert people.invitations() == ()
    assert people.person("second") is None


def test_a_name_in_use_does_not_use_the_invitation_up(people: PeopleRepository) -> None:
    people.add_invitation(INVITATION, "k1")

    with pytest.raises(NameInUse):
        people.accept("k1", Person("p3", "Anna", Role.VIEWER, 20.0), "hash", "root")

    assert people.invitations() == (INVITATION,)


def test_an_invitation_that_is_over_makes_none(people: PeopleRepository) -> None:
    people.add_invitation(INVITATION, "k1")

    with pytest.raises(UnknownInvitation):
        people.accept("k1", Person("p3", "late", Role.VIEWER, 100.0), "hash", "root")


@pytest.mark.parametrize("way", ["role", "disabled", "removed"])
def test_open_invitations_go_with_the_rights_of_their_maker(people: PeopleRepository, way: str) -> None:
    people.add_person(OTHER, "hash")
    people.add_invitation(INVITATION, "k1")
    people.add_invitation(replace(INVITATION, id="i2", created_by="other"), "k2")
    people.add_invitation(replace(INVITATION, id="i3"), "k3")
    people.accept("k3", Person("p4", "used", Role.VIEWER, 20.0), "hash", "root")

    ways: dict[str, Callable[[], object]] = {
        "role": lambda: people.set_role("p1", Role.OPERATOR),
        "disabled": lambda: people.set_disabled("p1", True),
        "removed": lambda: people.remove_person("p1"),
    }
    ways[way]()

    assert [invitation.id for invitation in people.invitations()] == ["i2"]
    assert people.invitation("k1") is None
    assert people.invitation("k3") is not None


def test_the_last_administrators_invitations_stay_with_the_account(people: PeopleRepository) -> None:
    people.add_invitation(INVITATION, "k1")

    with pytest.raises(LastAdministrator):
        people.set_role("p1", Role.VIEWER)

    assert people.invitations() == (INVITATION,)


@pytest.mark.parametrize(
    ("maker", "works"), [("Boss", True), ("anna", False), ("gone", False), ("root", True), ("idle", False)]
)
def test_an_invitation_is_worth_what_its_maker_may_now(people: PeopleRepository, maker: str, works: bool) -> None:
    """``root`` is the local person, who has no account; an account of that name would count instead."""
    people.add_person(Person("p5", "idle", Role.ADMINISTRATOR, 1.0, disabled=True), "hash")
    people.add_invitation(replace(INVITATION, created_by=maker), "k1")
    new = Person("p4", "new", Role.VIEWER, 20.0)

    if works:
        people.accept("k1", new, "hash", "root")
    else:
        with pytest.raises(UnknownInvitation):
            people.accept("k1", new, "hash", "root")

    assert (people.person("new") is not None) is works


def test_a_closed_store_says_so(file: Path) -> None:
    with pytest.raises(StoreUnavailable):
        PeopleRepository(Database(f"sqlite:///{file}")).people()


def test_the_database_is_its_owners_alone(people: PeopleRepository, file: Path) -> None:
    assert [path.stat().st_mode & 0o077 for path in file.parent.iterdir()] == [0] * len(list(file.parent.iterdir()))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM people").fetchone() == (2,)
