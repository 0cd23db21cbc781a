"""The calls of ``/api/v1``. Each reads its input, calls the controller once, and shapes the answer."""

from __future__ import annotations

from contextlib import closing

from flask import Blueprint, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.audit import Action
from webapp.domain.instance import Instance
from webapp.domain.operation import Operation
from webapp.domain.people import Right
from webapp.domain.waiting import Queued, Ticket
from webapp.errors import DeviceUnreadable, InvalidRequest, UnknownDevice, UnknownOperation, UnknownTicket
from webapp.web import recording
from webapp.web.actor import current_actor
from webapp.web.api.bodies import (
    ask_question,
    cancel_rollback,
    confirmed_name,
    lease_terms,
    limit_argument,
    override_reason,
    release_answer,
    release_why,
    switch_request,
    ticket_request,
)
from webapp.web.api.documents import (
    Document,
    advice_document,
    container_document,
    entry_document,
    instance_document,
    models_document,
    operation_document,
    plan_document,
    status_document,
    ticket_document,
    track_document,
)
from webapp.web.asking import Answer
from webapp.web.filters import SHOWN_LIMIT, AuditQuery, OperationsQuery, asked_track
from webapp.web.ports import audit, controller, timeline
from webapp.web.recording import changes_nothing, note_operation, records
from webapp.web.rights import has, needs, require_cancel, require_override

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")


@blueprint.get("/status")
@needs(Right.SEE)
def status() -> ResponseReturnValue:
    """Return devices, instances and running operations."""
    return jsonify(status_document(controller().snapshot()))


@blueprint.get("/models")
@needs(Right.SEE)
def models() -> ResponseReturnValue:
    """Return the cached models; whether the cache can be read at all stands in the status."""
    return jsonify(models_document(controller().snapshot().models))


@blueprint.get("/recommendation")
@needs(Right.SEE)
def recommendation() -> ResponseReturnValue:
    """Return the advice for ``?device=&model=``, both optional."""
    device = request.args.get("device") or None
    advice = controller().recommend(device, request.args.get("model") or None, current_actor())
    if advice is None:
        raise DeviceUnreadable(device=device, age_s=controller().snapshot().sample_age_s)
    return jsonify(advice_document(advice))


@blueprint.post("/plan")
@needs(Right.PLAN)
@changes_nothing
def plan() -> ResponseReturnValue:
    """Return what a switch would do; nothing is done."""
    asked = switch_request()
    require_override(asked.override_reason)
    return jsonify(plan_document(controller().plan(asked, current_actor())))


@blueprint.post("/switch")
@needs(Right.SWITCH)
@records(Action.SWITCH, recording.model_asked_for, recording.SWITCH_FIELDS)
def switch() -> ResponseReturnValue:
    """Begin to load a model."""
    asked = switch_request()
    require_override(asked.override_reason)
    return _accepted(controller().switch(asked, current_actor()))


@blueprint.post("/instances/<instance_id>/unload")
@needs(Right.UNLOAD)
@records(Action.UNLOAD, recording.running_model, recording.OVERRIDE_FIELDS, recording.owner_of_model)
def unload(instance_id: str) -> ResponseReturnValue:
    """Begin to unload an instance: one's own busy or not, another person's only while it is free, or with ``override_reason``.

    Its id in the address is the confirmation.
    """
    reason = override_reason()
    require_override(reason)
    return _accepted(controller().unload(instance_id, current_actor(), reason))


@blueprint.post("/instances/<instance_id>/lease")
@needs(Right.LEASE)
@records(Action.LEASE, recording.running_model, recording.LEASE_FIELDS, after=recording.lease_now)
def lease(instance_id: str) -> ResponseReturnValue:
    """Change the terms of an instance: ``{until | extend_s, reason, idle_unload_minutes}``."""
    return _instance(controller().set_lease(instance_id, lease_terms(), current_actor()))


@blueprint.post("/instances/<instance_id>/release-request")
@needs(Right.LEASE)
@records(Action.RELEASE_ASKED, recording.running_model, recording.ASK_FIELDS, recording.owner_of_model)
def ask_release(instance_id: str) -> ResponseReturnValue:
    """Ask the owner of an instance to release it: ``{why}``."""
    return _instance(controller().ask_release(instance_id, release_why(), current_actor()))


