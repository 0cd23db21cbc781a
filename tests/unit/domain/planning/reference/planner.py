"""Makes the plan of a switch: where, what has to go, whether it fits, and what would make it fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tests.unit.domain.planning.reference.alternatives import Missing, Resting, Shortfall, find_alternatives
from tests.unit.domain.planning.reference.candidates import Candidates, Placement, Requirement
from tests.unit.domain.planning.reference.sharing import can_share
from tests.unit.domain.planning.reference.state import (
    DeviceClass,
    DeviceGroup,
    Headroom,
    PlanningState,
    held_on,
    most_bytes,
    place_of,
    promised_on,
)
from webapp.domain.calibration import Calibration
from webapp.domain.footprint import Footprint, MeasuredSpread, PartName
from webapp.domain.instance import ANSWERING, Instance, InstanceState
from webapp.domain.memory import DeviceKind, Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode, Quantization
from webapp.domain.plan import DevicePlan, Eviction, Plan, Reach, SwitchRequest, Verdict, WayOut
from webapp.errors import (
    AlreadyLoaded,
    CannotEnd,
    ConfirmationNeeded,
    CoolingDown,
    DeviceUnreadable,
    InstanceInUse,
    InstanceLeased,
    InvalidRequest,
    ModelUnsuitable,
    ModeUnavailable,
    NotEnoughMemory,
    UnknownDevice,
    UnknownInstance,
    UnknownModel,
    WardenError,
)
from webapp.message import Message, Param


def plan_switch(
    request: SwitchRequest, planning_state: PlanningState, actor: str | None = None, *, with_ways_out: bool = True
) -> Plan:
    """Return what ``request`` of ``actor`` would do in ``planning_state``; the ways out of a lack of memory take most of the time.

    What forbids it stands in ``Plan.refusal``; the rest of the plan is filled in all the same, so that a person sees the arithmetic.

    Raises:
        UnknownModel: the model is not in the cache.
        UnknownDevice: a named device does not exist.
        UnknownInstance: a model that is to go does not run.
        InvalidRequest: no device was named in a list of devices, or one twice; or a model that is to go twice.
    """
    model = planning_state.models.get(request.model_id)
    if model is None:
        raise UnknownModel(model=request.model_id)
    planning_state = planning_state if actor is None else planning_state.seen_by(actor)
    _check_devices(request, planning_state)
    _check_unload(request, planning_state)
    capped, notes = _cap_context(request, model)
    candidates = Candidates(model, planning_state)
    placed = candidates.best(capped)
    refusal, overruled = _refusal(placed, model, planning_state), _overruled(placed, model)
    reasons = (
        *notes,
        *overruled,
        *_spread(placed, capped, candidates),
        *_reasons(placed),
        *_no_returns(placed),
        *_stuck(placed, planning_state),
        *_claimed(placed, planning_state),
    )
    looked_for = with_ways_out and isinstance(refusal, NotEnoughMemory)
    ways_out = _ways_out(capped, placed, candidates, actor) if looked_for else ()
    verdict = Verdict.REFUSED if refusal is not None else placed.verdict
    message = None if refusal is None else refusal.message
    return Plan(
        request=placed.request,
        devices=placed.devices,
        unload=placed.unload,
        verdict=verdict,
        reasons=reasons if message is None else (message, *reasons),
        ways_out=ways_out,
        refusal=message,
        anywhere=placed.anywhere,
        overruled=next(iter(overruled), None),
    )


def needed_bytes(request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom]) -> tuple[int, ...]:
    """Return what ``request`` would take of ``model`` on each of the devices of ``headrooms`` together, as a plan counts it."""
    capped, _ = _cap_context(request, model)
    places = [DeviceClass(headroom.kind, headroom.device_name, headroom.usable_bytes) for headroom in headrooms]
    return tuple(
        footprint.required_bytes
        for footprint in Requirement(capped.mode, capped.options, model, headrooms[0].calibration).over(places)
    )


def footprints_on(
    devices: Sequence[str], request: SwitchRequest, model: CachedModel, sample: Sample | None, calibration: Calibration
) -> tuple[Footprint, ...]:
    """Return what ``request`` takes on ``devices``, as a plan counts it; of a device that is not in the sample only the kind is known."""
    footprints = Requirement(request.mode, request.options, model, calibration).over(
        [_place(device_id, sample) for device_id in devices]
    )
    return tuple(footprint.on(device_id) for footprint, device_id in zip(footprints, devices, strict=True))


def _place(device_id: str, sample: Sample | None) -> DeviceClass:
    reading = None if sample is None else sample.reading(device_id)
    return DeviceClass(DeviceKind(device_id.partition("-")[0]), None, 0) if reading is None else place_of(reading)


def refusal_of(plan: Plan, planning_state: PlanningState) -> WardenError | None:
    """Return the error that ``plan.refusal`` states, to be raised by who was about to carry the plan out."""
    if plan.refusal is None:
        return None
    placed = Placement(plan.request, plan.devices, plan.unload, plan.anywhere)
    return _refusal(placed, planning_state.models[plan.request.model_id], planning_state)


class FitChecker:
    """Tells of forms of one request, by the plan's own arithmetic, whether they would fit anywhere it may go within one reach."""

    def __init__(self, request: SwitchRequest, model: CachedModel, planning_state: PlanningState, reach: Reach) -> None:
        """Raise UnknownDevice, UnknownInstance, InvalidRequest."""
        _check_devices(request, planning_state)
        _check_unload(request, planning_state)
        self._model, self._candidates = model, Candidates(model, planning_state)
        self._reach = reach
        self._readable = tuple(group for group in self._candidates.of(request, reach) if group.is_readable)
        all_kept = not self._candidates.open_to(request, reach)
        self.request = replace(request, interrupt_busy=True, override_reason="") if all_kept else request
        """What is asked about. Where a model that must stay is everywhere the memory is told of all the same."""

    @property
    def free_bytes(self) -> int | None:
        """The most that the launch would find on one device, or on each of those that are named; ``None`` is unknown."""
        least = [min(device.available_bytes or 0 for device in group.devices) for group in self._readable]
        return max(least, default=None)

    def fits(self, request: SwitchRequest) -> bool:
        """Return whether ``request``, another form of the one in question, would not be refused for its memory or its options."""
        if not may_ask(request, self._model):
            return False
        requirement = self._candidates.requirement(request)
        return any(requirement.holds(group) for group in self._candidates.open_to(request, self._reach))

    def shortfall(self, request: SwitchRequest) -> tuple[int, int, int]:
        """Return the bytes that ``request`` needs on a device, its reserve, and those that lack there; of the choices where least lacks."""
        requirement, candidates = (
            self._candidates.requirement(request),
            self._candidates.open_to(request, self._reach) or self._readable,
        )
        found = [
            (_short_by((footprint, device)), footprint.required_bytes, device.reserve_bytes)
            for group in candidates
            for footprint, device in [max(requirement.on(group), key=_short_by)]
        ]
        missing, needed, reserve = min(found)
        return needed, reserve, missing


