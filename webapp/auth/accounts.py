"""Accounts: how people sign in and for how long, invitations, API tokens. Callers must have checked permissions
already.

Keys of sessions, invitations and tokens are 256 random bits, so a plain SHA-256 of them is stored; passwords are hashed
with argon2.
"""

from __future__ import annotations

import getpass
import logging
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Final

from webapp.auth.identity_cache import CircuitBreaker, IdentityCache
from webapp.auth.passwords import Passwords
from webapp.domain.audit import WARDEN
from webapp.domain.people import (
    LONGEST_PASSWORD,
    SHORTEST_PASSWORD,
    ApiToken,
    AuthMethod,
    Identity,
    Invitation,
    Permission,
    Person,
    Role,
    Session,
    has_permission,
    is_name,
    is_password,
    lower,
)
from webapp.errors import (
    Forbidden,
    InvalidRequest,
    NameInUse,
    SignInFailed,
    StoreUnavailable,
    UnknownInvitation,
    UnknownPerson,
    WeakPassword,
)
from webapp.store.people import PeopleRepository

log = logging.getLogger(__name__)

TOKEN_START: Final = "wdn_"  # noqa: S105  how they begin
"""The prefix of every API token, so that a leaked one can be recognized."""
TOUCH_S: Final = 60.0
"""The minimum time between two stored uses."""
CHECKED_S: Final = 1.0
"""How long the absence of an administrator is cached."""
LABEL_LIMIT: Final = 60
AGENT_LIMIT: Final = 300


@dataclass(frozen=True)
class Visit:
    """The origin of a request. ``counts`` is false for automatic requests of an open page."""

    address: str
    agent: str = ""
    counts: bool = True


@dataclass(frozen=True)
class SessionLimits:
    """How long a session lasts: since its last use, and in total."""

    idle_s: float
    absolute_s: float


