"""Checks permissions in one place: every view declares the permission that it needs.

Each view has ``@needs(Permission.X)``. An application with an undeclared view cannot be built, and a view added later
is refused. Checks that depend on the owner of a thing are made by the view with ``require_…``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from flask import Flask, current_app, request

from webapp.domain.operation import Operation
from webapp.domain.people import (
    IN_PERSON,
    AuthMethod,
    Identity,
    Permission,
    Role,
    allows,
    has_permission,
    may_cancel,
)
from webapp.errors import Forbidden, InPerson, NotSignedIn
from webapp.web.actor import current_identity, shown_identity

V = TypeVar("V", bound=Callable[..., Any])

ATTRIBUTE: Final = "warden_right"
FREE: Final = "static"
"""Flask's endpoint of style sheets and scripts, which is open to everybody."""


def needs(right: Permission) -> Callable[[V], V]:
    """Declare the permission that a view needs."""

    def declare(view: V) -> V:
        setattr(view, ATTRIBUTE, right)
        return view

    return declare


def init_rights(app: Flask) -> None:
    """Check every request to ``app``, and let templates ask which actions to offer."""
    app.before_request(_check)
    app.jinja_env.globals.update(
        may=lambda name: has(Permission(name)),
        may_cancel=lambda actor, owners=(): may_cancel(_signed_in(), actor) or _signed_in().name in owners,
        identity=shown_identity,
    )


def refuse_undeclared(app: Flask) -> None:
    """Raise RuntimeError if a view of ``app`` declares no permission."""
    silent = sorted(name for name, view in app.view_functions.items() if name != FREE and right_of(view) is None)
    if silent:
        raise RuntimeError(f"no right is declared, by @needs(Right.…), for: {', '.join(silent)}")


def right_of(view: Callable[..., Any]) -> Permission | None:
    """Return the permission that a view declares."""
    right = getattr(view, ATTRIBUTE, None)
    return right if isinstance(right, Permission) else None


def _check() -> None:
    if request.endpoint is None or request.endpoint == FREE:
        return
    right = right_of(current_app.view_functions[request.endpoint])
    if right is not Permission.OPEN:
        require(Permission.PEOPLE if right is None else right)


def require(right: Permission) -> Identity:
    """Return the sender of the request, who has ``right``. Raises NotSignedIn, Forbidden."""
    identity = _signed_in()
    if allows(identity, right):
        return identity
    if identity.way is AuthMethod.TOKEN and right in IN_PERSON:
        raise InPerson
    needed = right.lowest or Role.VIEWER
    raise Forbidden(needed=needed.value, role=identity.role.value)


def has(right: Permission) -> bool:
    """Return whether the sender of the request has ``right``."""
    return allows(current_identity(), right)


def require_override(reason: str | None) -> None:
    """Raise Forbidden if somebody other than an administrator gives a reason to override another person's hold."""
    if reason is not None:
        require(Permission.UNLOAD_ANY)


def require_cancel(operation: Operation) -> bool:
    """Return whether the sender may cancel only until a model is touched, as the owner of a model to be unloaded.

    Raises NotYours if it is another person's operation, TooLate for that owner once the model is being ended.
    """
    identity = _signed_in()
    if may_cancel(identity, operation.actor):
        return False
    operation.check_stop(identity.name)
    return True


def _signed_in() -> Identity:
    """Return the sender of the request. Raises NotSignedIn."""
    identity = current_identity()
    if identity is None:
        raise NotSignedIn
    return identity


@dataclass(frozen=True)
class Rule:
    """One route with the permission that it needs."""

    methods: str
    path: str
    right: Permission

    def opens_to(self, role: Role | None) -> bool:
        """Whether ``role`` may call the route."""
        return has_permission(role, self.right)


def rules(app: Flask) -> Iterator[Rule]:
    """Yield every route of ``app``, sorted by path, except Flask's own."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, sorted(rule.methods or ()))):
        right = right_of(app.view_functions[rule.endpoint])
        if right is not None:
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            yield Rule(" ".join(sorted(methods)), rule.rule, right)