def _short_by(pair: tuple[Footprint, DevicePlan]) -> int:
    footprint, device = pair
    return footprint.required_bytes - (most_bytes(device) or 0)


def _check_devices(request: SwitchRequest, planning_state: PlanningState) -> None:
    if request.devices is None:
        return
    if not request.devices or len(set(request.devices)) != len(request.devices):
        raise InvalidRequest(field="devices", value=",".join(request.devices), allowed="each device once, at least one")
    known = planning_state.device_ids
    for device_id in request.devices:
        if device_id not in known:
            raise UnknownDevice(device=device_id, known=", ".join(known))


def _cap_context(request: SwitchRequest, model: CachedModel) -> tuple[SwitchRequest, tuple[Message, ...]]:
    """A context beyond what the model was made for is cut to it, and said."""
    limit = model.context_length
    if limit is None or request.options.max_tokens <= limit:
        return request, ()
    note = Message("context_capped", {"model": model.id, "max_tokens": limit, "asked": request.options.max_tokens})
    return replace(request, options=replace(request.options, max_tokens=limit)), (note,)


def _check_unload(request: SwitchRequest, planning_state: PlanningState) -> None:
    if len(set(request.unload)) != len(request.unload):
        raise InvalidRequest(field="unload", value=",".join(request.unload), allowed="each model once")
    running = {instance.id for instance in planning_state.instances}
    for instance_id in request.unload:
        if instance_id not in running:
            raise UnknownInstance(instance=instance_id)


