"""Makes the plan of a switch: where, what has to go, whether it fits, and what would make it fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from webapp.domain.admission import Policy, judge, within_limit
from webapp.domain.footprint import Conditions, Footprint, PartName, Seen, estimate, in_whole_shares
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.learned import NOTHING_LEARNED, Lessons, corrected
from webapp.domain.memory import DeviceKind, Reading, Sample, instance_bytes
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode, Precision, Quantization
from webapp.domain.plan import DevicePlan, Eviction, Plan, SwitchRequest, Verdict, WayOut
from webapp.errors import (
    AlreadyLoaded,
    CoolingDown,
    DeviceUnreadable,
    InstanceInUse,
    InvalidRequest,
    ModelUnsuitable,
    ModeUnavailable,
    NotEnoughMemory,
    UnknownDevice,
    UnknownModel,
    WardenError,
)
from webapp.message import Message, Param

SMALLEST_TOKENS = 256
"""The shortest context that is offered as a way out."""


@dataclass(frozen=True)
class Cooldown:
    """After a failed load: how often it failed in a row, and until when (seconds since the epoch) it is not tried again."""

    failures: int
    until: float


@dataclass(frozen=True)
class World:
    """All that a plan depends on, at one moment."""

    now: float
    """Seconds since the epoch."""
    sample: Sample | None
    sample_is_stale: bool
    instances: tuple[Instance, ...]
    models: Mapping[str, CachedModel]
    policy: Policy
    mode_problems: Mapping[Mode, Message | None] = field(default_factory=dict)
    cooldowns: Mapping[str, Cooldown] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    lessons: Lessons = NOTHING_LEARNED

    @property
    def device_ids(self) -> tuple[str, ...]:
        """The devices that exist, read or not."""
        return () if self.sample is None else tuple(r.device_id for r in self.sample.readings)


def plan_switch(request: SwitchRequest, world: World) -> Plan:
    """Return what ``request`` would do in ``world``.

    What forbids it stands in ``Plan.refusal``; the rest of the plan is filled in all the same, so that a person sees the arithmetic.

    Raises:
        UnknownModel: the model is not in the cache.
        UnknownDevice: a named device does not exist.
        InvalidRequest: no device was named in a list of devices, or one twice.
    """
    model = world.models.get(request.model_id)
    if model is None:
        raise UnknownModel(model=request.model_id)
    _check_devices(request, world)
    capped, notes = _cap_context(request, model)
    placed = _best_placement(capped, model, world)
    refusal = _refusal(placed, model, world)
    reasons = (*notes, *_reasons(placed), *_stuck(placed, world), *_claimed(placed, world))
    ways_out = tuple(_ways_out(capped, model, world)) if isinstance(refusal, NotEnoughMemory) else ()
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
    )


@dataclass(frozen=True)
class Room:
    """The most that a launch may take on one device, in bytes; ``None`` where the device's memory is unknown."""

    device_id: str
    kind: DeviceKind
    usable_bytes: int
    """Total less the driver's reserve, as CUDA counts."""
    beside_bytes: int | None
    """Beside everything that is loaded."""
    alone_bytes: int | None
    """Once all that Warden has loaded there is unloaded."""
    device_name: str | None = None
    lessons: Lessons = NOTHING_LEARNED


def rooms(world: World, device_id: str | None = None) -> tuple[Room, ...]:
    """Return the room on every device, or on the one named; none where that does not exist."""
    return tuple(_room(_reading(world, known), world) for known in world.device_ids if device_id in (None, known))


def _room(reading: Reading, world: World) -> Room:
    nothing = Footprint(reading.device_id, ())
    evictions = _evictions((reading.device_id,), world)
    beside, alone = (_on_device(reading, nothing, unload, world) for unload in ((), evictions))
    return Room(
        reading.device_id, reading.kind, _usable(reading), _most(beside), _most(alone), reading.name, world.lessons
    )


