"""The calls of ``/api/v1``. Each reads its input, calls the controller once, and shapes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue
from pydantic_core import to_json

from webapp import schema
from webapp.domain.audit import Action
from webapp.domain.instance import Instance
from webapp.domain.operation import Operation
from webapp.domain.people import Permission
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.errors import DeviceUnreadable, InvalidRequest, UnknownDevice, UnknownOperation, UnknownTicket
from webapp.web import recording
from webapp.web.actor import current_actor
from webapp.web.api import bodies, documents
from webapp.web.api.bodies import limit_argument, read, read_if_sent
from webapp.web.asking import StreamedReply
from webapp.web.filters import SHOWN_LIMIT, AuditQuery, OperationsQuery, asked_track
from webapp.web.ports import audit, controller, timeline
from webapp.web.recording import changes_nothing, note_operation, records
from webapp.web.rights import has, needs, require_cancel, require_override

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")


@blueprint.get("/status")
@needs(Permission.SEE)
def status() -> ResponseReturnValue:
    """Return devices with their holders, instances, running operations, foreign containers, and the mode.

    ``store_problem``, ``models_problem`` and ``mode_problems`` name what does not work at the moment, ``null`` if all
    is well.
    """
    return _json(documents.status(controller().snapshot()))


@blueprint.get("/models")
@needs(Permission.SEE)
def models() -> ResponseReturnValue:
    """Return the cached models, each with the reason if it cannot be loaded.

    Whether the cache can be read at all is in the status (``models_problem``).
    """
    return _json(documents.models(controller().snapshot().models))


@blueprint.get("/recommendation")
@needs(Permission.SEE)
def recommendation() -> ResponseReturnValue:
    """Return the recommended settings for ``?device=&model=``, both optional.

    With a model the answer is the largest configuration that fits; ``mark`` is ``none`` if nothing does.
    ``usable_mode`` is the mode to use if the recommended one is not available on this server.
    """
    device = request.args.get("device") or None
    advice = controller().recommend(device, request.args.get("model") or None, current_actor())
    if advice is None:
        raise DeviceUnreadable(device=device, age_s=controller().snapshot().sample_age_s)
    return _json(documents.advice(advice))


@blueprint.post("/plan")
@needs(Permission.PLAN)
@changes_nothing
def plan() -> ResponseReturnValue:
    """Return what a switch would do; nothing is done.

    ``footprints`` gives every component by device in bytes with its source and confidence, both peaks, and notes.
    ``measured`` is ``{"count", "spread_percent", "same_options"}`` of earlier launches on this server, or ``null``.
    Each entry of ``unload`` has ``confirmed``, and ``no_return``: why the model could not be loaded again if the launch
    fails (its files or revision are gone, its mode does not respond), or ``null``. With ``load_anyway`` a memory
    shortage is in ``overruled`` instead of ``refusal``. ``ways_out`` are requests that would fit.
    """
    asked = bodies.switch_request(read(schema.Launch))
    require_override(asked.override_reason)
    return _json(documents.plan(controller().plan(asked, current_actor())))


@blueprint.post("/switch")
@needs(Permission.SWITCH)
@records(Action.SWITCH, recording.model_asked_for, recording.SWITCH_FIELDS)
def switch() -> ResponseReturnValue:
    """Load a model, and unload what it replaces. Returns 202 with the operation.

    Without ``keep_others`` your own models on the chosen device are unloaded; with it, only the instances that
    ``unload`` names. Another person's idle model is unloaded only if the room is needed and ``unload`` names it;
    otherwise the answer is 409 ``confirmation_needed`` with ``models`` and ``instances`` (ids, comma-separated) in
    ``params``. With ``load_anyway`` a memory shortage does not stop the switch. While nothing is touched yet, ``grace``
    says ``until`` when, which ``instances`` will be unloaded, and which ``owners`` can cancel.
    """
    asked = bodies.switch_request(read(schema.Launch))
    require_override(asked.override_reason)
    return _accepted(controller().switch(asked, current_actor()))


@blueprint.post("/instances/<instance_id>/unload")
@needs(Permission.UNLOAD)
@records(Action.UNLOAD, recording.running_model, recording.OVERRIDE_FIELDS, recording.owner_of_model)
def unload(instance_id: str) -> ResponseReturnValue:
    """Unload an instance. Returns 202 with the operation.

    Naming the id in the URL is the confirmation. Your own instance is unloaded even if it is answering a request.
    Another person's is unloaded only if it is idle and not leased; otherwise the answer is 409 ``instance_leased`` or
    ``instance_in_use``, unless an administrator gives an ``override_reason``. ``grace`` is as in a switch.
    """
    reason = bodies.override_reason(read_if_sent(schema.Override))
    require_override(reason)
    return _accepted(controller().unload(instance_id, current_actor(), reason))


@blueprint.post("/instances/<instance_id>/lease")
@needs(Permission.LEASE)
@records(Action.LEASE, recording.running_model, recording.LEASE_FIELDS, after=recording.lease_now)
def lease(instance_id: str) -> ResponseReturnValue:
    """Change the lease and the idle time of your own instance. Returns the instance.

    In the answer ``lease`` has ``until`` and ``reason``; ``idle_unload_minutes``, ``idle_unload_at`` and ``release``
    follow. A lease can end at most 30 days from now (422). 409 ``instance_stopping`` once the instance is being
    unloaded, here and in the three calls on release requests and idle use.
    """
    return _instance(controller().set_lease(instance_id, bodies.lease_terms(read(schema.LeaseTerms)), current_actor()))


@blueprint.post("/instances/<instance_id>/release-request")
@needs(Permission.LEASE)
@records(Action.RELEASE_ASKED, recording.running_model, recording.ASK_FIELDS, recording.owner_of_model)
def ask_release(instance_id: str) -> ResponseReturnValue:
    """Ask the owner of an instance to release it. Returns the instance.

    Its ``release`` is ``{"asker", "asked_at", "why", "answer", "answered_at", "answered_by", "word"}``. 409
    ``release_pending`` while another person's request is open.
    """
    return _instance(controller().ask_release(instance_id, read_if_sent(schema.ReleaseWish).why, current_actor()))


@blueprint.post("/instances/<instance_id>/release-request/answer")
@needs(Permission.LEASE)
@records(Action.RELEASE_ANSWERED, recording.running_model, recording.ANSWER_FIELDS)
def answer_release(instance_id: str) -> ResponseReturnValue:
    """Keep or release an instance of yours that somebody asks for. Returns the instance.

    An answer without ``answered_by`` was given by silence: the owner did not react in time.
    """
    body = read(schema.ReleaseDecision)
    return _instance(controller().answer_release(instance_id, bodies.release_answer(body), body.word, current_actor()))


@blueprint.post("/instances/<instance_id>/keep")
@needs(Permission.LEASE)
@records(Action.KEEP, recording.running_model, before=recording.owner_of_model)
def keep(instance_id: str) -> ResponseReturnValue:
    """Count this call as use of an idle instance, which restarts its idle time. Returns the instance."""
    return _instance(controller().keep(instance_id, current_actor()))


@blueprint.post("/instances/<instance_id>/ask")
@needs(Permission.ASK)
@changes_nothing
def ask(instance_id: str) -> ResponseReturnValue:
    """Ask a model. Returns its whole answer as ``{"answer"}``; the page streams it instead."""
    question = bodies.question(read(schema.Question))
    with closing(StreamedReply(instance_id, question)) as answer:
        return _json(schema.Reply(answer="".join(answer)))


@blueprint.get("/containers")
@needs(Permission.SEE)
def containers() -> ResponseReturnValue:
    """Return the containers of vLLM's image that Warden did not start; its own are instances.

    The status has them too.
    """
    return _json([documents.container(each) for each in controller().snapshot().containers])


@blueprint.post("/containers/<container_id>/stop")
@needs(Permission.CONTAINERS)
@records(Action.CONTAINER_STOPPED, recording.container)
def stop_container(container_id: str) -> ResponseReturnValue:
    """Stop a container that Warden did not start. Returns 202 with the operation.

    The body repeats the container's exact name as confirmation. The container is not removed.
    """
    return _accepted(controller().stop_container(container_id, read(schema.ContainerName).name, current_actor()))


@blueprint.post("/clean")
@needs(Permission.CLEAN)
@records(Action.CLEAN)
def clean() -> ResponseReturnValue:
    """Free memory that nothing needs: caches of loaded models, and leftovers of ended ones.

    Returns 202 with the operation.
    """
    return _accepted(controller().clean(current_actor()))


@blueprint.post("/emergency")
@needs(Permission.EMERGENCY)
@records(Action.EMERGENCY)
def emergency() -> ResponseReturnValue:
    """Stop everything that Warden started, even while another operation hangs. Returns 202 with the operation.

    ``"stored": false`` means that the stop is under way and that the database has not taken its record yet.
    """
    return _accepted(controller().emergency(current_actor()))


@blueprint.post("/demo")
@needs(Permission.SWITCH)
@records(Action.DEMO)
def demo() -> ResponseReturnValue:
    """Create the demo model in the cache. Returns 202 with the operation."""
    return _accepted(controller().make_demo(current_actor()))


@blueprint.post("/selftest")
@needs(Permission.SELFTEST)
@records(Action.SELFTEST)
def selftest() -> ResponseReturnValue:
    """Start a self-test. Returns 202 with the operation.

    Its ``checks`` (``name``, ``title``, ``mark``, ``seen``, ``seconds``, ``advice``) grow while it runs.
    """
    return _accepted(controller().selftest(current_actor()))


@blueprint.get("/operations")
@needs(Permission.SEE)
def operations() -> ResponseReturnValue:
    """Return operations with their steps and receipts, newest first.

    ``?kind=&actor=&model=&state=&before=&limit=``, all optional. ``before`` is the id of the last operation already
    seen; ``limit`` is at most 500.
    """
    asked, limit = OperationsQuery.read(request.args), limit_argument(DEFAULT_LIMIT, LARGEST_LIMIT)
    try:
        found = controller().operations(limit, asked.to_filter(), asked.before or None)
    except UnknownOperation as error:
        raise InvalidRequest(field="before", value=asked.before[:SHOWN_LIMIT], allowed="ID") from error
    return _json([documents.operation(each) for each in found])


@blueprint.get("/audit")
@needs(Permission.AUDIT)
def entries() -> ResponseReturnValue:
    """Return the audit log, newest first.

    ``?person=&group=&result=&from=&to=&target=&before=&limit=``, all optional. Days are written as ``2026-01-31``;
    ``person=-`` selects requests of people who were not signed in; ``before`` is the last ``id`` already seen. An entry
    has ``id``, ``at``, ``who`` (``name``, ``came``, ``person_id``, ``token``), ``action``, ``group``, ``target``
    (``kind``, ``id``, ``name``), ``address``, ``result`` (``done``, ``refused``, ``failed``), ``problem``, ``details``
    and ``operation_id``.
    """
    asked, limit = AuditQuery.read(request.args), limit_argument(DEFAULT_LIMIT, LARGEST_LIMIT)
    return _json([documents.entry(each) for each in audit().entries(limit, asked.to_filter(), asked.seen)])


@blueprint.get("/timeline")
@needs(Permission.SEE)
def track() -> ResponseReturnValue:
    """Return a device's memory by holder over time, with the operations of that period.

    ``?device=&span=``: the first device and the last ``hour`` unless given; the other span is ``week``.
    """
    device_id, span = asked_track()
    if device_id is None:
        raise UnknownDevice(device="", known="")
    return _json(documents.track(timeline().track(device_id, span)))


@blueprint.get("/operations/<operation_id>")
@needs(Permission.SEE)
def operation(operation_id: str) -> ResponseReturnValue:
    """Return one operation, running or ended.

    ``request`` is the request of a switch (of an unload: what loads the model again). ``to_restore`` lists the models
    that the operation unloaded and that have not been loaded again (``model``, ``revision``, ``mode``, ``options``,
    ``devices``, ``owner``, ``lease_until``). ``post_mortem`` explains how its model ran out of memory (``cause``,
    ``phase``, ``devices`` with ``holders`` and their ``before_bytes`` and ``bytes``, ``log``, ``way_out``), or is
    ``null``.
    """
    return _json(documents.operation(controller().operation(operation_id)))


@blueprint.post("/operations/<operation_id>/cancel")
@needs(Permission.CANCEL)
@records(Action.CANCEL, recording.operation, recording.CANCEL_FIELDS, recording.owner_of_operation)
def cancel(operation_id: str) -> ResponseReturnValue:
    """Cancel an operation. Returns 202 with the operation.

    ``{"rollback": true}`` abandons a rollback that is under way. The owner of a model that would be unloaded can cancel
    until ``grace.until``; afterwards the answer to that owner is 403 ``too_late``.
    """
    as_owner, rollback = (
        require_cancel(controller().operation(operation_id)),
        read_if_sent(schema.Cancellation).rollback,
    )
    return _accepted(controller().cancel(operation_id, current_actor(), rollback=rollback, as_owner=as_owner))


@blueprint.post("/operations/<operation_id>/restore")
@needs(Permission.SWITCH)
@records(Action.SWITCH, recording.operation)
def restore(operation_id: str) -> ResponseReturnValue:
    """Load again what an operation unloaded and did not bring back, as it ran. Returns 202 with the operation.

    409 ``nothing_to_restore`` if its ``to_restore`` is empty.
    """
    return _accepted(controller().restore(operation_id, current_actor()))


@blueprint.get("/tickets")
@needs(Permission.SEE)
def tickets() -> ResponseReturnValue:
    """Return the queue in order, then the launches that left it recently, newest first."""
    snapshot = controller().snapshot()
    waiting = [documents.queued_launch(queued.launch, queued) for queued in snapshot.waiting]
    return _json([*waiting, *(documents.queued_launch(ticket) for ticket in snapshot.waited)])


@blueprint.get("/tickets/<ticket_id>")
@needs(Permission.SEE)
def ticket(ticket_id: str) -> ResponseReturnValue:
    """Return one queued launch, or 404 ``unknown_ticket``.

    ``place`` is its position, ``why`` the reason it waits, ``behind`` the launch ahead of it that it waits for.
    ``state`` is ``waiting``, ``ready``, ``starting``, ``started``, ``cancelled``, ``expired`` or ``failed``;
    ``started`` with the ``outcome`` ``ticket_satisfied`` means that somebody else loaded the same model meanwhile.
    """
    return _json(_ticket(ticket_id))


@blueprint.post("/tickets")
@needs(Permission.SWITCH)
@records(Action.TICKET_MADE, recording.new_ticket, recording.TICKET_FIELDS)
def enqueue() -> ResponseReturnValue:
    """Queue a switch that cannot start now. Returns 201 with the queued launch.

    409 ``queue_full``, ``already_waiting`` or ``cannot_wait``; 503 ``not_stored`` if it could not be stored and so was
    not queued.
    """
    body = read(schema.LaunchToQueue)
    asked = bodies.switch_request(body)
    queued = controller().enqueue(asked, current_actor(), starts_by_itself=body.starts_by_itself)
    where = url_for("api.ticket", ticket_id=queued.launch.id)
    return _json(documents.queued_launch(queued.launch, queued)), 201, {"Location": where}


@blueprint.post("/tickets/<ticket_id>/cancel")
@blueprint.delete("/tickets/<ticket_id>")
@needs(Permission.CANCEL)
@records(Action.TICKET_CANCELLED, recording.ticket, before=recording.owner_of_ticket)
def leave_queue(ticket_id: str) -> ResponseReturnValue:
    """Remove a launch from the queue, and cancel it if it is being started. The answer has ``stored``."""
    ticket = controller().leave_queue(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    return _changed(ticket)


@blueprint.post("/tickets/<ticket_id>/resume")
@needs(Permission.SWITCH)
@records(Action.TICKET_RESUMED, recording.ticket, before=recording.owner_of_ticket)
def resume_queued(ticket_id: str) -> ResponseReturnValue:
    """Resume a queued launch that an emergency stop paused. The answer has ``stored``."""
    queued = controller().resume_queued(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    return _changed(queued.launch, queued)


@blueprint.post("/tickets/<ticket_id>/start")
@needs(Permission.SWITCH)
@records(Action.TICKET_STARTED, recording.ticket, before=recording.owner_of_ticket)
def start_queued(ticket_id: str) -> ResponseReturnValue:
    """Start a queued launch now. Returns 202 with the operation."""
    return _accepted(controller().start_queued(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY)))


def _changed(ticket: QueuedLaunch, queued: QueueEntry | None = None) -> ResponseReturnValue:
    stored = controller().is_queued_stored(ticket.id)
    return _json(documents.changed_queued_launch(ticket, queued, stored=stored))


def _ticket(ticket_id: str) -> schema.QueuedLaunch:
    snapshot = controller().snapshot()
    for queued in snapshot.waiting:
        if queued.launch.id == ticket_id:
            return documents.queued_launch(queued.launch, queued)
    for ended in snapshot.waited:
        if ended.id == ticket_id:
            return documents.queued_launch(ended)
    raise UnknownTicket(ticket=ticket_id)


def _instance(instance: Instance) -> ResponseReturnValue:
    return _json(documents.instance(instance, controller().snapshot()))


def _accepted(begun: Operation) -> ResponseReturnValue:
    note_operation(begun)
    where = url_for("api.operation", operation_id=begun.id)
    stored = controller().is_stored(begun.id)
    return _json(documents.accepted_operation(begun, stored=stored)), 202, {"Location": where}


def _json(document: schema.Answer | Sequence[schema.Answer]) -> Response:
    return Response(to_json(document) + b"\n", content_type="application/json")
