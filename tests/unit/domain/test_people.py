"""Who may do what: a role has all rights of the one below, and a token never more than a person."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from webapp.domain.people import (
    IN_PERSON,
    AuthMethod,
    Identity,
    Permission,
    Role,
    allows,
    has_permission,
    is_name,
    is_password,
    lower,
    may_cancel,
)

ANNA = Identity("anna", Role.OPERATOR, AuthMethod.SESSION, "p1", "s1")
BOSS = replace(ANNA, name="boss", role=Role.ADMINISTRATOR)
GUEST = replace(ANNA, name="guest", role=Role.VIEWER)


@pytest.mark.parametrize("right", Permission)
def test_a_role_may_all_that_the_one_below_may(right: Permission) -> None:
    for below, above in itertools.pairwise((None, *Role)):
        assert has_permission(above, right) or not has_permission(below, right)
    assert has_permission(Role.ADMINISTRATOR, right)


def test_nobody_in_particular_may_only_what_is_open() -> None:
    assert [right for right in Permission if has_permission(None, right)] == [Permission.OPEN]


def test_a_viewer_changes_nothing_but_an_own_account() -> None:
    assert {right for right in Permission if has_permission(Role.VIEWER, right)} == {
        Permission.OPEN,
        Permission.SEE,
        Permission.ACCOUNT,
    }


@pytest.mark.parametrize("right", sorted(IN_PERSON))
def test_a_token_manages_no_account(right: Permission) -> None:
    assert allows(BOSS, right)
    assert not allows(replace(BOSS, way=AuthMethod.TOKEN), right)


@pytest.mark.parametrize(
    ("who", "actor", "allowed"),
    [(ANNA, "anna", True), (ANNA, "boris", False), (BOSS, "boris", True), (GUEST, "guest", False)],
)
def test_an_operator_cancels_own_operations(who: Identity, actor: str, allowed: bool) -> None:
    assert may_cancel(who, actor) is allowed


def test_the_lower_of_two_roles() -> None:
    assert lower(Role.ADMINISTRATOR, Role.VIEWER) is lower(Role.VIEWER, Role.ADMINISTRATOR) is Role.VIEWER


@pytest.mark.parametrize("name", ["anna", "a", "A.B-c_9", "anna@lab.example", "x" * 64])
def test_a_name_is_plain(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", " anna", "анна", "-anna", "a b", "a\n", "x" * 65, "<b>", "a,b", "../a"])
def test_what_could_be_taken_for_something_else_is_no_name(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    ("password", "good"),
    [("x" * 9, False), ("x" * 10, True), ("x" * 201, False), ("my Anna 2026", False), ("десять слов", True)],
)
def test_a_password_is_long_and_does_not_hold_the_name(password: str, good: bool) -> None:
    assert is_password(password, "anna") is good