@blueprint.post("/instances/<instance_id>/release-request/answer")
@needs(Right.LEASE)
@records(Action.RELEASE_ANSWERED, recording.running_model, recording.ANSWER_FIELDS)
def answer_release(instance_id: str) -> ResponseReturnValue:
    """Keep or release an instance that somebody asks for: ``{answer, word}``."""
    body = release_answer()
    return _instance(controller().answer_release(instance_id, body.answer, body.word, current_actor()))


@blueprint.post("/instances/<instance_id>/keep")
@needs(Right.LEASE)
@records(Action.KEEP, recording.running_model, before=recording.owner_of_model)
def keep(instance_id: str) -> ResponseReturnValue:
    """Count this call as use of an instance."""
    return _instance(controller().keep(instance_id, current_actor()))


@blueprint.post("/instances/<instance_id>/ask")
@needs(Right.ASK)
@changes_nothing
def ask(instance_id: str) -> ResponseReturnValue:
    """Return a model's whole answer to ``{"prompt", "max_tokens"}``."""
    question = ask_question()
    with closing(Answer(instance_id, question)) as answer:
        return jsonify(answer="".join(answer))


@blueprint.get("/containers")
@needs(Right.SEE)
def containers() -> ResponseReturnValue:
    """Return the containers of vLLM's image that this Warden did not start; its own are instances."""
    return jsonify([container_document(container) for container in controller().snapshot().containers])


@blueprint.post("/containers/<container_id>/stop")
@needs(Right.CONTAINERS)
@records(Action.CONTAINER_STOPPED, recording.container)
def stop_container(container_id: str) -> ResponseReturnValue:
    """Begin to end such a container; ``{"name": …}`` confirms it."""
    return _accepted(controller().stop_container(container_id, confirmed_name(), current_actor()))


@blueprint.post("/clean")
@needs(Right.CLEAN)
@records(Action.CLEAN)
def clean() -> ResponseReturnValue:
    """Begin to give back what nobody needs."""
    return _accepted(controller().clean(current_actor()))


@blueprint.post("/emergency")
@needs(Right.EMERGENCY)
@records(Action.EMERGENCY)
def emergency() -> ResponseReturnValue:
    """Begin to end everything of Warden's."""
    return _accepted(controller().emergency(current_actor()))


@blueprint.post("/demo")
@needs(Right.SWITCH)
@records(Action.DEMO)
def demo() -> ResponseReturnValue:
    """Begin to make the demo model in the cache."""
    return _accepted(controller().make_demo(current_actor()))


@blueprint.post("/selftest")
@needs(Right.SELFTEST)
@records(Action.SELFTEST)
def selftest() -> ResponseReturnValue:
    """Begin a self-test; its ``checks`` grow in the operation."""
    return _accepted(controller().selftest(current_actor()))


@blueprint.get("/operations")
@needs(Right.SEE)
def operations() -> ResponseReturnValue:
    """Return operations, newest first; ``?kind=&actor=&model=&state=&before=`` narrow them, all optional."""
    asked, limit = OperationsQuery.read(request.args), limit_argument(DEFAULT_LIMIT, LARGEST_LIMIT)
    try:
        found = controller().operations(limit, asked.to_filter(), asked.before or None)
    except UnknownOperation as error:
        raise InvalidRequest(field="before", value=asked.before[:SHOWN_LIMIT], allowed="ID") from error
    return jsonify([operation_document(operation) for operation in found])


@blueprint.get("/audit")
@needs(Right.AUDIT)
def entries() -> ResponseReturnValue:
    """Return who did what, newest first; ``?person=&group=&result=&from=&to=&target=&before=`` narrow it, all optional."""
    asked, limit = AuditQuery.read(request.args), limit_argument(DEFAULT_LIMIT, LARGEST_LIMIT)
    return jsonify([entry_document(entry) for entry in audit().entries(limit, asked.to_filter(), asked.seen)])


@blueprint.get("/timeline")
@needs(Right.SEE)
def track() -> ResponseReturnValue:
    """Return a device's memory by holder over ``?device=&span=``: the first device and the last hour unless named."""
    device_id, span = asked_track()
    if device_id is None:
        raise UnknownDevice(device="", known="")
    return jsonify(track_document(timeline().track(device_id, span)))


@blueprint.get("/operations/<operation_id>")
@needs(Right.SEE)
def operation(operation_id: str) -> ResponseReturnValue:
    """Return one operation."""
    return jsonify(operation_document(controller().operation(operation_id)))