def _refusal(placed: Placement, model: CachedModel, planning_state: PlanningState) -> WardenError | None:
    """The first thing that forbids the plan, in the order in which a person would want to hear it."""
    return (
        _unsuitable(placed.request, model, planning_state)
        or _already_loaded(placed.request, model, planning_state, anywhere=placed.anywhere)
        or _unreadable(placed, planning_state)
        or (None if placed.request.load_anyway else _too_large(placed, model))
        or _leased(placed)
        or _in_use(placed)
        or _unendable(placed)
        or _unconfirmed(placed)
    )


def _overruled(placed: Placement, model: CachedModel) -> tuple[Message, ...]:
    """What ``load_anyway`` passes over, said as a reason of its own: nothing where the memory does."""
    too_large = _too_large(placed, model) if placed.request.load_anyway else None
    return () if too_large is None else (Message("plan_load_anyway", too_large.message.params),)


def _unsuitable(request: SwitchRequest, model: CachedModel, planning_state: PlanningState) -> WardenError | None:
    if (why := planning_state.mode_problems.get(request.mode)) is not None:
        return ModeUnavailable(mode=request.mode.value, reason=why.code)
    if model.problem is not None:
        return ModelUnsuitable(model=model.id, reason=model.problem.code)
    if (invalid := _unquantizable(request, model) or _unshareable(request, model)) is not None:
        return invalid
    cooldown = planning_state.cooldowns.get(model.id)
    if cooldown is not None and cooldown.until > planning_state.monotonic:
        return CoolingDown(
            model=model.id, seconds=round(cooldown.until - planning_state.monotonic, 1), failures=cooldown.failures
        )
    return None


def may_ask(request: SwitchRequest, model: CachedModel) -> bool:
    """Return whether the options and devices of ``request`` can be meant for ``model``, whatever the memory."""
    return _unquantizable(request, model) is None and _unshareable(request, model) is None


def _unquantizable(request: SwitchRequest, model: CachedModel) -> WardenError | None:
    """Files that are quantized stay as they are; vLLM takes such files, and quantizes none by bitsandbytes while loading."""
    asked = request.options.quantization
    if asked is Quantization.NONE or (model.quantization is None and request.mode is not Mode.VLLM):
        return None
    allowed = Quantization.NONE.value if model.quantization is None else f"none ({model.quantization})"
    return InvalidRequest(field="quantization", value=asked.value, allowed=allowed)


def _unshareable(request: SwitchRequest, model: CachedModel) -> WardenError | None:
    """vLLM divides the attention heads evenly over the GPUs."""
    count = len(request.devices or ())
    if request.mode is not Mode.VLLM or can_share(model, count):
        return None
    numbers = ", ".join(str(n) for n in range(1, count) if can_share(model, n))
    heads = 0 if model.shape is None else model.shape.heads
    return InvalidRequest(field="devices", value=str(count), allowed=f"{numbers} ({heads} / N)")


def _already_loaded(
    request: SwitchRequest, model: CachedModel, planning_state: PlanningState, *, anywhere: bool
) -> WardenError | None:
    for instance in planning_state.instances:
        same = (instance.mode, instance.model_id, instance.revision, instance.options) == (
            request.mode,
            model.id,
            model.revision,
            request.options,
        )
        here = anywhere or set(instance.devices) == set(request.devices or ())
        if same and here and instance.state is InstanceState.READY:
            return AlreadyLoaded(model=model.id, instance=instance.id)
    return None


def _unreadable(placed: Placement, planning_state: PlanningState) -> WardenError | None:
    if not placed.devices:
        return DeviceUnreadable(device=None, age_s=None)
    for device in placed.devices:
        if device.free_before_bytes is None:
            age = (
                None if planning_state.sample is None else round(planning_state.now - planning_state.sample.taken_at, 1)
            )
            return DeviceUnreadable(device=device.device_id, age_s=age)
    return None


def _too_large(placed: Placement, model: CachedModel) -> WardenError | None:
    for device in placed.devices:
        if device.verdict is Verdict.REFUSED and device.available_bytes is not None:
            needed = device.footprint.required_bytes
            return NotEnoughMemory(
                model=model.id,
                device=device.device_id,
                needed_bytes=needed,
                free_bytes=device.available_bytes,
                reserve_bytes=device.reserve_bytes,
                missing_bytes=needed + device.reserve_bytes - device.available_bytes,
            )
    return None


