"""Records audit entries in one place: every view that changes something declares what it does.

Each such view has ``@does(COMMAND)`` or ``@records(Action.X, target, …)``; a view with an unsafe method that changes
nothing has ``@changes_nothing``. An application with an undeclared view cannot be built. Each request produces one
entry after its answer, even if it is refused. Only the fields that a view names are recorded, so no password, key or
prompt is included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

from flask import Flask, Response, current_app, g, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from webapp.domain.audit import (
    NOBODY,
    THE_SERVER,
    Action,
    AuditActor,
    AuditChannel,
    AuditEntry,
    Detail,
    Details,
    Kind,
    Result,
    Target,
    doer_of,
    short,
)
from webapp.domain.operation import Operation
from webapp.domain.queue import QueuedLaunch
from webapp.errors import WardenError
from webapp.web.actor import shown_identity
from webapp.web.client_address import client_address
from webapp.web.ports import audit
from webapp.web.statuses import status_of

V = TypeVar("V", bound=Callable[..., Any])

ATTRIBUTE: Final = "warden_act"
NOTHING: Final = "nothing"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FLAGS: Final = frozenset({Detail.LOAD_ANYWAY, Detail.EXTENDED, Detail.ROLLBACK})
"""Details whose presence is their whole meaning."""
YES: Final = "yes"
OFF: Final = ("0", "False")
"""Values of a flag that was sent but is not set."""
BY_TARGET: Final = frozenset({Action.SIGN_IN, Action.INVITATION_USED})
"""Actions that identify the sender: if they succeed, they are recorded as that person's."""

REPEATABLE: Final = frozenset({Action.SWITCH, Action.QUEUE_JOINED})
"""Acts that are done once under a ``request_id``; their entries name what was begun. Any other form with that field is recorded."""


def no_details() -> Details:
    """Return no details."""
    return ()


@dataclass(frozen=True)
class Act:
    """What a view does. ``before`` and ``after`` return details of the target before and after the view."""

    action: Action
    target: Callable[[], Target] = lambda: THE_SERVER
    fields: Mapping[str, Detail] = field(default_factory=dict)
    """The detail under which each field of the form or of the JSON body is recorded."""
    before: Callable[[], Details] = no_details
    after: Callable[[], Details] = no_details


def records(
    action: Action,
    target: Callable[[], Target] = lambda: THE_SERVER,
    fields: Mapping[str, Detail] | None = None,
    before: Callable[[], Details] = no_details,
    after: Callable[[], Details] = no_details,
) -> Callable[[V], V]:
    """Declare what a view does; see ``Act``."""
    return records_act(Act(action, target, fields or {}, before, after))


def records_act(act: Act) -> Callable[[V], V]:
    """Declare what a view does."""

    def declare(view: V) -> V:
        setattr(view, ATTRIBUTE, act)
        return view

    return declare


def changes_nothing(view: V) -> V:
    """Declare that a view with an unsafe method changes nothing worth an entry."""
    setattr(view, ATTRIBUTE, NOTHING)
    return view


def act_of(view: Callable[..., Any]) -> Act | None:
    """Return the act that a view declares."""
    act = getattr(view, ATTRIBUTE, None)
    return act if isinstance(act, Act) else None


def init_recording(app: Flask) -> None:
    """Record an entry of every request to ``app`` that does something or was refused."""
    app.before_request(_look)
    app.after_request(_record)


def refuse_unrecorded(app: Flask) -> None:
    """Raise RuntimeError if a view of ``app`` with an unsafe method declares nothing."""
    unsafe = {rule.endpoint for rule in app.url_map.iter_rules() if (rule.methods or set()) - SAFE_METHODS}
    silent = sorted(name for name in unsafe if not hasattr(app.view_functions[name], ATTRIBUTE))
    if silent:
        raise RuntimeError(f"what is done is not declared, by @records(Action.…), for: {', '.join(silent)}")


# What happens on the way


def note_problem(code: str, status: int) -> None:
    """Note why the request failed; called by error pages and by forms that are shown again with the reason."""
    g.audit_problem = (code, status)


def note_error(error: WardenError) -> None:
    """Note why the request failed."""
    note_problem(error.code, status_of(error))


