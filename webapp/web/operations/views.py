"""The history of operations, and the page of each operation."""

from __future__ import annotations

import time
from typing import Final

from flask import Blueprint, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.domain.operation import Operation, OperationFilter, OperationValues
from webapp.domain.people import Permission
from webapp.errors import InvalidRequest, StoreUnavailable, UnknownOperation
from webapp.message import Message
from webapp.web import words
from webapp.web.operations.presenters.history import HistoryView, filter_view, history_view
from webapp.web.operations.presenters.operation_page import operation_page
from webapp.web.operations.query import OperationsQuery
from webapp.web.ports import controller
from webapp.web.responses import wants_fragment
from webapp.web.rights import needs
from webapp.web.statuses import status_of

PAGE: Final = 30
"""Ended operations on one page of the history."""

blueprint = Blueprint("history", __name__)


@blueprint.get("/history")
@needs(Permission.SEE)
def history() -> ResponseReturnValue:
    """Show a page of the selected operations, newest first; HTMX gets only the list."""
    query = OperationsQuery.read(request.args)
    try:
        view, status = _asked(query), 200
    except StoreUnavailable as error:
        view, status = _without_store(query, error.message), status_of(error)
    if wants_fragment():
        return render_template("fragments/history_rows.html", view=view)
    page = render_template("pages/history.html", view=view, choices=filter_view(query, _values()))
    return make_response(page, status)


@blueprint.get("/operations/<operation_id>")
@needs(Permission.SEE)
def operation(operation_id: str) -> ResponseReturnValue:
    """Show one operation; HTMX gets its content if that differs from ``version``, or 204."""
    try:
        found = controller().operation(operation_id)
    except UnknownOperation as error:
        if wants_fragment():
            raise
        return render_template("pages/operation_unknown.html", status=404, sentence=words.say(error.message)), 404
    view = operation_page(found, frozenset(instance.id for instance in controller().snapshot().instances))
    if not wants_fragment():
        return render_template("pages/operation.html", view=view)
    if request.args.get("version") == view.version:
        return "", 204
    return render_template("fragments/operation_answer.html", view=view)


def _asked(query: OperationsQuery) -> HistoryView:
    """Return the page of a query; an invalid value or a removed operation matches nothing. Raises StoreUnavailable."""
    try:
        where = query.to_filter()
        running = _running(query, where)
        found = controller().operations(PAGE + 1 + len(running), where, query.before or None)
    except (InvalidRequest, UnknownOperation):
        return history_view(query, (), (), PAGE, time.time())
    known = {operation.id for operation in running}
    ended = [operation for operation in found if not operation.is_running and operation.id not in known]
    return history_view(query, running, ended, PAGE, time.time())


def _running(query: OperationsQuery, where: OperationFilter) -> tuple[Operation, ...]:
    """Return the running operations, newest first, which are at the top of the first page."""
    if query.before:
        return ()
    return tuple(operation for operation in reversed(controller().snapshot().running) if where.matches(operation))


def _without_store(query: OperationsQuery, problem: Message) -> HistoryView:
    return history_view(query, _running(query, query.to_filter()), (), PAGE, time.time(), problem)


def _values() -> OperationValues:
    try:
        return controller().operation_values()
    except StoreUnavailable:
        return OperationValues()
