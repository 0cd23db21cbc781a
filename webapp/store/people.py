"""Accounts, sessions, invitations and API tokens in the database. Secrets are stored only as hashes.

Every transaction locks invitations first, then people, then sessions and tokens, so that no two can deadlock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

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
from webapp.store.people_rows import invitation_of, person_of, row_of, session_of, token_of
from webapp.store.schema import invitations, people, sessions, tokens


class PeopleRepository:
    """The people of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Accounts

    def people(self) -> tuple[Person, ...]:
        """Return every account, by name."""
        with self._database.begin() as connection:
            rows = connection.execute(select(people).order_by(people.c.name_key)).all()
        return tuple(person_of(row) for row in rows)

    def person(self, name: str) -> Person | None:
        """Return the account of ``name``, compared without case."""
        with self._database.begin() as connection:
            row = connection.execute(select(people).where(_named(name))).first()
        return None if row is None else person_of(row)

    def credentials(self, name: str) -> tuple[Person, str] | None:
        """Return an account and the hash of its password; ``None`` if there is no such account or it has no
        password."""
        with self._database.begin() as connection:
            row = connection.execute(select(people).where(_named(name))).first()
        return None if row is None or row.password_hash is None else (person_of(row), row.password_hash)

    def has_administrator(self) -> bool:
        """Return whether there is an administrator whose account is enabled."""
        with self._database.begin() as connection:
            return connection.execute(select(people.c.id).where(*_ADMINISTRATES).limit(1)).first() is not None

    def add_person(self, person: Person, password_hash: str | None) -> None:
        """Store a new account. Raises NameInUse."""
        with _one_name(person.name), self._database.begin() as connection:
            _add(connection, person, password_hash)

    def set_role(self, person_id: str, role: Role) -> None:
        """Change a role; a person who is no longer an administrator loses their open invitations. Raises UnknownPerson,
        LastAdministrator."""
        with self._database.begin() as connection:
            if role is not Role.ADMINISTRATOR:
                _take_back_invitations(connection, person_id)
                _keep_an_administrator(connection, person_id)
            _change(connection, person_id, role=role.value)

    def set_disabled(self, person_id: str, disabled: bool) -> None:
        """Disable an account, which ends its sessions and open invitations, or enable it. Raises UnknownPerson,
        LastAdministrator."""
        with self._database.begin() as connection:
            if disabled:
                _take_back_invitations(connection, person_id)
                _keep_an_administrator(connection, person_id)
            _change(connection, person_id, disabled=disabled)
            if disabled:  # after the change, which waits for a sign-in in progress, so that its session is deleted too
                connection.execute(delete(sessions).where(sessions.c.person_id == person_id))

    def set_password(self, person_id: str, password_hash: str, old_hash: str | None = None) -> None:
        """Change a password and end all sessions of the person. Raises UnknownPerson.

        With ``old_hash`` it raises SignInFailed instead, if that is no longer the person's or the account is disabled.
        """
        still = () if old_hash is None else _signs_in_by(old_hash)
        change = update(people).where(people.c.id == person_id, *still).values(password_hash=password_hash)
        with self._database.begin() as connection:
            if connection.execute(change).rowcount == 0:
                raise UnknownPerson(person=person_id) if old_hash is None else SignInFailed
            connection.execute(delete(sessions).where(sessions.c.person_id == person_id))

    def remove_person(self, person_id: str) -> bool:
        """Remove an account with its sessions, tokens and open invitations; return False if it was only disabled.

        An account without a password is only disabled: the proxy that names the person would create it again. Raises
        UnknownPerson, LastAdministrator.
        """
        with self._database.begin() as connection:
            _take_back_invitations(connection, person_id)
            _keep_an_administrator(connection, person_id)
            _change(connection, person_id, disabled=True)
            for table in (sessions, tokens):
                connection.execute(delete(table).where(table.c.person_id == person_id))
            going = (people.c.id == person_id, people.c.password_hash.is_not(None))
            return connection.execute(delete(people).where(*going)).rowcount == 1

    def touch_person(self, person_id: str, at: float) -> None:
        """Note that a person was seen."""
        with self._database.begin() as connection:
            connection.execute(update(people).where(people.c.id == person_id).values(seen_at=at))

    # Sessions

    def add_session(self, session: Session, key_hash: str, idle_since: float, password_hash: str) -> None:
        """Store a new session and note that the person was seen; expired and idle (``idle_since``) ones are deleted.

        Raises SignInFailed if the hash is no longer the person's or the account is disabled: checking a password takes
        a while, and a session opened by an old one would outlive it. The update locks the row, so a change of password
        waits and then ends this session too.
        """
        over = (sessions.c.expires_at <= session.created_at) | (sessions.c.used_at < idle_since)
        opens = (people.c.id == session.person_id, *_signs_in_by(password_hash))
        with self._database.begin() as connection:
            if connection.execute(update(people).where(*opens).values(seen_at=session.created_at)).rowcount == 0:
                raise SignInFailed
            connection.execute(delete(sessions).where(over))
            connection.execute(insert(sessions).values(key_hash=key_hash, **row_of(session)))

    def session(self, key_hash: str) -> tuple[Session, Person] | None:
        """Return a session and its owner; ``None`` if the owner's account is disabled."""
        with self._database.begin() as connection:
            row = connection.execute(select(sessions).where(sessions.c.key_hash == key_hash)).first()
            owner = None if row is None else _owner(connection, row.person_id)
        return None if row is None or owner is None else (session_of(row), owner)

    def sessions(self, person_id: str) -> tuple[Session, ...]:
        """Return a person's sessions, the most recently used first."""
        query = select(sessions).where(sessions.c.person_id == person_id).order_by(sessions.c.used_at.desc())
        with self._database.begin() as connection:
            return tuple(session_of(row) for row in connection.execute(query).all())

    def touch_session(self, session: Session, at: float) -> None:
        """Note that a session was used by its person."""
        with self._database.begin() as connection:
            connection.execute(update(people).where(people.c.id == session.person_id).values(seen_at=at))
            connection.execute(update(sessions).where(sessions.c.id == session.id).values(used_at=at))

    def end_session(self, person_id: str, session_id: str) -> None:
        """End a person's session; idempotent."""
        mine = (sessions.c.person_id == person_id, sessions.c.id == session_id)
        with self._database.begin() as connection:
            connection.execute(delete(sessions).where(*mine))

    def end_sessions(self, person_id: str) -> int:
        """End all of a person's sessions and return how many there were."""
        with self._database.begin() as connection:
            return connection.execute(delete(sessions).where(sessions.c.person_id == person_id)).rowcount

    # Invitations

    def add_invitation(self, invitation: Invitation, key_hash: str) -> None:
        """Store a new invitation; expired ones are deleted."""
        with self._database.begin() as connection:
            connection.execute(delete(invitations).where(invitations.c.expires_at <= invitation.created_at))
            connection.execute(insert(invitations).values(key_hash=key_hash, **row_of(invitation)))

    def invitation(self, key_hash: str) -> Invitation | None:
        """Return an invitation, used or not."""
        with self._database.begin() as connection:
            row = connection.execute(select(invitations).where(invitations.c.key_hash == key_hash)).first()
        return None if row is None else invitation_of(row)

    def invitations(self) -> tuple[Invitation, ...]:
        """Return every unused invitation, newest first."""
        unused = select(invitations).where(invitations.c.used_at.is_(None)).order_by(invitations.c.created_at.desc())
        with self._database.begin() as connection:
            return tuple(invitation_of(row) for row in connection.execute(unused).all())

    def drop_invitation(self, invitation_id: str) -> None:
        """Withdraw an invitation; idempotent."""
        with self._database.begin() as connection:
            connection.execute(delete(invitations).where(invitations.c.id == invitation_id))

    def accept(self, key_hash: str, person: Person, password_hash: str, local_name: str) -> Person:
        """Create an account with the role of an invitation and return it; of two concurrent calls one succeeds.

        The inviter must still be an administrator, or the local person, who has no account and is called
        ``local_name``.

        Raises:
            UnknownInvitation: it was used, has expired, or its inviter is no longer an administrator.
            NameInUse: the name is taken; the invitation stays open.
        """
        usable = (
            invitations.c.key_hash == key_hash,
            invitations.c.used_at.is_(None),
            invitations.c.expires_at > person.created_at,
        )
        with _one_name(person.name), self._database.begin() as connection:
            used = connection.execute(update(invitations).where(*usable).values(used_at=person.created_at))
            if used.rowcount == 0:
                raise UnknownInvitation
            found = connection.execute(select(invitations).where(invitations.c.key_hash == key_hash)).one()
            if not _invites(connection, found.created_by, local_name):
                raise UnknownInvitation
            made = replace(person, role=Role(found.role))
            _add(connection, made, password_hash)
        return made

    # API tokens

    def add_token(self, token: ApiToken, key_hash: str) -> None:
        """Store a new API token."""
        with self._database.begin() as connection:
            connection.execute(insert(tokens).values(key_hash=key_hash, **row_of(token)))

    def token(self, key_hash: str) -> tuple[ApiToken, Person] | None:
        """Return a token and its owner; ``None`` if the owner's account is disabled."""
        with self._database.begin() as connection:
            row = connection.execute(select(tokens).where(tokens.c.key_hash == key_hash)).first()
            owner = None if row is None else _owner(connection, row.person_id)
        return None if row is None or owner is None else (token_of(row), owner)

    def tokens(self, person_id: str | None = None) -> tuple[ApiToken, ...]:
        """Return a person's tokens, or everybody's, newest first."""
        query = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id)
        if person_id is not None:
            query = query.where(tokens.c.person_id == person_id)
        with self._database.begin() as connection:
            return tuple(token_of(row) for row in connection.execute(query).all())

    def touch_token(self, token: ApiToken, at: float) -> None:
        """Note that a token was used."""
        with self._database.begin() as connection:
            connection.execute(update(people).where(people.c.id == token.person_id).values(seen_at=at))
            connection.execute(update(tokens).where(tokens.c.id == token.id).values(used_at=at))

    def drop_token(self, token_id: str, person_id: str | None = None) -> None:
        """Revoke a token; with ``person_id``, only if that person owns it. Raises UnknownToken."""
        mine = [tokens.c.id == token_id] + ([] if person_id is None else [tokens.c.person_id == person_id])
        with self._database.begin() as connection:
            if connection.execute(delete(tokens).where(*mine)).rowcount == 0:
                raise UnknownToken(token=token_id)