@cache
def local_name() -> str:
    """Return the name of the only person if Warden has no accounts: that of the system's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "local"


def nobody() -> Collection[str]:
    """Return no names."""
    return ()


class Accounts:
    """The accounts of this Warden. Thread-safe; every method may raise StoreUnavailable in addition to the errors that
    it names.

    ``owners`` returns, without waiting, the names of people who own models or operations now: ownership is by name.
    """

    def __init__(
        self,
        store: PeopleRepository,
        passwords: Passwords,
        limits: SessionLimits,
        clock: Callable[[], float],
        owners: Callable[[], Collection[str]] = nobody,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._owners = owners
        self._known = IdentityCache(monotonic)
        self._reads = CircuitBreaker(monotonic)
        self._notes = CircuitBreaker(monotonic)
        self._administrator: tuple[bool, float] | None = None
        """Whether there is one, and when that was read."""

    def has_administrator(self) -> bool:
        """Return whether there is an administrator's account. Once there is one, one remains: the last cannot be
        removed.

        If the database fails later, the value read before is used.
        """
        seen, now = self._administrator, self._monotonic()
        if seen is not None and (seen[0] or 0 <= now - seen[1] < CHECKED_S):
            return seen[0]
        try:
            found = self._reads.ask(self._store.has_administrator)
        except StoreUnavailable:
            if seen is None:
                raise
            return seen[0]
        self._administrator = (found, now)
        return found

    # The sender of a request

    def by_session(self, key: str, visit: Visit) -> Identity | None:
        """Return the identity of the session ``key``, and record its use; ``None`` if the session is over."""
        return self._known.of("session", key, lambda: self._by_session(key, visit))

    def _by_session(self, key: str, visit: Visit) -> Identity | None:
        found, now = self._reads.ask(lambda: self._store.session(_hash(key))), self._clock()
        if found is None:
            return None
        session, person = found
        if now >= session.expires_at or now - session.used_at >= self._limits.idle_s:
            self._note(lambda: self._store.end_session(person.id, session.id))
            return None
        if visit.counts and now - session.used_at >= min(TOUCH_S, self._limits.idle_s / 2):
            self._note(lambda: self._store.touch_session(session, now))
        return Identity(person.name, person.role, AuthMethod.SESSION, person.id, session.id)

    def by_token(self, key: str) -> Identity | None:
        """Return the identity of an API token, with the lower of its scope and the owner's role; ``None`` if it has
        expired.
        """
        return self._known.of("token", key, lambda: self._by_token(key))

    def _by_token(self, key: str) -> Identity | None:
        found, now = self._reads.ask(lambda: self._store.token(_hash(key))), self._clock()
        if found is None or not found[0].is_open(now):
            return None
        token, person = found
        if token.used_at is None or now - token.used_at >= TOUCH_S:
            self._note(lambda: self._store.touch_token(token, now))
        role = lower(token.scope, person.role)
        return Identity(person.name, role, AuthMethod.TOKEN, person.id, token=token.name)

    def by_proxy(
        self, name: str, new: Role | None, welcomed: Callable[[Person], None] = lambda person: None
    ) -> Identity | None:
        """Return the identity of the person whom a trusted proxy names.

        An unknown person gets an account with the role ``new``, if any, and is passed to ``welcomed``.
        """
        return self._known.of("proxy", name, lambda: self._by_proxy(name, new, welcomed))

    def _by_proxy(self, name: str, new: Role | None, welcomed: Callable[[Person], None]) -> Identity | None:
        person = self._reads.ask(lambda: self._store.person(name)) if is_name(name) else None
        if person is None and new is not None and is_name(name):
            person = self._newcomer(name, new, welcomed)
        if person is None or person.disabled:
            return None
        if (now := self._clock()) - (person.seen_at or 0) >= TOUCH_S:
            self._note(lambda: self._store.touch_person(person.id, now))
        return Identity(person.name, person.role, AuthMethod.PROXY, person.id)

    def _newcomer(self, name: str, role: Role, welcomed: Callable[[Person], None]) -> Person | None:
        """Create the account of a person whom the proxy names for the first time; of two concurrent requests one
        creates it.

        A name alone must not make its bearer the owner of what Warden or the local person holds.
        """
        if name.lower() in _lower(WARDEN.name, local_name()):
            log.warning("the proxy named %s, whose account only `warden users add --proxied` can make", name)
            return None
        person = Person(_new_id(), name, role, self._clock(), self._clock(), has_password=False)
        try:
            self._store.add_person(person, None)
        except NameInUse:
            return self._store.person(name)
        log.info("%s was named by the proxy for the first time and is %s", name, role)
        welcomed(person)
        return person

    # Signing in and out

    def sign_in(self, name: str, password: str, visit: Visit) -> str:
        """Create a session and return its key; an unknown name takes as long as a known one. Raises SignInFailed."""
        try:
            person, password_hash = self._verified(name, password)
            key = self._begin_session(person, password_hash, visit)
        except SignInFailed:
            log.warning(
                "a sign-in from %s failed", visit.address
            )  # without the name: a password may have been typed in its field
            raise
        log.info("%s signed in from %s", person.name, visit.address)
        return key

    def _begin_session(self, person: Person, password_hash: str, visit: Visit) -> str:
        """Create a session and return its key. Raises SignInFailed if the password was changed, or the account
        disabled, during the check.
        """
        key, now = secrets.token_urlsafe(32), self._clock()
        session = Session(
            _new_id(), person.id, now, now, now + self._limits.absolute_s, visit.address, visit.agent[:AGENT_LIMIT]
        )
        self._store.add_session(session, _hash(key), now - self._limits.idle_s, password_hash)
        return key

    def _verified(self, name: str, password: str) -> tuple[Person, str]:
        """Return the person and the hash that the password matches. Raises SignInFailed."""
        found = self._reads.ask(lambda: self._store.credentials(name)) if is_name(name) else None
        right = self._passwords.verify(None if found is None else found[1], password[: LONGEST_PASSWORD + 1])
        if found is None or not right or found[0].disabled:
            raise SignInFailed
        return found

    def sign_out(self, identity: Identity) -> None:
        """End the session that ``identity`` used."""
        if identity.person_id is not None and identity.session_id is not None:
            self.end_session(identity.person_id, identity.session_id)

    def change_password(self, name: str, old: str, new: str) -> None:
        """Change a password and end all of the person's sessions. Raises SignInFailed if ``old`` is wrong,
        WeakPassword.
        """
        person, old_hash = self._verified(name, old)
        self._set_password(person, new, old_hash)

    def _set_password(self, person: Person, password: str, old_hash: str | None = None) -> None:
        _strong(password, person.name)
        self._store.set_password(person.id, self._passwords.hash(password), old_hash)
        self._known.forget()
        log.info("the password of %s was changed", person.name)

    def sessions(self, person_id: str) -> tuple[Session, ...]:
        """Return a person's valid sessions, last used first."""
        now = self._clock()
        found = self._store.sessions(person_id)
        return tuple(s for s in found if now < s.expires_at and now - s.used_at < self._limits.idle_s)

    def end_session(self, person_id: str, session_id: str) -> None:
        """End one session of a person."""
        self._store.end_session(person_id, session_id)
        self._known.forget()

    def end_sessions(self, person_id: str) -> int:
        """End all sessions of a person and return how many there were."""
        ended = self._store.end_sessions(person_id)
        self._known.forget()
        return ended

    # Accounts

    def people(self) -> tuple[Person, ...]:
        """Return every account, by name."""
        return self._store.people()

    def person(self, name: str) -> Person:
        """Return the account of ``name``. Raises UnknownPerson."""
        person = self._reads.ask(lambda: self._store.person(name))
        if person is None:
            raise UnknownPerson(person=name)
        return person

    def has_permission(self, name: str, right: Permission) -> bool:
        """Return whether the person of this name has ``right`` now; without an account there are no permissions."""
        person = self._reads.ask(lambda: self._store.person(name))
        return person is not None and not person.disabled and has_permission(person.role, right)

    def check_new(self, name: str, *, at_the_machine: bool = False) -> None:
        """Check the name of a new account. Raises InvalidRequest if ``name`` is not a valid name, NameInUse if it is
        taken.

        Names that already own something, the local person's and those of owners, can be created only
        ``at_the_machine``.
        """
        _plain(name)
        kept = () if at_the_machine else (local_name(), *self._owners())
        if name.lower() in _lower(*kept) or self._store.person(name) is not None:
            raise NameInUse(person=name)

    def add(self, name: str, role: Role, password: str | None) -> Person:
        """Create an account; one without a password is for the proxy. Raises InvalidRequest, WeakPassword, NameInUse.

        The caller is at the machine: see ``check_new``.
        """
        _plain(name)
        if password is not None:
            _strong(password, name)
        person = Person(_new_id(), name, role, self._clock(), has_password=password is not None)
        self._store.add_person(person, None if password is None else self._passwords.hash(password))
        log.info("%s was made %s", person.name, role)
        return person

    def set_role(self, name: str, role: Role) -> None:
        """Change a role, effective from the next request. Raises UnknownPerson, LastAdministrator."""
        self._store.set_role(self.person(name).id, role)
        self._known.forget()
        log.info("%s is %s now", name, role)

    def set_disabled(self, name: str, disabled: bool) -> None:
        """Disable an account or enable it. Raises UnknownPerson, LastAdministrator."""
        self._store.set_disabled(self.person(name).id, disabled)
        self._known.forget()
        log.info("%s is %s now", name, "disabled" if disabled else "enabled")

    def set_password(self, name: str, password: str) -> None:
        """Give a person a new password and end all sessions. Raises UnknownPerson, WeakPassword."""
        self._set_password(self.person(name), password)

    def remove(self, name: str) -> bool:
        """Remove an account, its sessions, tokens and open invitations. Raises UnknownPerson, LastAdministrator.

        An account without a password is kept, disabled, and False is returned: the proxy would recreate it with the
        next request.
        """
        gone = self._store.remove_person(self.person(name).id)
        self._known.forget()
        log.info("%s was removed" if gone else "%s is disabled and has lost sessions and tokens", name)
        return gone

    # Invitations

    def invite(self, role: Role, valid_s: float, by: str) -> str:
        """Create an invitation and return its key, which is not stored."""
        key, now = secrets.token_urlsafe(32), self._clock()
        self._store.add_invitation(Invitation(_new_id(), role, now, now + valid_s, by), _hash(key))
        log.info("%s invited a new %s", by, role)
        return key

    def invitation(self, key: str) -> Invitation:
        """Return an invitation that can be accepted. Raises UnknownInvitation."""
        found = self._store.invitation(_hash(key))
        if found is None or not found.is_open(self._clock()):
            raise UnknownInvitation
        return found

    def invitations(self) -> tuple[Invitation, ...]:
        """Return the invitations that can be accepted, newest first."""
        return tuple(one for one in self._store.invitations() if one.is_open(self._clock()))

    def drop_invitation(self, invitation_id: str) -> None:
        """Withdraw an invitation."""
        self._store.drop_invitation(invitation_id)

    def accept(self, key: str, name: str, password: str) -> Person:
        """Create an account with the invitation's role. Raises UnknownInvitation, InvalidRequest, WeakPassword,
        NameInUse.

        An invitation is invalid if its creator is no longer an administrator.
        """
        invitation = self.invitation(key)
        self.check_new(name)
        _strong(password, name)
        person = Person(_new_id(), name, invitation.role, self._clock())
        made = self._store.accept(_hash(key), person, self._passwords.hash(password), local_name())
        log.info("%s accepted an invitation of %s and is %s", made.name, invitation.created_by, made.role)
        return made

    # API tokens

    def add_token(self, owner: Person, label: str, scope: Role, valid_s: float | None) -> str:
        """Create an API token of ``owner`` and return it; it is not stored. Raises Forbidden: its scope is above the
        owner's role.
        """
        if lower(scope, owner.role) is not scope:
            raise Forbidden(needed=scope.value, role=owner.role.value)
        label = " ".join(label.split())
        if not (0 < len(label) <= LABEL_LIMIT and label.isprintable()):
            raise InvalidRequest(field="label", value=label[:LABEL_LIMIT], allowed=f"1–{LABEL_LIMIT}")
        key, now = TOKEN_START + secrets.token_urlsafe(32), self._clock()
        token = ApiToken(_new_id(), owner.id, label, scope, now, None if valid_s is None else now + valid_s)
        self._store.add_token(token, _hash(key))
        log.info("%s made the API token %s (%s)", owner.name, token.id, scope)
        return key

    def tokens(self, person_id: str | None = None) -> tuple[ApiToken, ...]:
        """Return a person's tokens, or all tokens, newest first."""
        return self._store.tokens(person_id)

    def drop_token(self, token_id: str, person_id: str | None = None) -> None:
        """Revoke a token; with ``person_id`` only that person's. Raises UnknownToken."""
        self._store.drop_token(token_id, person_id)
        self._known.forget()

    def _note(self, write: Callable[[], None]) -> None:
        """Store a time of use or an expiry; a failure to store it affects no sign-in."""
        try:
            self._notes.ask(write)
        except StoreUnavailable as exc:
            log.warning("a use was not noted: %s", exc)


def _plain(name: str) -> None:
    """Check the form of a name. Raises InvalidRequest, and NameInUse if it is Warden's own name, under which automatic
    actions are recorded.
    """
    if not is_name(name):
        raise InvalidRequest(field="name", value=name[:LABEL_LIMIT], allowed="A–Z a–z 0–9 . _ @ -, ≤ 64")
    if name.lower() == WARDEN.name:
        raise NameInUse(person=name)


def _lower(*names: str) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _strong(password: str, name: str) -> None:
    if not is_password(password, name):
        raise WeakPassword(least=SHORTEST_PASSWORD, most=LONGEST_PASSWORD)


def _hash(key: str) -> str:
    return sha256(key.encode("utf-8", "replace")).hexdigest()


def _new_id() -> str:
    return secrets.token_hex(8)
