"""Look-ups of an audit entry's target by the parameters of the URL or the fields of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from flask import g, request

from webapp.domain.audit import Detail, Details, Kind, Target, short
from webapp.domain.operation import Operation
from webapp.domain.people import Person, is_name
from webapp.domain.queue import QueuedLaunch
from webapp.errors import WardenError
from webapp.web.actor import shown_identity
from webapp.web.audit.recording import sent
from webapp.web.ports import accounts, controller

Known = Callable[[], Iterable[Any]]
"""Returns things with an id, one of which the URL may name."""


def _named(argument: str) -> str:
    return short(str((request.view_args or {}).get(argument, "")))


def _find(argument: str, known: Known) -> Any:
    wanted = _named(argument)
    return next((one for one in known() if one.id == wanted), None)


def _addressed(kind: Kind, argument: str, known: Known, name: Callable[[Any], str]) -> Callable[[], Target]:
    """Return a look-up of the target that ``argument`` of the URL names; an unknown one is recorded only by its id."""

    def target() -> Target:
        try:
            found = _find(argument, known)
        except WardenError:
            found = None
        return Target(kind, _named(argument), "" if found is None else name(found))

    return target


def _sent_as(kind: Kind, name: str) -> Callable[[], Target]:
    """Return a look-up of the target that a form or JSON field names, with the id of what the request created."""
    return lambda: Target(kind, g.get("audit_made", ""), sent(name))


def _owner_of(argument: str, known: Known, owner: Callable[[Any], str]) -> Callable[[], Details]:
    """Return a look-up of the owner of what ``argument`` of the URL names, recorded if it is not the sender."""

    def details() -> Details:
        found, identity = _find(argument, known), shown_identity()
        if found is None or (identity is not None and identity.name == owner(found)):
            return ()
        return ((Detail.OWNER, short(owner(found))),)

    return details


def _operations() -> tuple[Operation, ...]:
    """Return the operation in the URL. Raises UnknownOperation, StoreUnavailable."""
    return (controller().operation(_named("operation_id")),)


def _waiting() -> list[QueuedLaunch]:
    return [queued.launch for queued in controller().snapshot().waiting]


def _person_id() -> str:
    identity = shown_identity()
    return "" if identity is None else identity.person_id or ""


model_asked_for: Final = _sent_as(Kind.MODEL, "model")
new_queued_launch: Final = _sent_as(Kind.QUEUED_LAUNCH, "model")
new_token: Final = _sent_as(Kind.TOKEN, "label")
new_invitation: Final = _sent_as(Kind.INVITATION, "role")

running_model: Final = _addressed(
    Kind.MODEL, "instance_id", lambda: controller().snapshot().instances, attrgetter("model_id")
)
container: Final = _addressed(
    Kind.CONTAINER, "container_id", lambda: controller().snapshot().containers, attrgetter("name")
)
operation: Final = _addressed(Kind.OPERATION, "operation_id", _operations, lambda one: one.model_id or one.kind.value)
queued_launch: Final = _addressed(
    Kind.QUEUED_LAUNCH,
    "ticket_id",
    lambda: (*_waiting(), *controller().snapshot().waited),
    attrgetter("request.model_id"),
)
own_session: Final = _addressed(
    Kind.SESSION, "session_id", lambda: accounts().sessions(_person_id()), attrgetter("address")
)
own_token: Final = _addressed(Kind.TOKEN, "token_id", lambda: accounts().tokens(_person_id()), attrgetter("name"))
invitation: Final = _addressed(
    Kind.INVITATION, "invitation_id", lambda: accounts().invitations(), attrgetter("role.value")
)

owner_of_model: Final = _owner_of("instance_id", lambda: controller().snapshot().instances, attrgetter("owner"))
owner_of_operation: Final = _owner_of("operation_id", _operations, attrgetter("actor"))
owner_of_queued_launch: Final = _owner_of("ticket_id", _waiting, attrgetter("actor"))


def person() -> Target:
    """Return the account in the URL."""
    found = _account(_named("name"))
    return Target(Kind.PERSON, name=_named("name")) if found is None else _person(found)


def typed_person() -> Target:
    """Return the account that a form names. If there is none, the text is not recorded: it may be a password."""
    found = _account(sent("name"))
    return Target(Kind.PERSON) if found is None else _person(found)


def oneself() -> Target:
    """Return the sender's own account."""
    identity = shown_identity()
    return Target(Kind.PERSON) if identity is None else Target(Kind.PERSON, identity.person_id or "", identity.name)


def role_before() -> Details:
    """Return the role of the person in the URL."""
    found = _account(_named("name"))
    return () if found is None else ((Detail.ROLE_BEFORE, found.role.value),)


def lease_now() -> Details:
    """Return the lease end of the instance in the URL."""
    found = controller().snapshot().instance(_named("instance_id"))
    if found is None or found.lease.until is None:
        return ()
    return ((Detail.LEASE, datetime.fromtimestamp(found.lease.until, UTC).isoformat(timespec="seconds")),)


def _person(found: Person) -> Target:
    return Target(Kind.PERSON, found.id, found.name)


def _account(name: str) -> Person | None:
    if not is_name(name):
        return None
    try:
        return accounts().person(name)
    except WardenError:
        return None