@blueprint.post("/operations/<operation_id>/cancel")
@needs(Right.CANCEL)
@records(Action.CANCEL, recording.operation, recording.CANCEL_FIELDS, recording.owner_of_operation)
def cancel(operation_id: str) -> ResponseReturnValue:
    """Ask an operation to stop; ``{"rollback": true}`` gives up the putting back that is under way."""
    as_owner, rollback = require_cancel(controller().operation(operation_id)), cancel_rollback()
    return _accepted(controller().cancel(operation_id, current_actor(), rollback=rollback, as_owner=as_owner))


@blueprint.post("/operations/<operation_id>/restore")
@needs(Right.SWITCH)
@records(Action.SWITCH, recording.operation)
def restore(operation_id: str) -> ResponseReturnValue:
    """Load again what an operation had unloaded and did not bring back: its ``to_restore``."""
    return _accepted(controller().restore(operation_id, current_actor()))


@blueprint.get("/tickets")
@needs(Right.SEE)
def tickets() -> ResponseReturnValue:
    """Return the requests that wait, in their places, and behind them those that ended lately, newest first."""
    snapshot = controller().snapshot()
    waiting = [ticket_document(queued.ticket, queued) for queued in snapshot.waiting]
    return jsonify([*waiting, *(ticket_document(ticket) for ticket in snapshot.waited)])


@blueprint.get("/tickets/<ticket_id>")
@needs(Right.SEE)
def ticket(ticket_id: str) -> ResponseReturnValue:
    """Return one of them."""
    return jsonify(_ticket(ticket_id))


@blueprint.post("/tickets")
@needs(Right.SWITCH)
@records(Action.TICKET_MADE, recording.new_ticket, recording.TICKET_FIELDS)
def take_ticket() -> ResponseReturnValue:
    """Let a switch wait until there is room."""
    asked, by_itself = ticket_request()
    queued = controller().take_ticket(asked, current_actor(), starts_by_itself=by_itself)
    where = url_for("api.ticket", ticket_id=queued.ticket.id)
    return jsonify(ticket_document(queued.ticket, queued)), 201, {"Location": where}


@blueprint.post("/tickets/<ticket_id>/cancel")
@blueprint.delete("/tickets/<ticket_id>")
@needs(Right.CANCEL)
@records(Action.TICKET_CANCELLED, recording.ticket, before=recording.owner_of_ticket)
def cancel_ticket(ticket_id: str) -> ResponseReturnValue:
    """Take a ticket back, with its start where that is under way."""
    ticket = controller().cancel_ticket(ticket_id, current_actor(), is_administrator=has(Right.CANCEL_ANY))
    return _changed(ticket)


@blueprint.post("/tickets/<ticket_id>/resume")
@needs(Right.SWITCH)
@records(Action.TICKET_RESUMED, recording.ticket, before=recording.owner_of_ticket)
def resume_ticket(ticket_id: str) -> ResponseReturnValue:
    """Let a ticket go on that an emergency has paused."""
    queued = controller().resume_ticket(ticket_id, current_actor(), is_administrator=has(Right.CANCEL_ANY))
    return _changed(queued.ticket, queued)


@blueprint.post("/tickets/<ticket_id>/start")
@needs(Right.SWITCH)
@records(Action.TICKET_STARTED, recording.ticket, before=recording.owner_of_ticket)
def start_ticket(ticket_id: str) -> ResponseReturnValue:
    """Start what waits, now."""
    return _accepted(controller().start_ticket(ticket_id, current_actor(), is_administrator=has(Right.CANCEL_ANY)))


def _changed(ticket: Ticket, queued: Queued | None = None) -> ResponseReturnValue:
    return jsonify({**ticket_document(ticket, queued), "stored": controller().is_ticket_stored(ticket.id)})


def _ticket(ticket_id: str) -> Document:
    snapshot = controller().snapshot()
    for queued in snapshot.waiting:
        if queued.ticket.id == ticket_id:
            return ticket_document(queued.ticket, queued)
    for ended in snapshot.waited:
        if ended.id == ticket_id:
            return ticket_document(ended)
    raise UnknownTicket(ticket=ticket_id)


def _instance(instance: Instance) -> ResponseReturnValue:
    return jsonify(instance_document(instance, controller().snapshot()))


def _accepted(begun: Operation) -> ResponseReturnValue:
    note_operation(begun)
    where = url_for("api.operation", operation_id=begun.id)
    stored = controller().is_stored(begun.id)
    return jsonify({**operation_document(begun), "stored": stored}), 202, {"Location": where}