def _most(device: DevicePlan) -> int | None:
    """What ``judge`` does not refuse."""
    return None if device.available_bytes is None else device.available_bytes - device.reserve_bytes


def needed_bytes(request: SwitchRequest, model: CachedModel, room: Room) -> int:
    """Return what ``request`` would take of ``model`` on the device of ``room``, as a plan counts it."""
    capped, _ = _cap_context(request, model)
    place = _Place(room.device_id, room.kind, room.usable_bytes, room.device_name)
    (footprint,) = _footprints(capped, model, [place], room.lessons)
    return footprint.gate_bytes


def refusal_of(plan: Plan, world: World) -> WardenError | None:
    """Return the error that ``plan.refusal`` states, to be raised by who was about to carry the plan out."""
    if plan.refusal is None:
        return None
    placed = _Placement(plan.request, plan.devices, plan.unload, plan.anywhere)
    return _refusal(placed, world.models[plan.request.model_id], world)


@dataclass(frozen=True)
class _Placement:
    """One choice of devices with its arithmetic."""

    request: SwitchRequest
    devices: tuple[DevicePlan, ...]
    unload: tuple[Eviction, ...]
    anywhere: bool
    """The person left the choice of the device to Warden."""

    @property
    def verdict(self) -> Verdict:
        verdicts = {device.verdict for device in self.devices}
        return next((v for v in (Verdict.REFUSED, Verdict.TIGHT) if v in verdicts), Verdict.FITS)

    @property
    def device_ids(self) -> tuple[str, ...]:
        return tuple(device.device_id for device in self.devices)


def _check_devices(request: SwitchRequest, world: World) -> None:
    if request.devices is None:
        return
    if not request.devices or len(set(request.devices)) != len(request.devices):
        raise InvalidRequest(field="devices", value=",".join(request.devices), allowed="each device once, at least one")
    known = world.device_ids
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


def _best_placement(request: SwitchRequest, model: CachedModel, world: World) -> _Placement:
    """Place on the named devices, or on the one that fits best.

    Not refused comes first, then a device that nobody has claimed and no model in use, then the verdict, fewest unloads, most left.
    """
    if request.devices is not None:
        return _place(request, request.devices, model, world)
    candidates = [_place(request, (device_id,), model, world) for device_id in world.device_ids]
    return min(candidates, key=lambda c: _rank(c, world), default=_Placement(request, (), (), anywhere=True))


def _rank(placement: _Placement, world: World) -> tuple[bool, bool, bool, bool, int, int]:
    claimed = any(device in world.claims for device in placement.device_ids)
    in_use = not placement.request.interrupt_busy and any(eviction.in_flight for eviction in placement.unload)
    refused, tight = placement.verdict is Verdict.REFUSED, placement.verdict is Verdict.TIGHT
    after = [d.free_after_bytes for d in placement.devices if d.free_after_bytes is not None]
    return refused, claimed, in_use, tight, len(placement.unload), -min(after, default=-(2**62))


def _place(request: SwitchRequest, device_ids: Sequence[str], model: CachedModel, world: World) -> _Placement:
    readings = [_reading(world, device_id) for device_id in device_ids]
    unload = () if request.keep_others else _evictions(device_ids, world)
    places = [_Place(reading.device_id, reading.kind, _usable(reading), reading.name) for reading in readings]
    footprints = _footprints(request, model, places, world.lessons)
    plans = tuple(_on_device(r, f, unload, world) for r, f in zip(readings, footprints, strict=True))
    placed = replace(request, devices=tuple(device_ids))
    return _Placement(placed, plans, unload, anywhere=request.devices is None)


@dataclass(frozen=True)
class _Place:
    """What a footprint depends on of a device."""

    device_id: str
    kind: DeviceKind
    usable_bytes: int
    name: str | None


