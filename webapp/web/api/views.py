"""The calls of ``/api/v1``. Each reads its input, calls the controller once, and shapes the answer."""

from __future__ import annotations

from contextlib import closing

from flask import Blueprint, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.operation import Operation
from webapp.domain.people import Right
from webapp.errors import DeviceUnreadable, InvalidRequest, UnknownDevice, UnknownOperation
from webapp.web.actor import current_actor
from webapp.web.api.bodies import ask_question, cancel_rollback, confirmed_name, limit_argument, switch_request
from webapp.web.api.documents import (
    advice_document,
    container_document,
    model_document,
    operation_document,
    plan_document,
    status_document,
    track_document,
)
from webapp.web.asking import Answer
from webapp.web.filters import SHOWN_LIMIT, OperationsQuery, asked_track
from webapp.web.pages import find_instance
from webapp.web.ports import controller, timeline
from webapp.web.rights import needs, require_cancel, require_interrupts, require_unload

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
    return jsonify([model_document(model) for model in controller().snapshot().models])


@blueprint.get("/recommendation")
@needs(Right.SEE)
def recommendation() -> ResponseReturnValue:
    """Return the advice for ``?device=&model=``, both optional."""
    device = request.args.get("device") or None
    advice = controller().recommend(device, request.args.get("model") or None)
    if advice is None:
        raise DeviceUnreadable(device=device, age_s=controller().snapshot().sample_age_s)
    return jsonify(advice_document(advice))


@blueprint.post("/plan")
@needs(Right.PLAN)
def plan() -> ResponseReturnValue:
    """Return what a switch would do; nothing is done."""
    return jsonify(plan_document(controller().plan(switch_request(), current_actor())))


@blueprint.post("/switch")
@needs(Right.SWITCH)
def switch() -> ResponseReturnValue:
    """Begin to load a model."""
    asked = switch_request()
    require_interrupts(asked)
    return _accepted(controller().switch(asked, current_actor()))


@blueprint.post("/instances/<instance_id>/unload")
@needs(Right.UNLOAD)
def unload(instance_id: str) -> ResponseReturnValue:
    """Begin to unload an instance, busy or not; one that answers somebody else only as an administrator."""
    require_unload(find_instance(instance_id))
    return _accepted(controller().unload(instance_id, current_actor()))


@blueprint.post("/instances/<instance_id>/ask")
@needs(Right.ASK)
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
def stop_container(container_id: str) -> ResponseReturnValue:
    """Begin to end such a container; ``{"name": …}`` confirms it."""
    return _accepted(controller().stop_container(container_id, confirmed_name(), current_actor()))


@blueprint.post("/clean")
@needs(Right.CLEAN)
def clean() -> ResponseReturnValue:
    """Begin to give back what nobody needs."""
    return _accepted(controller().clean(current_actor()))


@blueprint.post("/emergency")
@needs(Right.EMERGENCY)
def emergency() -> ResponseReturnValue:
    """Begin to end everything of Warden's."""
    return _accepted(controller().emergency(current_actor()))


@blueprint.post("/demo")
@needs(Right.SWITCH)
def demo() -> ResponseReturnValue:
    """Begin to make the demo model in the cache."""
    return _accepted(controller().make_demo(current_actor()))


@blueprint.post("/selftest")
@needs(Right.SELFTEST)
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
def cancel(operation_id: str) -> ResponseReturnValue:
    """Ask an operation to stop; ``{"rollback": true}`` gives up the putting back that is under way."""
    require_cancel(controller().operation(operation_id))
    return _accepted(controller().cancel(operation_id, current_actor(), rollback=cancel_rollback()))


def _accepted(begun: Operation) -> ResponseReturnValue:
    where = url_for("api.operation", operation_id=begun.id)
    return jsonify(operation_document(begun)), 202, {"Location": where}