def _leased(placed: Placement) -> WardenError | None:
    """Another person's lease that runs; what it says of a busy model is more than that it is busy."""
    for eviction in placed.unload:
        if eviction.lease_until is not None and eviction.is_foreign and eviction.is_kept_from(placed.request):
            return InstanceLeased(
                model=eviction.model_id,
                instance=eviction.instance_id,
                owner=eviction.owner,
                until=eviction.lease_until,
                reason=eviction.reason or None,
            )
    return None


def _in_use(placed: Placement) -> WardenError | None:
    for eviction in placed.unload:
        if eviction.in_flight != 0 and eviction.is_kept_from(placed.request):
            return InstanceInUse(
                model=eviction.model_id,
                instance=eviction.instance_id,
                in_flight=eviction.in_flight,
                owner=eviction.owner,
            )
    return None


def _unendable(placed: Placement) -> WardenError | None:
    """A model whose mode cannot be asked: it could be neither ended in order nor brought back if the launch fails."""
    for eviction in placed.unload:
        if eviction.is_unendable_for(placed.request) and eviction.no_return is not None:
            return CannotEnd(
                model=eviction.model_id,
                instance=eviction.instance_id,
                mode=eviction.mode.value,
                reason=eviction.no_return.code,
            )
    return None


def _no_returns(placed: Placement) -> Iterator[Message]:
    """What of the evicted would not come back, before anybody decides on it; what is refused for that is said by the refusal."""
    for eviction in placed.unload:
        if eviction.no_return is not None and not eviction.is_unendable_for(placed.request):
            yield Message("plan_no_return", {"model": eviction.model_id, "reason": eviction.no_return.code})


def _unconfirmed(placed: Placement) -> WardenError | None:
    """Other people's models that have to go and were not named."""
    evicted = [eviction for eviction in placed.unload if not eviction.is_confirmed_by(placed.request)]
    if not evicted:
        return None
    return ConfirmationNeeded(
        model=placed.request.model_id,
        models=", ".join(f"{eviction.model_id} ({eviction.owner})" for eviction in evicted),
        instances=",".join(eviction.instance_id for eviction in evicted),
    )


def _spread(placed: Placement, request: SwitchRequest, candidates: Candidates) -> Iterator[Message]:
    """Why several devices were chosen: the best single one is too small, or somebody's model or operation is in the way there."""
    if not placed.anywhere or len(placed.devices) < 2 or (alone := candidates.alone(request)) is None:
        return
    instead_of = candidates.place(request, alone)
    (device,) = instead_of.devices
    params: dict[str, Param] = {
        "count": len(placed.devices),
        "devices": ", ".join(placed.device_ids),
        "device": device.device_id,
    }
    if device.verdict is Verdict.REFUSED:
        params |= {"needed_bytes": device.footprint.required_bytes, "free_bytes": device.available_bytes}
        yield Message("plan_spread", params)
    elif _leased(instead_of) is not None:
        yield Message("plan_spread_leased", params)
    elif _unconfirmed(instead_of) is not None:
        yield Message("plan_spread_others", params)
    else:
        yield Message("plan_spread_in_use" if _in_use(instead_of) is not None else "plan_spread_claimed", params)


def _reasons(placed: Placement) -> Iterator[Message]:
    for device in placed.devices:
        if device.footprint.seen is not None:
            yield _seen(device.device_id, device.footprint.seen)
        if device.verdict is Verdict.REFUSED or device.available_bytes is None:
            continue
        params: dict[str, Param] = {
            "device": device.device_id,
            "needed_bytes": device.footprint.total_bytes,
            "free_bytes": device.available_bytes,
            "reserve_bytes": device.reserve_bytes,
        }
        yield Message(f"plan_{device.verdict}", params)
        if not device.footprint.exact:
            yield Message("plan_estimate_rough", {"device": device.device_id})
        if device.promised_bytes:
            yield Message("plan_promised", {"device": device.device_id, "promised_bytes": device.promised_bytes})


def _seen(device_id: str, seen: MeasuredSpread) -> Message:
    """How often the like was measured here; how far the figures lie apart is known from two on."""
    params: dict[str, Param] = {"device": device_id, "count": seen.count, "spread_percent": seen.spread_percent}
    if seen.same_options:
        return Message("plan_measured_once" if seen.count == 1 else "plan_measured", params)
    return Message("plan_measured_otherwise_once" if seen.count == 1 else "plan_measured_otherwise", params)


