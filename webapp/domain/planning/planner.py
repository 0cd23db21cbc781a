"""The plan of a switch, as a pipeline: requirement, candidates, placement, verdict, alternatives. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from webapp.domain.footprint import PartName
from webapp.domain.plan import Plan, SwitchRequest
from webapp.domain.planning.alternatives import find_alternatives
from webapp.domain.planning.candidates import check_devices, check_unload, find_candidates
from webapp.domain.planning.placement import Placement, place
from webapp.domain.planning.requirement import cap_context, requirement_of
from webapp.domain.planning.state import PlanningState
from webapp.domain.planning.verdict import decide, refusal_for
from webapp.errors import UnknownModel, WardenError


def plan_switch(
    request: SwitchRequest, planning_state: PlanningState, actor: str | None = None, *, with_ways_out: bool = True
) -> Plan:
    """Return the plan of ``request`` by ``actor`` in ``planning_state``; the alternatives take most of the time.

    ``Plan.refusal`` is the reason of a refusal; the rest of the plan is filled in even then, to show the arithmetic.

    Raises:
        UnknownModel: the model is not in the cache.
        UnknownDevice: a named device does not exist.
        UnknownInstance: a model to unload is not running.
        InvalidRequest: the list of devices is empty, or a device or a model to unload is named twice.
    """
    model = planning_state.models.get(request.model_id)
    if model is None:
        raise UnknownModel(model=request.model_id)
    planning_state = planning_state if actor is None else planning_state.seen_by(actor)
    check_devices(request, planning_state)
    check_unload(request, planning_state)
    capped, notes = cap_context(request, model)

    requirement = requirement_of(capped, model, planning_state.calibration)
    candidates = find_candidates(capped, planning_state)
    placed = place(requirement, candidates, planning_state)
    decision = decide(placed, model, planning_state)
    looked_for = with_ways_out and decision.is_short_of_memory
    ways_out = find_alternatives(capped, placed, model, planning_state, actor) if looked_for else ()

    refusal = None if decision.refusal is None else decision.refusal.message
    return Plan(
        request=placed.request,
        devices=placed.devices,
        unload=placed.unload,
        verdict=decision.verdict,
        reasons=(*(() if refusal is None else (refusal,)), *notes, *decision.reasons),
        ways_out=ways_out,
        refusal=refusal,
        anywhere=placed.anywhere,
        overruled=decision.overruled,
    )


def refusal_of(plan: Plan, planning_state: PlanningState) -> WardenError | None:
    """Return ``plan.refusal`` as an error, for a caller that was about to carry out the plan; ``None`` without one."""
    if plan.refusal is None:
        return None
    placed = Placement(plan.request, plan.devices, plan.unload, plan.anywhere)
    return refusal_for(placed, planning_state.models[plan.request.model_id], planning_state)


def footprint_parts(plan: Plan) -> Mapping[str, Mapping[PartName, int]]:
    """Return the plan's needed bytes by device and part."""
    return {d.device_id: {part.name: part.bytes for part in d.footprint.parts} for d in plan.devices}