_ADMINISTRATES = (people.c.role == Role.ADMINISTRATOR.value, people.c.disabled.is_(False))


def _named(name: str) -> ColumnElement[bool]:
    return people.c.name_key == name.lower()


def _signs_in_by(password_hash: str) -> tuple[ColumnElement[bool], ...]:
    return (people.c.password_hash == password_hash, people.c.disabled.is_(False))


def _invites(connection: Connection, name: str, local_name: str) -> bool:
    """Whether ``name`` may invite. The row is locked, so a concurrent demotion takes effect before or after this."""
    row = connection.execute(select(people).where(_named(name)).with_for_update()).first()
    if row is None:
        return name == local_name
    return row.role == Role.ADMINISTRATOR.value and not row.disabled


def _take_back_invitations(connection: Connection, person_id: str) -> None:
    """Delete a person's unused invitations: a link must not do what its inviter is no longer allowed to."""
    maker = select(people.c.name).where(people.c.id == person_id).scalar_subquery()
    connection.execute(delete(invitations).where(invitations.c.used_at.is_(None), invitations.c.created_by == maker))


def _add(connection: Connection, person: Person, password_hash: str | None) -> None:
    values = {name: value for name, value in row_of(person).items() if name in people.c}
    row = {**values, "name_key": person.name.lower(), "password_hash": password_hash}
    connection.execute(insert(people).values(row))


def _change(connection: Connection, person_id: str, **values: object) -> None:
    """Change values of an account. Raises UnknownPerson."""
    if connection.execute(update(people).where(people.c.id == person_id).values(values)).rowcount == 0:
        raise UnknownPerson(person=person_id)


def _keep_an_administrator(connection: Connection, leaving: str) -> None:
    """Raise LastAdministrator if ``leaving`` is the only administrator. The rows are locked, so that two cannot leave
    at once.
    """
    found = connection.execute(select(people.c.id, people.c.name).where(*_ADMINISTRATES).with_for_update()).all()
    if [row.id for row in found] == [leaving]:
        raise LastAdministrator(person=found[0].name)


@contextmanager
def _one_name(name: str) -> Iterator[None]:
    """Raise NameInUse if the database fails because the name is taken."""
    try:
        yield
    except StoreUnavailable as exc:
        if isinstance(exc.__cause__, IntegrityError):
            raise NameInUse(person=name) from exc
        raise


def _owner(connection: Connection, person_id: str) -> Person | None:
    enabled = (people.c.id == person_id, people.c.disabled.is_(False))
    row = connection.execute(select(people).where(*enabled)).first()
    return None if row is None else person_of(row)
