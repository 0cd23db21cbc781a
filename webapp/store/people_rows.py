"""Rows of accounts, sessions, invitations and API tokens as values, and back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from webapp.domain.people import ApiToken, Invitation, Person, Role, Session


def row_of(value: Person | Session | Invitation | ApiToken) -> dict[str, Any]:
    """Return the fields of a value by the names of the columns."""
    return {name: part.value if isinstance(part, Role) else part for name, part in vars(value).items()}


def person_of(row: Row[Any]) -> Person:
    """Return the account of a row."""
    return Person(
        row.id, row.name, Role(row.role), row.created_at, row.seen_at, row.disabled, row.password_hash is not None
    )


def session_of(row: Row[Any]) -> Session:
    """Return the session of a row."""
    return Session(row.id, row.person_id, row.created_at, row.used_at, row.expires_at, row.address, row.agent)


def invitation_of(row: Row[Any]) -> Invitation:
    """Return the invitation of a row."""
    return Invitation(row.id, Role(row.role), row.created_at, row.expires_at, row.created_by, row.used_at)


def token_of(row: Row[Any]) -> ApiToken:
    """Return the API token of a row."""
    return ApiToken(row.id, row.person_id, row.name, Role(row.scope), row.created_at, row.expires_at, row.used_at)