def _footprints(
    request: SwitchRequest, model: CachedModel, places: Sequence[_Place], lessons: Lessons
) -> tuple[Footprint, ...]:
    """What the launch takes on each device, as earlier launches correct it; vLLM takes whole shares of GPUs."""
    usable, mode, options = [place.usable_bytes for place in places], request.mode, request.options
    on_gpus = all(place.kind is DeviceKind.GPU for place in places) and min(usable, default=0) > 0
    conditions = Conditions(device_memory_bytes=min(usable) if on_gpus else None)
    estimated = estimate(model, options, [(place.device_id, place.kind) for place in places], mode, conditions)
    kind = lessons.kind_of(model.id, model.revision, mode, options, [place.name for place in places])
    footprints = corrected(estimated, kind, lessons)
    return in_whole_shares(footprints, usable) if mode is Mode.VLLM and on_gpus else footprints


def _usable(reading: Reading) -> int:
    return (reading.total_bytes or 0) - (reading.reserved_bytes or 0)


def _reading(world: World, device_id: str) -> Reading:
    reading = None if world.sample is None else world.sample.reading(device_id)
    if reading is None:
        raise UnknownDevice(device=device_id, known=", ".join(world.device_ids))
    return reading


def _evictions(device_ids: Sequence[str], world: World) -> tuple[Eviction, ...]:
    """Every instance of ours that touches one of the devices goes; a dead one has nothing to give back and is cleared away.

    A stuck one stays: it survived every signal, and neighbours must not be unloaded time and again beside it.
    """
    return tuple(
        Eviction(
            instance_id=instance.id,
            model_id=instance.model_id,
            mode=instance.mode,
            owner=instance.owner,
            in_flight=instance.in_flight,
            freed_bytes={d: _held(instance, d, world) for d in instance.devices},
        )
        for instance in world.instances
        if set(instance.devices) & set(device_ids) and instance.state is not InstanceState.STUCK
    )


def _held(instance: Instance, device_id: str, world: World) -> int:
    """What an instance holds now: as the device says, else as measured or predicted."""
    reading = None if world.sample is None else world.sample.reading(device_id)
    now = None if reading is None else instance_bytes(reading, instance.id)
    return now or instance.held_bytes(device_id)


def _promised(instance: Instance, device_id: str, world: World) -> int:
    """What an instance that stays may still take: it was admitted for its prediction and begins with an empty KV cache."""
    if not instance.is_live or instance.state is InstanceState.STUCK:
        return 0
    return max(0, instance.predicted_bytes.get(device_id, 0) - _held(instance, device_id, world))


def _on_device(reading: Reading, footprint: Footprint, unload: Sequence[Eviction], world: World) -> DevicePlan:
    device_id, policy = reading.device_id, world.policy
    freed = sum(eviction.freed_bytes.get(device_id, 0) for eviction in unload)
    reserve = policy.reserve_on(reading.total_bytes or 0)
    if reading.free_bytes is None or world.sample_is_stale:
        return DevicePlan(device_id, footprint, reading.total_bytes, None, freed, None, reserve, Verdict.REFUSED)
    going = {eviction.instance_id for eviction in unload}
    own = sum(_held(i, device_id, world) for i in world.instances)
    promised = sum(_promised(i, device_id, world) for i in world.instances if i.id not in going)
    before = within_limit(reading.free_bytes, own, policy.memory_limit_bytes)
    free_then = min(reading.free_bytes + freed, max(_usable(reading), reading.free_bytes))
    available = within_limit(free_then, own - freed, policy.memory_limit_bytes) - promised
    return DevicePlan(
        device_id=device_id,
        footprint=footprint,
        total_bytes=reading.total_bytes,
        free_before_bytes=before,
        freed_bytes=available + promised - before,
        free_after_bytes=available - footprint.total_bytes,
        reserve_bytes=reserve,
        verdict=judge(footprint.gate_bytes, available, reserve, policy.fits_percent),
        promised_bytes=promised,
    )


