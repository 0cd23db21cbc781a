"""The calls of ``/api/v1``. Each gets its body, calls the controller once, and returns the document."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from flask import request, url_for

from webapp import schema
from webapp.domain.instance import Instance
from webapp.domain.operation import Operation
from webapp.domain.people import Permission
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.errors import (
    DeviceUnreadable,
    InvalidRequest,
    UnknownDevice,
    UnknownModel,
    UnknownOperation,
    UnknownQueuedLaunch,
)
from webapp.texts import N_
from webapp.web import commands
from webapp.web.actor import current_actor
from webapp.web.api import bodies, documents
from webapp.web.api.bodies import limit_argument
from webapp.web.api.calls import Located, Tagged, blueprint, call
from webapp.web.audit.query import AuditQuery
from webapp.web.audit.recording import note_launch, note_operation
from webapp.web.chat.reply import StreamedReply
from webapp.web.commands import Command
from webapp.web.filters import SHOWN_LIMIT
from webapp.web.operations.query import OperationsQuery
from webapp.web.ports import audit, controller, timeline
from webapp.web.rights import has, require_cancel, require_override
from webapp.web.timeline.query import asked_track

__all__ = ["blueprint"]

RECOMMEND: Final = Command(Permission.SEE, refusals=(UnknownDevice, UnknownModel, DeviceUnreadable))
TRACK: Final = Command(Permission.SEE, refusals=(UnknownDevice,))
SEE_OPERATION: Final = Command(Permission.SEE, refusals=(UnknownOperation,))
SEE_QUEUED: Final = Command(Permission.SEE, refusals=(UnknownQueuedLaunch,))


@call(
    "GET /status",
    command=commands.SEE,
    summary=N_("Show devices, loaded models and running operations"),
    answer=schema.StatusDocument,
    is_tagged=True,
)
def status() -> Tagged:
    """Return devices with their holders, instances, running operations, foreign containers, and the mode.

    ``store_problem``, ``models_problem`` and ``mode_problems`` name what does not work at the moment, ``null`` if all
    is well. The ``ETag`` stays the same while nothing but ``age_s`` changes; with it in ``If-None-Match`` the answer is
    304 without a body.
    """
    snapshot = controller().snapshot()
    return Tagged(snapshot.version, lambda: documents.status(snapshot))


@call(
    "GET /models", command=commands.SEE, summary=N_("List the cached models"), answer=schema.ModelDocument, is_list=True
)
def models() -> list[schema.ModelDocument]:
    """Return the cached models, each with the reason if it cannot be loaded.

    Whether the cache can be read at all is in the status (``models_problem``).
    """
    return documents.models(controller().snapshot().models)


@call(
    "GET /recommendation",
    command=RECOMMEND,
    summary=N_("Recommend settings"),
    answer=schema.AdviceDocument,
    query=schema.RecommendationParameters,
)
def recommendation() -> schema.AdviceDocument:
    """Return the recommended settings for ``?device=&model=``, both optional.

    With a model the answer is the largest configuration that fits; ``mark`` is ``none`` if nothing does.
    ``usable_mode`` is the mode to use if the recommended one is not available on this server.
    """
    device = request.args.get("device") or None
    advice = controller().recommend(device, request.args.get("model") or None, current_actor())
    if advice is None:
        raise DeviceUnreadable(device=device, age_s=controller().snapshot().sample_age_s)
    return documents.advice(advice)


@call(
    "POST /plan",
    command=commands.PLAN,
    summary=N_("Show what a launch would do"),
    answer=schema.PlanDocument,
    body=schema.LaunchDocument,
)
def plan(body: schema.LaunchDocument) -> schema.PlanDocument:
    """Return what a switch would do; nothing is done.

    ``footprints`` gives every component by device in bytes with its source and confidence, both peaks, and notes.
    ``measured`` is ``{"count", "spread_percent", "same_options"}`` of earlier launches on this server, or ``null``.
    Each entry of ``unload`` has ``confirmed``, and ``no_return``: why the model could not be loaded again if the launch
    fails (its files or revision are gone, its mode does not respond), or ``null``. With ``load_anyway`` a memory
    shortage is in ``overruled`` instead of ``refusal``. ``ways_out`` are requests that would fit.
    """
    asked = bodies.switch_request(body)
    require_override(asked.override_reason)
    return documents.plan(controller().plan(asked, current_actor()))


@call(
    "POST /switch",
    command=commands.SWITCH,
    summary=N_("Load a model"),
    answer=schema.AcceptedOperationDocument,
    status=202,
    body=schema.LaunchOnceDocument,
)
def switch(body: schema.LaunchOnceDocument) -> Located:
    """Load a model, and unload what it replaces. Returns 202 with the operation.

    Without ``keep_others`` your own models on the chosen device are unloaded; with it, only the instances that
    ``unload`` names. Another person's idle model is unloaded only if the room is needed and ``unload`` names it;
    otherwise the answer is 409 ``confirmation_needed`` with ``models`` and ``instances`` (ids, comma-separated) in
    ``params``. With ``load_anyway`` a memory shortage does not stop the switch. While nothing is touched yet, ``grace``
    says ``until`` when, which ``instances`` will be unloaded, and which ``owners`` can cancel.

    A client that got no answer sends the same body with the same ``request_id`` again: the answer is 202 with the
    operation that the first request began, also after a restart. 409 ``request_id_reused`` if the body differs.
    """
    asked = bodies.switch_request(body)
    require_override(asked.override_reason)
    return _accepted(controller().switch(asked, current_actor(), body.request_id))


@call(
    "POST /instances/<instance_id>/unload",
    command=commands.UNLOAD,
    summary=N_("Unload a model"),
    answer=schema.AcceptedOperationDocument,
    status=202,
    body=schema.OverrideDocument,
    body_is_optional=True,
)
def unload(instance_id: str, body: schema.OverrideDocument) -> Located:
    """Unload an instance. Returns 202 with the operation.

    Naming the id in the URL is the confirmation. Your own instance is unloaded even if it is answering a request.
    Another person's is unloaded only if it is idle and not leased; otherwise the answer is 409 ``instance_leased`` or
    ``instance_in_use``, unless an administrator gives an ``override_reason``. ``grace`` is as in a switch.
    """
    reason = bodies.override_reason(body)
    require_override(reason)
    return _accepted(controller().unload(instance_id, current_actor(), reason))


@call(
    "POST /instances/<instance_id>/lease",
    command=commands.SET_LEASE,
    summary=N_("Change the lease of your model"),
    answer=schema.InstanceDocument,
    body=schema.LeaseTermsDocument,
)
def lease(instance_id: str, body: schema.LeaseTermsDocument) -> schema.InstanceDocument:
    """Change the lease and the idle time of your own instance. Returns the instance.

    In the answer ``lease`` has ``until`` and ``reason``; ``idle_unload_minutes``, ``idle_unload_at`` and ``release``
    follow. A lease can end at most 30 days from now (422). 409 ``instance_stopping`` once the instance is being
    unloaded, here and in the three calls on release requests and idle use.
    """
    return _instance(controller().leases.set(instance_id, bodies.lease_terms(body), current_actor()))


@call(
    "POST /instances/<instance_id>/release-request",
    command=commands.ASK_RELEASE,
    summary=N_("Ask for the release of a model"),
    answer=schema.InstanceDocument,
    body=schema.ReleaseWishDocument,
    body_is_optional=True,
)
def ask_release(instance_id: str, body: schema.ReleaseWishDocument) -> schema.InstanceDocument:
    """Ask the owner of an instance to release it. Returns the instance.

    Its ``release`` is ``{"asker", "asked_at", "why", "answer", "answered_at", "answered_by", "word"}``. 409
    ``release_pending`` while another person's request is open.
    """
    return _instance(controller().leases.ask(instance_id, body.why, current_actor()))


@call(
    "POST /instances/<instance_id>/release-request/answer",
    command=commands.ANSWER_RELEASE,
    summary=N_("Answer a release request"),
    answer=schema.InstanceDocument,
    body=schema.ReleaseDecisionDocument,
)
def answer_release(instance_id: str, body: schema.ReleaseDecisionDocument) -> schema.InstanceDocument:
    """Keep or release an instance of yours that somebody asks for. Returns the instance.

    An answer without ``answered_by`` was given by silence: the owner did not react in time.
    """
    return _instance(controller().leases.answer(instance_id, bodies.release_answer(body), body.word, current_actor()))


@call(
    "POST /instances/<instance_id>/keep",
    command=commands.KEEP,
    summary=N_("Keep an idle model loaded"),
    answer=schema.InstanceDocument,
)
def keep(instance_id: str) -> schema.InstanceDocument:
    """Count this call as use of an idle instance, which restarts its idle time. Returns the instance."""
    return _instance(controller().leases.keep(instance_id, current_actor()))


@call(
    "POST /instances/<instance_id>/ask",
    command=commands.ASK,
    summary=N_("Ask a model"),
    answer=schema.ReplyDocument,
    body=schema.QuestionDocument,
)
def ask(instance_id: str, body: schema.QuestionDocument) -> schema.ReplyDocument:
    """Ask a model. Returns its whole answer as ``{"answer"}``; the page streams it instead."""
    question = bodies.question(body)
    with closing(StreamedReply(instance_id, question)) as answer:
        return schema.ReplyDocument(answer="".join(answer))


@call(
    "GET /containers",
    command=commands.SEE,
    summary=N_("List the containers that Warden did not start"),
    answer=schema.ContainerDocument,
    is_list=True,
)
def containers() -> list[schema.ContainerDocument]:
    """Return the containers of vLLM's image that Warden did not start; its own are instances.

    The status has them too.
    """
    return [documents.container(each) for each in controller().snapshot().containers]


@call(
    "POST /containers/<container_id>/stop",
    command=commands.STOP_CONTAINER,
    summary=N_("Stop a container that Warden did not start"),
    answer=schema.AcceptedOperationDocument,
    status=202,
    body=schema.ContainerNameDocument,
)
def stop_container(container_id: str, body: schema.ContainerNameDocument) -> Located:
    """Stop a container that Warden did not start. Returns 202 with the operation.

    The body repeats the container's exact name as confirmation. The container is not removed.
    """
    return _accepted(controller().stop_container(container_id, body.name, current_actor()))


@call(
    "POST /clean",
    command=commands.CLEAN,
    summary=N_("Free memory that nothing needs"),
    answer=schema.AcceptedOperationDocument,
    status=202,
)
def clean() -> Located:
    """Free memory that nothing needs: caches of loaded models, and leftovers of ended ones.

    Returns 202 with the operation.
    """
    return _accepted(controller().clean(current_actor()))


@call(
    "POST /emergency",
    command=commands.EMERGENCY,
    summary=N_("Stop everything that Warden started"),
    answer=schema.AcceptedOperationDocument,
    status=202,
)
def emergency() -> Located:
    """Stop everything that Warden started, even while another operation hangs. Returns 202 with the operation.

    ``"stored": false`` means that the stop is under way and that the database has not taken its record yet.
    """
    return _accepted(controller().emergency(current_actor()))


@call(
    "POST /models/end-pause",
    command=commands.END_PAUSE,
    summary=N_("End the pause after a failed load"),
    answer=schema.ModelDocument,
    body=schema.ModelNameDocument,
)
def end_pause(body: schema.ModelNameDocument) -> schema.ModelDocument:
    """End the pause after a failed load, so that the model can be loaded at once. Returns the model.

    The failures still count: the next one is followed by the longer pause. Without a pause nothing changes.
    """
    return documents.models((controller().end_pause(body.model),))[0]


@call(
    "POST /demo",
    command=commands.MAKE_DEMO,
    summary=N_("Create the demo model"),
    answer=schema.AcceptedOperationDocument,
    status=202,
)
def demo() -> Located:
    """Create the demo model in the cache. Returns 202 with the operation."""
    return _accepted(controller().make_demo(current_actor()))


@call(
    "POST /selftest",
    command=commands.SELFTEST,
    summary=N_("Start a self-test"),
    answer=schema.AcceptedOperationDocument,
    status=202,
)
def selftest() -> Located:
    """Start a self-test. Returns 202 with the operation.

    Its ``checks`` (``name``, ``title``, ``mark``, ``seen``, ``seconds``, ``advice``) grow while it runs.
    """
    return _accepted(controller().selftest(current_actor()))


@call(
    "GET /operations",
    command=commands.SEE,
    summary=N_("List operations"),
    answer=schema.OperationDocument,
    is_list=True,
    query=schema.OperationsParameters,
)
def operations() -> list[schema.OperationDocument]:
    """Return operations with their steps and receipts, newest first.

    ``?kind=&actor=&model=&state=&before=&limit=``, all optional. ``before`` is the id of the last operation already
    seen; ``limit`` is at most 500.
    """
    asked, limit = OperationsQuery.read(request.args), limit_argument(schema.DEFAULT_LIMIT, schema.LARGEST_LIMIT)
    try:
        found = controller().operations(limit, asked.to_filter(), asked.before or None)
    except UnknownOperation as error:
        raise InvalidRequest(field="before", value=asked.before[:SHOWN_LIMIT], allowed="ID") from error
    return [documents.operation(each) for each in found]


@call(
    "GET /audit",
    command=commands.READ_AUDIT,
    summary=N_("Show the audit log"),
    answer=schema.AuditEntryDocument,
    is_list=True,
    query=schema.AuditParameters,
)
def entries() -> list[schema.AuditEntryDocument]:
    """Return the audit log, newest first.

    ``?person=&group=&result=&from=&to=&target=&before=&limit=``, all optional. Days are written as ``2026-01-31``;
    ``person=-`` selects requests of people who were not signed in; ``before`` is the last ``id`` already seen. An entry
    has ``id``, ``at``, ``who`` (``name``, ``came``, ``person_id``, ``token``), ``action``, ``group``, ``target``
    (``kind``, ``id``, ``name``), ``address``, ``result`` (``done``, ``refused``, ``failed``), ``problem``, ``details``
    and ``operation_id``.
    """
    asked, limit = AuditQuery.read(request.args), limit_argument(schema.DEFAULT_LIMIT, schema.LARGEST_LIMIT)
    return [documents.entry(each) for each in audit().entries(limit, asked.to_filter(), asked.seen)]


@call(
    "GET /timeline",
    command=TRACK,
    summary=N_("Show the memory of a device over time"),
    answer=schema.TimelineDocument,
    query=schema.TimelineParameters,
)
def track() -> schema.TimelineDocument:
    """Return a device's memory by holder over time, with the operations of that period.

    ``?device=&span=``: the first device and the last ``hour`` unless given; the other span is ``week``.
    """
    device_id, span = asked_track()
    if device_id is None:
        raise UnknownDevice(device="", known="")
    return documents.track(timeline().track(device_id, span))


@call(
    "GET /operations/<operation_id>",
    command=SEE_OPERATION,
    summary=N_("Show an operation"),
    answer=schema.OperationDocument,
)
def operation(operation_id: str) -> schema.OperationDocument:
    """Return one operation, running or ended.

    ``request`` is the request of a switch (of an unload: what loads the model again). ``to_restore`` lists the models
    that the operation unloaded and that have not been loaded again (``model``, ``revision``, ``mode``, ``options``,
    ``devices``, ``owner``, ``lease_until``). ``post_mortem`` explains how its model ran out of memory (``cause``,
    ``phase``, ``devices`` with ``holders`` and their ``before_bytes`` and ``bytes``, ``log``, ``way_out``), or is
    ``null``.
    """
    return documents.operation(controller().operation(operation_id))


@call(
    "POST /operations/<operation_id>/cancel",
    command=commands.CANCEL,
    summary=N_("Cancel an operation"),
    answer=schema.AcceptedOperationDocument,
    status=202,
    body=schema.CancellationDocument,
    body_is_optional=True,
)
def cancel(operation_id: str, body: schema.CancellationDocument) -> Located:
    """Cancel an operation. Returns 202 with the operation.

    ``{"rollback": true}`` abandons a rollback that is under way. The owner of a model that would be unloaded can cancel
    until ``grace.until``; afterwards the answer to that owner is 403 ``too_late``.
    """
    as_owner = require_cancel(controller().operation(operation_id))
    return _accepted(controller().cancel(operation_id, current_actor(), rollback=body.rollback, as_owner=as_owner))


@call(
    "POST /operations/<operation_id>/restore",
    command=commands.RESTORE,
    summary=N_("Load again what an operation unloaded"),
    answer=schema.AcceptedOperationDocument,
    status=202,
)
def restore(operation_id: str) -> Located:
    """Load again what an operation unloaded and did not bring back, as it ran. Returns 202 with the operation.

    409 ``nothing_to_restore`` if its ``to_restore`` is empty.
    """
    return _accepted(controller().restore(operation_id, current_actor()))


@call(
    "GET /queue",
    "GET /tickets",
    command=commands.SEE,
    summary=N_("List the queued launches"),
    answer=schema.QueuedLaunchDocument,
    is_list=True,
)
def tickets() -> list[schema.QueuedLaunchDocument]:
    """Return the queue in order, then the launches that left it recently, newest first."""
    snapshot = controller().snapshot()
    waiting = [documents.queued_launch(queued.launch, queued) for queued in snapshot.waiting]
    return [*waiting, *(documents.queued_launch(launch) for launch in snapshot.waited)]


@call(
    "GET /queue/<ticket_id>",
    "GET /tickets/<ticket_id>",
    command=SEE_QUEUED,
    summary=N_("Show a queued launch"),
    answer=schema.QueuedLaunchDocument,
)
def ticket(ticket_id: str) -> schema.QueuedLaunchDocument:
    """Return one queued launch, or 404 ``unknown_ticket``.

    ``place`` is its position, ``why`` the reason it waits, ``behind`` the launch ahead of it that it waits for.
    ``state`` is ``waiting``, ``ready``, ``starting``, ``started``, ``cancelled``, ``expired`` or ``failed``;
    ``started`` with the ``outcome`` ``ticket_satisfied`` means that somebody else loaded the same model meanwhile.
    """
    return _queued_launch(ticket_id)


@call(
    "POST /queue",
    "POST /tickets",
    command=commands.ENQUEUE,
    summary=N_("Queue a launch"),
    answer=schema.QueuedLaunchDocument,
    status=201,
    body=schema.LaunchToQueueDocument,
)
def enqueue(body: schema.LaunchToQueueDocument) -> Located:
    """Queue a switch that cannot start now. Returns 201 with the queued launch.

    409 ``queue_full``, ``already_waiting`` or ``cannot_wait``; 503 ``not_stored`` if it could not be stored and so was
    not queued. ``request_id`` is as in a switch, until the launch is no longer listed.
    """
    asked = bodies.switch_request(body)
    queued = controller().enqueue(
        asked, current_actor(), starts_by_itself=body.starts_by_itself, request_id=body.request_id
    )
    note_launch(queued.launch)
    where = f"{request.script_root}{request.path}/{queued.launch.id}"
    entry = queued if queued.launch.is_open else None
    return Located(documents.queued_launch(queued.launch, entry), where)


@call(
    "POST /queue/<ticket_id>/cancel",
    "DELETE /queue/<ticket_id>",
    "POST /tickets/<ticket_id>/cancel",
    "DELETE /tickets/<ticket_id>",
    command=commands.LEAVE_QUEUE,
    summary=N_("Remove a launch from the queue"),
    answer=schema.ChangedQueuedLaunchDocument,
)
def leave_queue(ticket_id: str) -> schema.ChangedQueuedLaunchDocument:
    """Remove a launch from the queue, and cancel it if it is being started. ``stored`` says whether the change is saved."""
    launch = controller().queue.cancel(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    return _changed(launch)


@call(
    "POST /queue/<ticket_id>/resume",
    "POST /tickets/<ticket_id>/resume",
    command=commands.RESUME_QUEUED,
    summary=N_("Resume a queued launch"),
    answer=schema.ChangedQueuedLaunchDocument,
)
def resume_queued(ticket_id: str) -> schema.ChangedQueuedLaunchDocument:
    """Resume a queued launch that an emergency stop paused. ``stored`` says whether the change is saved."""
    queued = controller().queue.resume(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    return _changed(queued.launch, queued)


@call(
    "POST /queue/<ticket_id>/start",
    "POST /tickets/<ticket_id>/start",
    command=commands.START_QUEUED,
    summary=N_("Start a queued launch now"),
    answer=schema.AcceptedOperationDocument,
    status=202,
)
def start_queued(ticket_id: str) -> Located:
    """Start a queued launch now. Returns 202 with the operation."""
    return _accepted(
        controller().queue.start_now(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    )


def _changed(launch: QueuedLaunch, queued: QueueEntry | None = None) -> schema.ChangedQueuedLaunchDocument:
    stored = controller().queue.is_stored(launch.id)
    return documents.changed_queued_launch(launch, queued, stored=stored)


def _queued_launch(launch_id: str) -> schema.QueuedLaunchDocument:
    snapshot = controller().snapshot()
    for queued in snapshot.waiting:
        if queued.launch.id == launch_id:
            return documents.queued_launch(queued.launch, queued)
    for ended in snapshot.waited:
        if ended.id == launch_id:
            return documents.queued_launch(ended)
    raise UnknownQueuedLaunch(ticket=launch_id)


def _instance(instance: Instance) -> schema.InstanceDocument:
    return documents.instance(instance, controller().snapshot())


def _accepted(begun: Operation) -> Located:
    note_operation(begun)
    document = documents.accepted_operation(begun, stored=controller().is_stored(begun.id))
    return Located(document, url_for("api.operation", operation_id=begun.id))