def _stuck(placed: Placement, planning_state: PlanningState) -> Iterator[Message]:
    for instance in planning_state.instances:
        shared = [device_id for device_id in instance.devices if device_id in placed.device_ids]
        if instance.state is InstanceState.STUCK and shared:
            held = sum(held_on(instance, device_id, planning_state) for device_id in shared)
            yield Message("plan_stuck_holds", {"model": instance.model_id, "held_bytes": held})


def _claimed(placed: Placement, planning_state: PlanningState) -> Iterator[Message]:
    """An operation that runs there does not change the arithmetic, and it has to end first."""
    for device_id in placed.device_ids:
        if (operation := planning_state.claims.get(device_id)) is not None:
            yield Message("plan_device_claimed", {"device": device_id, "operation": operation})


def _ways_out(
    request: SwitchRequest, refused: Placement, candidates: Candidates, actor: str | None
) -> tuple[WayOut, ...]:
    return find_alternatives(request, candidates.model, _FitProbe(refused, candidates), actor)


class _FitProbe:
    """Asks the plan's own arithmetic about changed requests; see ``alternatives.Trials``."""

    def __init__(self, refused: Placement, candidates: Candidates) -> None:
        self._refused, self._candidates, self._planning_state = refused, candidates, candidates.planning_state

    @property
    def unload(self) -> tuple[Eviction, ...]:
        """See ``Trials``."""
        return self._refused.unload

    def headrooms(self, request: SwitchRequest, reach: Reach) -> Sequence[Shortfall]:
        """See ``Trials``."""

        def asking(group: DeviceGroup) -> Shortfall:
            return lambda options: self._candidates.requirement(request, options).shortfall(group)

        return [asking(group) for group in self._candidates.open_to(request, reach)]

    def unloads(self, request: SwitchRequest) -> tuple[Eviction, ...] | None:
        """See ``Trials``."""
        requirement = self._candidates.requirement(request)
        if not any(requirement.holds(group) for group in self._candidates.open_to(request, Reach.IDLE)):
            return None
        group = self._candidates.chosen(request)
        return None if group is None or self._is_forbidden(request, group) else group.unload

    def _is_forbidden(self, request: SwitchRequest, group: DeviceGroup) -> bool:
        """Whether anything but the memory forbids it."""
        placed, model = replace(request, devices=group.device_ids), self._candidates.model
        return (
            group.is_kept_from(request)
            or _unsuitable(placed, model, self._planning_state) is not None
            or _already_loaded(placed, model, self._planning_state, anywhere=request.devices is None) is not None
        )

    def takes(self, request: SwitchRequest) -> int:
        """See ``Trials``."""
        group = self._candidates.chosen(request)
        return 0 if group is None else len(group.devices)

    def together(self, request: SwitchRequest, more_than: int) -> tuple[str, ...] | None:
        """See ``Trials``."""
        group = self._candidates.together(request, more_than)
        return None if group is None else group.device_ids

    def resting(self, request: SwitchRequest) -> tuple[Resting, ...]:
        """See ``Trials``."""
        asked = self._planning_state.device_ids if request.devices is None else request.devices
        return tuple(
            _resting(instance, self._planning_state)
            for instance in self._planning_state.instances
            if instance.state in ANSWERING and instance.id not in request.unload and set(instance.devices) & set(asked)
        )

    def missing(self, request: SwitchRequest, short: int) -> Iterable[Missing]:
        """See ``Trials``."""
        return self._candidates.missing(request, short)


def _resting(instance: Instance, planning_state: PlanningState) -> Resting:
    used_at = max(instance.started_at, instance.last_used_at or 0)
    return Resting(
        instance_id=instance.id,
        model_id=instance.model_id,
        owner=instance.owner,
        idle_s=max(0.0, planning_state.now - used_at),
        in_flight=instance.in_flight,
        gives_bytes={
            d: held_on(instance, d, planning_state) + promised_on(instance, d, planning_state) for d in instance.devices
        },
    )


def footprint_parts(plan: Plan) -> Mapping[str, Mapping[PartName, int]]:
    """Return the plan's needed bytes by device and part."""
    return {d.device_id: {part.name: part.bytes for part in d.footprint.parts} for d in plan.devices}