def _refusal(placed: _Placement, model: CachedModel, world: World) -> WardenError | None:
    """The first thing that forbids the plan, in the order in which a person would want to hear it."""
    return (
        _unsuitable(placed.request, model, world)
        or _already_loaded(placed, model, world)
        or _unreadable(placed, world)
        or _too_large(placed, model)
        or _in_use(placed)
    )


def _unsuitable(request: SwitchRequest, model: CachedModel, world: World) -> WardenError | None:
    if (why := world.mode_problems.get(request.mode)) is not None:
        return ModeUnavailable(mode=request.mode.value, reason=why.code)
    if model.problem is not None:
        return ModelUnsuitable(model=model.id, reason=model.problem.code)
    if (invalid := _unquantizable(request, model) or _unshareable(request, model)) is not None:
        return invalid
    cooldown = world.cooldowns.get(model.id)
    if cooldown is not None and cooldown.until > world.now:
        return CoolingDown(model=model.id, seconds=round(cooldown.until - world.now, 1), failures=cooldown.failures)
    return None


def _unquantizable(request: SwitchRequest, model: CachedModel) -> WardenError | None:
    """Files that are quantized stay as they are; vLLM takes such files, and quantizes none by bitsandbytes while loading."""
    asked = request.options.quantization
    if asked is Quantization.NONE or (model.quantization is None and request.mode is not Mode.VLLM):
        return None
    allowed = Quantization.NONE.value if model.quantization is None else f"none ({model.quantization})"
    return InvalidRequest(field="quantization", value=asked.value, allowed=allowed)


def _unshareable(request: SwitchRequest, model: CachedModel) -> WardenError | None:
    """vLLM divides the attention heads evenly over the GPUs."""
    heads = None if model.shape is None else model.shape.heads
    count = len(request.devices or ())
    if request.mode is not Mode.VLLM or not heads or count < 2 or heads % count == 0:
        return None
    numbers = ", ".join(str(n) for n in range(1, count) if heads % n == 0)
    return InvalidRequest(field="devices", value=str(count), allowed=f"{numbers} ({heads} / N)")


def _already_loaded(placed: _Placement, model: CachedModel, world: World) -> WardenError | None:
    request = placed.request
    for instance in world.instances:
        same = (instance.mode, instance.model_id, instance.revision, instance.options) == (
            request.mode,
            model.id,
            model.revision,
            request.options,
        )
        here = placed.anywhere or set(instance.devices) == set(placed.device_ids)
        if same and here and instance.state is InstanceState.READY:
            return AlreadyLoaded(model=model.id, instance=instance.id)
    return None


def _unreadable(placed: _Placement, world: World) -> WardenError | None:
    if not placed.devices:
        return DeviceUnreadable(device=None, age_s=None)
    for device in placed.devices:
        if device.free_before_bytes is None:
            age = None if world.sample is None else round(world.now - world.sample.taken_at, 1)
            return DeviceUnreadable(device=device.device_id, age_s=age)
    return None


def _too_large(placed: _Placement, model: CachedModel) -> WardenError | None:
    for device in placed.devices:
        if device.verdict is Verdict.REFUSED and device.available_bytes is not None:
            needed = device.footprint.gate_bytes
            return NotEnoughMemory(
                model=model.id,
                device=device.device_id,
                needed_bytes=needed,
                free_bytes=device.available_bytes,
                reserve_bytes=device.reserve_bytes,
                missing_bytes=needed + device.reserve_bytes - device.available_bytes,
            )
    return None


def _in_use(placed: _Placement) -> WardenError | None:
    if placed.request.interrupt_busy:
        return None
    for eviction in placed.unload:
        if eviction.in_flight:
            return InstanceInUse(
                model=eviction.model_id,
                instance=eviction.instance_id,
                in_flight=eviction.in_flight,
                owner=eviction.owner,
            )
    return None


def _reasons(placed: _Placement) -> Iterator[Message]:
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


