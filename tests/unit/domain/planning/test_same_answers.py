"""The planner gives the answers that it gave before it became a pipeline; ``WARDEN_WORLDS=FIRST-LAST`` compares other worlds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields, replace
from itertools import combinations
from typing import Any
from unittest import mock

from tests.unit.domain.planning import random_worlds
from tests.unit.domain.planning.random_worlds import World
from tests.unit.domain.planning.reference import advise as old_advise
from tests.unit.domain.planning.reference import candidates as old_candidates
from tests.unit.domain.planning.reference import fit as old_fit
from tests.unit.domain.planning.reference import planner as old_planner
from tests.unit.domain.planning.reference import relief as old_relief
from tests.unit.domain.planning.reference import state as old_state
from tests.unit.domain.planning.reference.admission import AdmissionPolicy as OldPolicy
from webapp.domain.plan import Plan
from webapp.domain.planning import advise, fit, planner, relief, requirement, state, verdict
from webapp.errors import WardenError

OLD = (old_planner, old_fit, old_state, old_advise, old_relief, old_planner, old_planner)
NEW = (planner, fit, state, advise, relief, requirement, verdict)
"""The modules that answer, in the same order."""
FIRST, LAST = (int(number) for number in os.environ.get("WARDEN_WORLDS", "0-299").split("-"))


def answers(world: World, there: Any, with_modules: Any) -> Iterator[tuple[str, object]]:
    """Everything that planning says of a world, by name."""
    planner, fit, state, advise, relief, requirement, verdict = with_modules
    request, cached = world.request, world.planning_state.models

    def plan() -> object:
        made = planner.plan_switch(request, there, world.actor)
        refusal = planner.refusal_of(made, there)
        helped = relief.relief_of(made, there.instances, there.sample)
        return made, _error(refusal), astuple(helped)

    yield "plan", _answer(plan)
    yield "plan without ways out", _answer(lambda: planner.plan_switch(request, there, with_ways_out=False))
    yield "advice", _answer(lambda: advise.advise(request, there))
    for asked in (None, request):
        rooms = state.headrooms(there, asked)
        yield "headrooms", [astuple(replace(room, calibration=None)) for room in rooms]
        for model in cached.values():
            changed = request if asked is not None else replace(request, devices=None)
            needs = fit.needs_of(changed, model, rooms)
            yield "fit", (astuple(needs), fit.fit_of(needs, rooms).value, verdict.may_ask(changed, model))
            if rooms:
                yield "needed bytes", requirement.needed_bytes(changed, model, rooms)
    asked_model = cached.get(request.model_id)
    if asked_model is not None and there.device_ids:
        devices = (*there.device_ids[:2], "gpu-7")
        yield "footprints", requirement.footprints_on(devices, request, asked_model, there.sample, there.calibration)


def _answer(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except WardenError as error:
        return _error(error)


def _error(error: WardenError | None) -> object:
    return None if error is None else (type(error), error.message)


def old_world(here: state.PlanningState) -> old_state.PlanningState:
    """The same world in the types of that time."""
    values = {field.name: getattr(here, field.name) for field in fields(old_state.PlanningState)}
    values["policy"] = OldPolicy(**vars(here.policy))
    return old_state.PlanningState(**values)


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """Let the old planner try every group of GPUs, those with the most room first.

    It skipped groups that it took for no better: fewer GPUs if more of them were nearly as roomy, so a longer context could go unseen,
    and, among like GPUs, all but the easiest. Which of equally good groups it took depended on that.
    """

    def every(pool: old_candidates._GpuPool, count: int, least_bytes: int) -> Iterator[old_state.DeviceGroup]:
        by_room = sorted(pool.gpus, key=lambda gpu: -gpu.narrowest)
        return (pool.joined(some) for some in combinations(by_room, count))

    with (
        mock.patch.object(old_candidates, "_outdoes", return_value=False),
        mock.patch.object(old_candidates._GpuPool, "is_plain", False),
        mock.patch.object(old_candidates._GpuPool, "combinations", every),
    ):
        yield


def test_every_answer_is_the_one_of_the_old_planner() -> None:
    said: Counter[str] = Counter()
    otherwise = 0
    for seed in range(FIRST, LAST + 1):
        world = random_worlds.world(seed)
        there = replace(world.planning_state)
        before, now = list(answers(world, old_world(there), OLD)), list(answers(world, there, NEW))
        if now != before:
            otherwise += 1
            with without_shortcuts():
                before = list(answers(world, old_world(there), OLD))
        for (name, was), (_, is_now) in zip(before, now, strict=True):
            assert is_now == was, (seed, name)
        said.update(_kinds(now[0][1]))
    count = LAST - FIRST + 1
    assert otherwise <= 2 + count // 100
    missed = {"fits", "tight", "not_enough_memory", "instance_leased", "instance_in_use", "confirmation_needed"} - {
        *said
    }
    assert not missed or count < 300, said


def _kinds(answer: object) -> Iterator[str]:
    """What a plan says, so that the worlds can be seen to differ."""
    plan = answer[0] if isinstance(answer, tuple) else None
    if isinstance(plan, Plan):
        yield plan.verdict.value if plan.refusal is None else plan.refusal.code
        yield from (way.message.code for way in plan.ways_out)
        yield f"{len(plan.devices)} devices"