def note_operation(operation: Operation) -> None:
    """Note the operation that the request began or named."""
    g.audit_operation = operation.id


def note_launch(launch: QueuedLaunch) -> None:
    """Note the launch that the request queued."""
    g.audit_made = launch.id


def note_question() -> None:
    """Note that the request was answered with a question, so nothing is done yet."""
    g.audit_asks = True


def ask_first(page: str) -> ResponseReturnValue:
    """Redirect to the ``page`` that asks for confirmation."""
    note_question()
    return redirect(page, 303)


# One request


def _act() -> Act | None:
    if request.endpoint is None or request.method in SAFE_METHODS:
        return None
    return act_of(current_app.view_functions[request.endpoint])


def _look() -> None:
    """Look up target and sender before the view, which may remove the target or sign the sender out."""
    act = _act()
    if act is not None:
        shown_identity()
        g.audit_may_read = True
        g.audit_seen = (_target(act), _looked(act.before))


def _record(response: Response) -> Response:
    act, problem = _act(), _problem(response)
    if act is not None:
        if problem is not None or "audit_asks" not in g:
            can_repeat = act.action in REPEATABLE and problem is None and bool(sent("request_id"))
            (audit().record_once if can_repeat else audit().record)(_entry(act, problem))
    elif problem is not None and problem[1] == HTTPStatus.FORBIDDEN and request.url_rule is not None:
        target = Target(Kind.ADDRESS, name=f"{request.method} {request.url_rule.rule}")
        audit().record(_answered(AuditEntry(time.time(), _doer(), Action.ADDRESS, target), problem))
    return response


def _problem(response: Response) -> tuple[str, int] | None:
    noted = cast("tuple[str, int] | None", g.get("audit_problem"))
    if noted is None and response.status_code >= HTTPStatus.BAD_REQUEST:
        return "bad_request", response.status_code
    return noted


def _entry(act: Act, problem: tuple[str, int] | None) -> AuditEntry:
    target, before = g.get("audit_seen") or (_target(act), ())
    if not target.id:  # the request has created it
        target = _target(act)
    after = _looked(act.after) if problem is None else ()
    entry = AuditEntry(
        at=time.time(),
        doer=_doer(),
        action=act.action,
        target=target,
        details=(*before, *_sent_details(act.fields), *after),
        operation_id=g.get("audit_operation"),
    )
    if act.action in BY_TARGET and problem is None:
        entry = replace(entry, doer=AuditActor(target.name, AuditChannel.SESSION, target.id or None))
    return _answered(entry, problem)


def _answered(entry: AuditEntry, problem: tuple[str, int] | None) -> AuditEntry:
    entry = replace(entry, address=client_address())
    if problem is None:
        return entry
    code, status = problem
    result = Result.FAILED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Result.REFUSED
    return replace(entry, result=result, problem=code)


def _doer() -> AuditActor:
    identity = shown_identity()
    return NOBODY if identity is None else doer_of(identity)


def _target(act: Act) -> Target:
    """Return the target, or the server if the look-up fails."""
    try:
        return act.target()
    except WardenError:
        return Target(Kind.SERVER)


def _looked(look: Callable[[], Details]) -> Details:
    try:
        return look()
    except WardenError:
        return ()


def _sent_details(fields: Mapping[str, Detail]) -> Details:
    values: dict[Detail, str] = {}
    for name, detail in fields.items():
        text = sent(name)
        if text and not (detail in FLAGS and text in OFF):
            values[detail] = YES if detail in FLAGS else text
    return tuple(values.items())


def sent(name: str) -> str:
    """Return a field of the form or of the JSON body as text; empty if it was not sent or is not a plain value.

    The body of a request that was refused before its view is not read: a slow sender would occupy a thread.
    """
    value = _body().get(name) if "audit_may_read" in g else None
    return short(str(value)) if isinstance(value, str | int | float) else ""


def _body() -> Mapping[str, object]:
    try:
        found = request.get_json(silent=True) if request.is_json else request.form
    except (HTTPException, RecursionError):  # too large, truncated, or nested too deep
        return {}
    return found if isinstance(found, Mapping) else {}