def _seen(device_id: str, seen: Seen) -> Message:
    """How often the like was measured here; how far the figures lie apart is known from two on."""
    params: dict[str, Param] = {"device": device_id, "count": seen.count, "spread_percent": seen.spread_percent}
    if seen.same_options:
        return Message("plan_measured_once" if seen.count == 1 else "plan_measured", params)
    return Message("plan_measured_otherwise_once" if seen.count == 1 else "plan_measured_otherwise", params)


def _stuck(placed: _Placement, world: World) -> Iterator[Message]:
    for instance in world.instances:
        shared = [device_id for device_id in instance.devices if device_id in placed.device_ids]
        if instance.state is InstanceState.STUCK and shared:
            held = sum(_held(instance, device_id, world) for device_id in shared)
            yield Message("plan_stuck_holds", {"model": instance.model_id, "held_bytes": held})


def _claimed(placed: _Placement, world: World) -> Iterator[Message]:
    """An operation that runs there does not change the arithmetic, and it has to end first."""
    for device_id in placed.device_ids:
        if (operation := world.claims.get(device_id)) is not None:
            yield Message("plan_device_claimed", {"device": device_id, "operation": operation})


def _ways_out(request: SwitchRequest, model: CachedModel, world: World) -> Iterator[WayOut]:
    """Changes that make it fit, cheapest for the person first; of one kind only the mildest."""
    offered: set[tuple[str, object]] = set()
    for message, changed in _changes(request, model):
        kind = (message.code, message.params.get("precision"))
        if kind in offered:
            continue
        placed = _best_placement(changed, model, world)
        if placed.verdict is not Verdict.REFUSED and _refusal(placed, model, world) is None:
            offered.add(kind)
            yield WayOut(message, changed)


def _changes(request: SwitchRequest, model: CachedModel) -> Iterator[tuple[Message, SwitchRequest]]:
    options = request.options
    if request.keep_others:
        yield Message("way_out_unload_others"), replace(request, keep_others=False)
    if request.devices is not None:
        yield Message("way_out_other_device"), replace(request, devices=None)
    if options.batch_size > 1:
        yield Message("way_out_batch", {"batch_size": 1}), _with(request, batch_size=1)
    for tokens in _shorter(options.max_tokens):
        yield Message("way_out_tokens", {"max_tokens": tokens}), _with(request, max_tokens=tokens)
    for precision in _lighter(request, model):
        lighter = {"dtype": precision.dtype, "quantization": precision.quantization}
        yield Message("way_out_precision", {"precision": precision.value}), _with(request, **lighter)
        smallest = min(SMALLEST_TOKENS * 2, options.max_tokens)
        if precision is Precision.INT4 and (options.batch_size > 1 or options.max_tokens > smallest):
            params: dict[str, Param] = {"precision": precision.value, "max_tokens": smallest, "batch_size": 1}
            yield (
                Message("way_out_smallest", params),
                _with(request, **lighter, max_tokens=smallest, batch_size=1),
            )


def _shorter(max_tokens: int) -> Iterator[int]:
    tokens = max_tokens // 2
    while tokens >= SMALLEST_TOKENS:
        yield tokens
        tokens //= 2


def _lighter(request: SwitchRequest, model: CachedModel) -> tuple[Precision, ...]:
    if request.mode is not Mode.TRANSFORMERS or model.quantization is not None:
        return ()
    choices = (Precision.FP16, Precision.INT8, Precision.INT4)
    current = request.options.precision
    if current in choices:
        return choices[choices.index(current) + 1 :]
    return choices if current is Precision.FP32 or model.dtype == "float32" else choices[1:]


def _with(request: SwitchRequest, **changes: object) -> SwitchRequest:
    options: LaunchOptions = replace(request.options, **changes)  # type: ignore[arg-type]
    return replace(request, options=options)


def footprint_parts(plan: Plan) -> Mapping[str, Mapping[PartName, int]]:
    """Return the plan's needed bytes by device and part."""
    return {d.device_id: {part.name: part.bytes for part in d.footprint.parts} for d in plan.devices}
