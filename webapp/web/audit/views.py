"""The audit log as a page and as CSV; both are read-only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from flask import Blueprint, Response, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.domain.audit import AuditEntry
from webapp.domain.people import Permission
from webapp.errors import InvalidRequest, StoreUnavailable
from webapp.web.audit.presenter import AuditView, audit_choices, audit_view
from webapp.web.audit.query import AuditQuery
from webapp.web.moments import when
from webapp.web.ports import audit
from webapp.web.responses import wants_fragment
from webapp.web.rights import needs
from webapp.web.spreadsheet import MEDIA_TYPE, Cell, to_csv
from webapp.web.statuses import status_of

PAGE: Final = 50
"""Entries on one page."""
TABLE_LIMIT: Final = 50_000
"""The most entries in the CSV; the newest are kept."""
HEAD: Final = (
    "at",
    "who",
    "came",
    "token",
    "person_id",
    "action",
    "group",
    "target_kind",
    "target",
    "target_id",
    "result",
    "problem",
    "address",
    "details",
    "operation_id",
    "id",
)

blueprint = Blueprint("audit", __name__)


@blueprint.get("/audit")
@needs(Permission.AUDIT)
def page() -> ResponseReturnValue:
    """Show a page of the selected entries, newest first; HTMX gets only the list."""
    query = AuditQuery.read(request.args)
    try:
        view, status = _asked(query), 200
    except StoreUnavailable as error:
        view, status = audit_view(query, (), PAGE, time.time(), error.message), status_of(error)
    if wants_fragment():
        return render_template("fragments/audit_rows.html", view=view)
    choices = audit_choices(query, _people())
    return make_response(render_template("pages/audit.html", view=view, choices=choices), status)


@blueprint.get("/audit.csv")
@needs(Permission.AUDIT)
def as_csv() -> ResponseReturnValue:
    """Return the selected entries as a table; the query is that of ``GET /api/v1/audit``."""
    query = AuditQuery.read(request.args)
    entries = audit().entries(TABLE_LIMIT, query.to_filter(), query.seen)
    answer = Response(to_csv(HEAD, _lines(entries)), content_type=MEDIA_TYPE)
    answer.headers.set("Content-Disposition", "attachment", filename="warden-audit.csv")
    return answer


def _asked(query: AuditQuery) -> AuditView:
    """Return the page of a query; an invalid value matches nothing. Raises StoreUnavailable."""
    try:
        entries = audit().entries(PAGE + 1, query.to_filter(), query.seen)
    except InvalidRequest:
        entries = ()
    return audit_view(query, entries, PAGE, time.time())


def _people() -> tuple[str, ...]:
    try:
        return audit().people()
    except StoreUnavailable:
        return ()


def _lines(entries: Sequence[AuditEntry]) -> Iterator[tuple[Cell, ...]]:
    for entry in entries:
        doer, target = entry.doer, entry.target
        yield (
            when(entry.at),
            doer.name,
            doer.came.value,
            doer.token,
            doer.person_id,
            entry.action.value,
            entry.group.value,
            target.kind.value,
            target.name,
            target.id,
            entry.result.value,
            entry.problem,
            entry.address,
            "; ".join(f"{detail}={value}" for detail, value in entry.details),
            entry.operation_id,
            entry.id,
        )
