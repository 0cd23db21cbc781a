"""The content of an audit entry."""

from __future__ import annotations

import pytest

from webapp.domain.audit import (
    NOBODY,
    TEXT_LIMIT,
    Action,
    ActionGroup,
    AuditActor,
    AuditChannel,
    AuditEntry,
    Detail,
    doer_of,
    short,
)
from webapp.domain.people import AuthMethod, Identity, Role


def test_every_action_belongs_to_a_group_and_no_group_is_empty() -> None:
    assert [action for group in ActionGroup for action in Action if action.group is group] == list(Action)
    assert {action.group for action in Action} == set(ActionGroup)


@pytest.mark.parametrize("way", AuthMethod)
def test_every_way_in_is_kept_as_it_is(way: AuthMethod) -> None:
    identity = Identity("olga", Role.OPERATOR, way, "p1", "s1", token="ci" if way is AuthMethod.TOKEN else None)

    assert doer_of(identity) == AuditActor("olga", AuditChannel(way.value), "p1", identity.token)


def test_who_is_not_signed_in_has_no_name() -> None:
    assert doer_of(None) == NOBODY == AuditActor("", AuditChannel.NOBODY)


def test_no_detail_is_one_that_could_open_something() -> None:
    for secret in ("password", "key", "token", "prompt", "secret", "cookie", "csrf"):
        assert not [detail for detail in Detail if secret in detail.value]
    assert set(AuditEntry.__dataclass_fields__) == {
        "at", "doer", "action", "target", "result", "address", "problem", "details", "operation_id", "id",
    }  # fmt: skip


def test_a_text_is_kept_as_one_line_and_not_endless() -> None:
    assert short(" a\n b\tc ") == "a b c"
    assert short("x" * 1000) == "x" * (TEXT_LIMIT - 1) + "…"
