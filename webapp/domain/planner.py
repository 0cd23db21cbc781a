"""Makes the plan of a switch: where, what has to go, whether it fits, and what would make it fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from typing import NamedTuple

from webapp.domain.admission import Policy, judge, within_limit
from webapp.domain.footprint import Conditions, Footprint, Launch, PartName, Seen, in_whole_shares
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.learned import NOTHING_LEARNED, Lessons, corrected
from webapp.domain.memory import DeviceKind, Reading, Sample, instances_bytes
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode, Quantization
from webapp.domain.plan import DevicePlan, Eviction, Plan, SwitchRequest, Verdict, WayOut
from webapp.domain.sharing import can_share, counts
from webapp.domain.ways import Lacks, Missing, Resting, find_ways
from webapp.errors import (
    AlreadyLoaded,
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

_NEARLY = 0.9
"""The share of the room at which more GPUs are as good as fewer; see ``_outdoes``."""
ANSWERING = (InstanceState.READY, InstanceState.SILENT)
"""Models that somebody may be asked to give up: the others are on their way already, in one direction or the other."""


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
    actor: str | None = None
    """Who asks: what is another person's is kept from them. ``None`` is nobody in particular."""

    def seen_by(self, actor: str) -> World:
        """Return it as ``actor`` finds it."""
        return self if actor == self.actor else replace(self, actor=actor)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """The devices that exist, read or not."""
        return () if self.sample is None else tuple(r.device_id for r in self.sample.readings)

    @cached_property
    def held_bytes(self) -> Mapping[tuple[str, str], int]:
        """What an instance holds on a device of its own now, by both ids: as the device says, else as measured or predicted."""
        readings = () if self.sample is None else self.sample.readings
        said = {reading.device_id: instances_bytes(reading) for reading in readings}
        return {
            (instance.id, device_id): by_instance.get(instance.id) or instance.held_bytes(device_id)
            for device_id, by_instance in said.items()
            for instance in self.instances
            if device_id in instance.devices or instance.id in by_instance
        }

    @cached_property
    def own_bytes(self) -> Mapping[str, int]:
        """What all instances hold on a device now."""
        own: dict[str, int] = dict.fromkeys(self.device_ids, 0)
        for (_, device_id), held in self.held_bytes.items():
            own[device_id] += held
        return own

    @cached_property
    def promised_bytes(self) -> Mapping[str, Mapping[str, int]]:
        """What instances may still take if they stay, by device and instance; only where that is anything.

        One was admitted for its prediction and begins with an empty KV cache.
        """
        promised: dict[str, dict[str, int]] = {device_id: {} for device_id in self.device_ids}
        for (instance_id, device_id), held in self.held_bytes.items():
            more = self._still_taking.get(instance_id, {}).get(device_id, 0) - held
            if more > 0:
                promised[device_id][instance_id] = more
        return promised

    @cached_property
    def evictions(self) -> tuple[Eviction, ...]:
        """Everything that can go: a dead instance has nothing to give back and is cleared away.

        A stuck one stays: it survived every signal, and neighbours must not be unloaded time and again beside it.
        """
        return tuple(_eviction(i, self) for i in self.instances if i.state is not InstanceState.STUCK)

    @cached_property
    def evictions_from(self) -> Mapping[str, tuple[Eviction, ...]]:
        """What goes from each device, where nothing is to stay: everything of ours that touches it."""
        return {d: tuple(each for each in self.evictions if d in each.freed_bytes) for d in self.device_ids}

    @cached_property
    def found(self) -> dict[tuple[str, tuple[str, ...]], _Site]:
        """What there is on a device once some instances have gone, as ``_alone`` found it: many plans are tried on one world."""
        return {}

    @cached_property
    def _still_taking(self) -> Mapping[str, Mapping[str, int]]:
        growing = (i for i in self.instances if i.is_live and i.state is not InstanceState.STUCK)
        return {instance.id: instance.predicted_bytes for instance in growing}


def plan_switch(request: SwitchRequest, world: World, actor: str | None = None, *, with_ways_out: bool = True) -> Plan:
    """Return what ``request`` of ``actor`` would do in ``world``; the ways out of a lack of memory take most of the time.

    What forbids it stands in ``Plan.refusal``; the rest of the plan is filled in all the same, so that a person sees the arithmetic.

    Raises:
        UnknownModel: the model is not in the cache.
        UnknownDevice: a named device does not exist.
        UnknownInstance: a model that is to go does not run.
        InvalidRequest: no device was named in a list of devices, or one twice; or a model that is to go twice.
    """
    model = world.models.get(request.model_id)
    if model is None:
        raise UnknownModel(model=request.model_id)
    world = world if actor is None else world.seen_by(actor)
    _check_devices(request, world)
    _check_unload(request, world)
    capped, notes = _cap_context(request, model)
    sites = _Sites(model, world)
    placed = sites.best(capped)
    refusal, overruled = _refusal(placed, model, world), _overruled(placed, model)
    reasons = (
        *notes,
        *overruled,
        *_spread(placed, capped, sites),
        *_reasons(placed),
        *_stuck(placed, world),
        *_claimed(placed, world),
    )
    looked_for = with_ways_out and isinstance(refusal, NotEnoughMemory)
    ways_out = _ways_out(capped, placed, sites, actor) if looked_for else ()
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
    beside, alone = (
        _most(_alone(reading, unload, world).devices[0]) for unload in ((), world.evictions_from[reading.device_id])
    )
    return Room(reading.device_id, reading.kind, _usable(reading), beside, alone, reading.name, world.lessons)


def _most(device: DevicePlan) -> int | None:
    """What ``judge`` does not refuse."""
    return None if device.available_bytes is None else device.available_bytes - device.reserve_bytes


def needed_bytes(request: SwitchRequest, model: CachedModel, rooms: Sequence[Room]) -> tuple[int, ...]:
    """Return what ``request`` would take of ``model`` on each of the devices of ``rooms`` together, as a plan counts it."""
    capped, _ = _cap_context(request, model)
    places = [_Place(room.kind, room.device_name, room.usable_bytes) for room in rooms]
    return tuple(
        footprint.gate_bytes for footprint in _Demand(capped.mode, capped.options, model, rooms[0].lessons).over(places)
    )


def footprints_on(
    devices: Sequence[str], request: SwitchRequest, model: CachedModel, sample: Sample | None, lessons: Lessons
) -> tuple[Footprint, ...]:
    """Return what ``request`` takes on ``devices``, as a plan counts it; of a device that is not in the sample only the kind is known."""
    footprints = _Demand(request.mode, request.options, model, lessons).over(
        [_place(device_id, sample) for device_id in devices]
    )
    return tuple(footprint.on(device_id) for footprint, device_id in zip(footprints, devices, strict=True))


def _place(device_id: str, sample: Sample | None) -> _Place:
    reading = None if sample is None else sample.reading(device_id)
    return _Place(DeviceKind(device_id.partition("-")[0]), None, 0) if reading is None else _place_of(reading)


def refusal_of(plan: Plan, world: World) -> WardenError | None:
    """Return the error that ``plan.refusal`` states, to be raised by who was about to carry the plan out."""
    if plan.refusal is None:
        return None
    placed = _Placement(plan.request, plan.devices, plan.unload, plan.anywhere)
    return _refusal(placed, world.models[plan.request.model_id], world)


class Openings:
    """Tells of forms of one request, by the plan's own arithmetic, whether they would fit anywhere it may go."""

    def __init__(self, request: SwitchRequest, model: CachedModel, world: World) -> None:
        """Raise UnknownDevice, UnknownInstance, InvalidRequest."""
        _check_devices(request, world)
        _check_unload(request, world)
        self._model, self._sites = model, _Sites(model, world)
        self._readable = tuple(site for site in self._sites.of(request) if site.is_readable)
        all_kept = not self._sites.open_to(request)
        self.request = replace(request, interrupt_busy=True, override_reason="") if all_kept else request
        """What is asked about. Where a model that must stay is everywhere the memory is told of all the same."""

    @property
    def free_bytes(self) -> int | None:
        """The most that the launch would find on one device, or on each of those that are named; ``None`` is unknown."""
        least = [min(device.available_bytes or 0 for device in site.devices) for site in self._readable]
        return max(least, default=None)

    def fits(self, request: SwitchRequest) -> bool:
        """Return whether ``request``, another form of the one in question, would not be refused for its memory or its options."""
        if _unquantizable(request, self._model) or _unshareable(request, self._model):
            return False
        demand = self._sites.demand(request)
        return any(demand.holds(site) for site in self._sites.open_to(request))

    def lacks(self, request: SwitchRequest) -> tuple[int, int, int]:
        """Return the bytes that ``request`` needs on a device, its reserve, and those that lack there; of the choices where least lacks."""
        demand, sites = self._sites.demand(request), self._sites.open_to(request) or self._readable
        found = [
            (_lacking((footprint, device)), footprint.gate_bytes, device.reserve_bytes)
            for site in sites
            for footprint, device in [max(demand.on(site), key=_lacking)]
        ]
        missing, needed, reserve = min(found)
        return needed, reserve, missing


def _lacking(pair: tuple[Footprint, DevicePlan]) -> int:
    footprint, device = pair
    return footprint.gate_bytes - (_most(device) or 0)


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


def _check_unload(request: SwitchRequest, world: World) -> None:
    if len(set(request.unload)) != len(request.unload):
        raise InvalidRequest(field="unload", value=",".join(request.unload), allowed="each model once")
    running = {instance.id for instance in world.instances}
    for instance_id in request.unload:
        if instance_id not in running:
            raise UnknownInstance(instance=instance_id)


class _Place(NamedTuple):
    """What a footprint depends on of a device."""

    kind: DeviceKind
    name: str | None
    usable_bytes: int


@dataclass(frozen=True, eq=False)
class _Site:
    """One choice of devices as a launch finds it, once what goes there is gone."""

    devices: tuple[DevicePlan, ...]
    """Their arithmetic before anything is launched."""
    rooms: tuple[int, ...]
    """The most that a launch may take on each; 0 where the memory is unknown."""
    places: tuple[_Place, ...]
    unsized: tuple[_Place, ...]
    """The places, however large they are."""
    unload: tuple[Eviction, ...]

    @cached_property
    def device_ids(self) -> tuple[str, ...]:
        return tuple(device.device_id for device in self.devices)

    @cached_property
    def narrowest(self) -> int:
        return min(self.rooms)

    @cached_property
    def is_readable(self) -> bool:
        return all(device.available_bytes is not None for device in self.devices)

    def is_kept_from(self, request: SwitchRequest) -> bool:
        """Whether a model is there that ``request`` must not unload."""
        return any(eviction.is_kept_from(request) for eviction in self.unload)


class _Demand:
    """What a model takes with one set of options in one mode, wherever that is asked; each figure is worked out once."""

    def __init__(self, mode: Mode, options: LaunchOptions, model: CachedModel, lessons: Lessons) -> None:
        self._mode, self._options, self._model, self._lessons = mode, options, model, lessons
        self._launches: dict[tuple[Conditions, bool], Launch] = {}
        self._known: dict[tuple[_Place, ...], tuple[Footprint, ...]] = {}

    def places(self, site: _Site) -> tuple[_Place, ...]:
        """Return what the footprints depend on; only vLLM asks how large the devices are."""
        return site.places if self._mode is Mode.VLLM else site.unsized

    def footprints(self, site: _Site) -> tuple[Footprint, ...]:
        """Return what the launch takes there, as earlier launches correct it; equal devices have the same, which names none of them."""
        places = self.places(site)
        if places not in self._known:
            self._known[places] = self.over(places)
        return self._known[places]

    def over(self, places: Sequence[_Place]) -> tuple[Footprint, ...]:
        """Return the footprints on such devices; vLLM takes whole shares of GPUs."""
        unlike = tuple(dict.fromkeys(places))
        launch = self._launch(unlike)
        estimated = tuple(launch.share_on(place.kind, len(places)) for place in unlike)
        names = [place.name for place in places]
        kind = self._lessons.kind_of(self._model.id, self._model.revision, self._mode, self._options, names)
        footprints = corrected(estimated, kind, self._lessons)
        if self._mode is Mode.VLLM and launch.conditions.device_memory_bytes:
            footprints = in_whole_shares(footprints, [place.usable_bytes for place in unlike])
        of_place = dict(zip(unlike, footprints, strict=True))
        return tuple(of_place[place] for place in places)

    def _launch(self, places: Sequence[_Place]) -> Launch:
        on_host = any(place.kind is DeviceKind.HOST for place in places)
        usable = min(place.usable_bytes for place in places)
        conditions = Conditions() if on_host or usable <= 0 else Conditions(usable, places[0].name or "")
        if (conditions, on_host) not in self._launches:
            launch = Launch(self._model, self._options, self._mode, conditions, on_host=on_host)
            self._launches[conditions, on_host] = launch
        return self._launches[conditions, on_host]

    def on(self, site: _Site) -> Iterator[tuple[Footprint, DevicePlan]]:
        """Return what the launch takes on each device, and the device."""
        return zip(self.footprints(site), site.devices, strict=True)

    def holds(self, site: _Site) -> bool:
        """Return whether the memory of a choice would do."""
        return self.lacks(site) <= 0

    def roomy(self, sites: Iterable[_Site]) -> list[_Site]:
        """Return those choices whose memory would do."""
        return [site for site in sites if self.holds(site)]

    def lacks(self, site: _Site) -> int:
        """Return the bytes that lack where most do, 0 or less where the memory would do; of a site that is far too small at the least."""
        if (least := self.least_bytes(len(site.devices)) - site.narrowest) > 0:
            return least
        return max(self.lacks_on_each(site))

    def lacks_on_each(self, site: _Site) -> Iterator[int]:
        """Return the bytes that lack on each device, 0 or less where its memory would do."""
        return (f.gate_bytes - room for f, room in zip(self.footprints(site), site.rooms, strict=True))

    def least_bytes(self, count: int) -> int:
        """See ``Launch``."""
        return self._anywhere.least_bytes(count)

    @cached_property
    def _anywhere(self) -> Launch:
        return self._launch([_Place(DeviceKind.GPU, None, 0)])


class _Pool:
    """GPUs of which a launch may take several."""

    def __init__(self, gpus: Sequence[_Site], world: World) -> None:
        self.gpus, self._world = gpus, world
        self._roomiest: dict[int, tuple[_Site, ...]] = {}

    def roomiest(self, count: int) -> tuple[_Site, ...]:
        """Return of each mixture of ``count`` like and unlike GPUs those with the most room: where these do not do, none do."""
        if count not in self._roomiest:
            self._roomiest[count] = tuple(self._mixtures(count))
        return self._roomiest[count]

    def _mixtures(self, count: int) -> Iterator[_Site]:
        for shares in product(*(range(min(len(like), count) + 1) for like in self._alike)):
            if sum(shares) == count:
                yield self.joined([gpu for like, n in zip(self._alike, shares, strict=True) for gpu in like[:n]])

    @cached_property
    def _alike(self) -> Sequence[Sequence[_Site]]:
        """Those that are alike, the most room first."""
        alike: dict[tuple[_Place, ...], list[_Site]] = {}
        for gpu in sorted(self.gpus, key=lambda gpu: -gpu.narrowest):
            alike.setdefault(gpu.places, []).append(gpu)
        return tuple(alike.values())

    def joined(self, gpus: Iterable[_Site]) -> _Site:
        """Return some of them taken together, in the order in which they stand here."""
        return _joined(sorted(gpus, key=self.gpus.index), self._world)

    def combinations(self, count: int) -> Iterator[_Site]:
        """Return every ``count`` of them."""
        return (_joined(gpus, self._world) for gpus in combinations(self.gpus, count))

    @cached_property
    def is_plain(self) -> bool:
        """They are all alike, and nobody has to go from several of them at once."""
        spanning = any(len(eviction.freed_bytes) > 1 for gpu in self.gpus for eviction in gpu.unload)
        return len(self._alike) <= 1 and not spanning

    @cached_property
    def is_untouched(self) -> bool:
        """Nobody has to go from any of them, and no operation runs there."""
        return not any(gpu.unload or _is_claimed(gpu, self._world) for gpu in self.gpus)


class _Sites:
    """The choices of devices that a request and its changed forms may mean, each worked out once."""

    def __init__(self, model: CachedModel, world: World) -> None:
        self.model, self.world = model, world
        self._singles: dict[tuple[object, ...], tuple[_Site, ...]] = {}
        self._joint: dict[tuple[object, ...], _Site] = {}
        self._open: dict[tuple[object, ...], tuple[_Site, ...]] = {}
        self._pools: dict[tuple[_Site, ...], _Pool] = {}
        self._demands: dict[tuple[Mode, LaunchOptions], _Demand] = {}

    def best(self, request: SwitchRequest) -> _Placement:
        """Place on the named devices, or on those that cost people least; where none have the room, on the single one that is best."""
        site = self.chosen(request) or self.alone(request)
        return _Placement(request, (), (), anywhere=True) if site is None else self.place(request, site)

    def chosen(self, request: SwitchRequest) -> _Site | None:
        """Return the devices that have the room and cost people least; ``None`` where none have it.

        A device that is not claimed comes first, no model that must stay, the verdict, fewest unloads, most left. Several are taken where
        no single one would do at once.
        """
        demand = self.demand(request)
        alone = self._best(demand.roomy(self.of(request)), request)
        if request.devices is not None or (alone is not None and not any(self._standing(alone, request))):
            return alone
        together = self.together(request)
        if alone is None or together is None:
            return together or alone
        return together if self._spares(together, alone, request) else alone

    def alone(self, request: SwitchRequest) -> _Site | None:
        """Return the best of the choices that need no other device; first those that have the room."""
        demand, sites = self.demand(request), self.of(request)
        return self._best(demand.roomy(sites) or sites, request)

    def _best(self, sites: Sequence[_Site], request: SwitchRequest) -> _Site | None:
        return min(sites, key=lambda site: self._rank(request, site), default=None)

    def together(self, request: SwitchRequest, more_than: int = 1) -> _Site | None:
        """Return the several GPUs that have the room and cost people least; ``None`` where no several have."""
        return min(self._roomy(request, more_than), key=lambda s: self._reluctance(request, s), default=None)

    def demand(self, request: SwitchRequest, options: LaunchOptions | None = None) -> _Demand:
        """Return what ``request`` takes, or would take with other options."""
        key = (request.mode, options or request.options)
        if key not in self._demands:
            self._demands[key] = _Demand(*key, self.model, self.world.lessons)
        return self._demands[key]

    def of(self, request: SwitchRequest) -> tuple[_Site, ...]:
        """Return the named devices as one choice, or each of those that are chosen among: never the host beside GPUs."""
        return self._each(request) if request.devices is None else (self._named(request.devices, request),)

    def _each(self, request: SwitchRequest) -> tuple[_Site, ...]:
        """Every device that may be chosen, by itself, whatever devices were named."""
        key = (request.keep_others, request.unload)
        if key not in self._singles:
            self._singles[key] = tuple(self._single(reading, request) for reading in self._automatic)
        return self._singles[key]

    def _named(self, devices: tuple[str, ...], request: SwitchRequest) -> _Site:
        key = (devices, request.keep_others, request.unload)
        if key not in self._joint:
            readings = [_reading(self.world, device_id) for device_id in devices]
            self._joint[key] = _joined([self._single(reading, request) for reading in readings], self.world)
        return self._joint[key]

    @cached_property
    def _automatic(self) -> Sequence[Reading]:
        readings = () if self.world.sample is None else self.world.sample.readings
        return [r for r in readings if r.kind is DeviceKind.GPU] or readings

    def _single(self, reading: Reading, request: SwitchRequest) -> _Site:
        unload = self.world.evictions_from[reading.device_id]
        if request.keep_others:
            unload = tuple(eviction for eviction in unload if eviction.instance_id in request.unload)
        return _alone(reading, unload, self.world)

    def open_to(self, request: SwitchRequest) -> tuple[_Site, ...]:
        """Return the choices that can be read and where no model is in use, or another person's, that must stay, the most room first.

        Of choices that differ in nothing but their room, the one with the most stands for all.
        """
        will = (request.interrupt_busy, request.override_reason)
        key = (request.mode, request.devices, request.keep_others, request.unload, will)
        if key not in self._open:
            self._open[key] = self._open_to(request)
        return self._open[key]

    def _open_to(self, request: SwitchRequest) -> tuple[_Site, ...]:
        is_open = [s for s in self.of(request) if s.is_readable and not s.is_kept_from(request)]
        demand, best = self.demand(request), dict[tuple[_Place, ...], _Site]()
        for site in is_open:
            places = demand.places(site)
            if places not in best or site.narrowest > best[places].narrowest:
                best[places] = site
        pool = self._pool([] if request.devices is not None else is_open)
        together = [s for n in self._counts(request, pool) for s in pool.roomiest(n)]
        found = (*best.values(), *(s for s in together if not any(_outdoes(other, s) for other in together)))
        return tuple(sorted(found, key=lambda site: -site.narrowest * len(site.devices)))

    def _pool(self, sites: Iterable[_Site]) -> _Pool:
        """Return the GPUs among single devices."""
        gpus = tuple(site for site in sites if site.places[0].kind is DeviceKind.GPU)
        if gpus not in self._pools:
            self._pools[gpus] = _Pool(gpus, self.world)
        return self._pools[gpus]

    def _counts(self, request: SwitchRequest, pool: _Pool) -> tuple[int, ...]:
        return counts(request.mode, self.model, len(pool.gpus))

    def _roomy(self, request: SwitchRequest, more_than: int) -> Iterator[_Site]:
        """Every several GPUs that have the room; not more of them than do where nobody has to wait or go."""
        pool, demand = self._pool(site for site in self._each(request) if site.is_readable), self.demand(request)
        for count in self._counts(request, pool):
            if count <= more_than or not any(demand.holds(site) for site in pool.roomiest(count)):
                continue
            found = demand.roomy(self._choices(request, pool, count))
            yield from found
            if any(not site.unload and not _is_claimed(site, self.world) for site in found):
                return

    def _choices(self, request: SwitchRequest, pool: _Pool, count: int) -> Iterator[_Site]:
        """Every ``count`` of the GPUs; of GPUs that are all alike those only that may cost people least (see ``_reluctance``)."""
        if not pool.is_plain:
            yield from pool.combinations(count)
            return
        (widest,) = pool.roomiest(count)
        if pool.is_untouched:
            yield widest
            return
        share = max(footprint.gate_bytes for footprint in self.demand(request).footprints(widest))
        roomy = sorted((s for s in pool.gpus if s.narrowest >= share), key=lambda s: (len(s.unload), -s.narrowest))
        claimed = [site for site in roomy if _is_claimed(site, self.world)]
        kept = [site for site in roomy if site.is_kept_from(request)]
        for spared in dict.fromkeys(map(frozenset, ([*claimed, *kept], claimed, kept, []))):
            easiest = [site for site in roomy if site not in spared][:count]
            if len(easiest) == count:
                yield pool.joined(easiest)

    def missing(self, request: SwitchRequest, short: int) -> Iterator[Missing]:
        """See ``Trials``; of a mixture of GPUs the one that needs least stands for all."""
        demand, sites = self.demand(request), [site for site in self.of(request) if site.is_readable]
        if request.devices is not None:
            yield from (Missing(len(s.devices), _lacks(demand, s)) for s in sites)
            return
        yield Missing(1, {d: lacks for site in sites for d, lacks in _lacks(demand, site).items()})
        pool = self._pool(sites)
        for count in self._counts(request, pool):
            least = demand.least_bytes(count)
            if sum(least <= site.narrowest for site in pool.gpus) + short >= count:
                needs = min(f.gate_bytes for mixture in pool.roomiest(count) for f in demand.footprints(mixture))
                yield Missing(count, {site.device_ids[0]: needs - site.narrowest for site in pool.gpus})

    def _standing(self, site: _Site, request: SwitchRequest) -> tuple[bool, bool]:
        return _is_claimed(site, self.world), site.is_kept_from(request)

    def _spares(self, together: _Site, alone: _Site, request: SwitchRequest) -> bool:
        """Whether somebody waits or goes for the single device and nobody in that way for the several."""
        several, single = self._standing(together, request), self._standing(alone, request)
        return several != single and all(one <= other for one, other in zip(several, single, strict=True))

    def _rank(self, request: SwitchRequest, site: _Site) -> tuple[object, ...]:
        """What a choice costs people where nothing is added to it: who waits, who goes; then how well it suits."""
        demand = self.demand(request)
        tight = demand.holds(site) and self._is_tight(demand, site)
        after = [d.available_bytes - f.total_bytes for f, d in demand.on(site) if d.available_bytes is not None]
        return *self._standing(site, request), tight, len(site.unload), -min(after, default=-(2**62))

    def _reluctance(self, request: SwitchRequest, site: _Site) -> tuple[object, ...]:
        """What several GPUs that have the room cost people: who waits, who goes, how many are taken; then how well they suit."""
        demand = self.demand(request)
        mixed = request.mode is Mode.VLLM and len({*site.places}) > 1
        how_many = len(site.unload), len(site.devices)
        return *self._standing(site, request), *how_many, self._is_tight(demand, site), mixed, demand.lacks(site)

    def _is_tight(self, demand: _Demand, site: _Site) -> bool:
        percent = self.world.policy.fits_percent
        return any(f.gate_bytes > (d.available_bytes or 0) * percent / 100 for f, d in demand.on(site))

    def place(self, request: SwitchRequest, site: _Site) -> _Placement:
        """Return the arithmetic with the launch on these devices."""
        percent = self.world.policy.fits_percent
        plans = tuple(_launched(device, footprint, percent) for footprint, device in self.demand(request).on(site))
        placed = replace(request, devices=site.device_ids)
        return _Placement(placed, plans, site.unload, anywhere=request.devices is None)


def _lacks(demand: _Demand, site: _Site) -> Mapping[str, int]:
    return dict(zip(site.device_ids, demand.lacks_on_each(site), strict=True))


def _is_claimed(site: _Site, world: World) -> bool:
    return any(device_id in world.claims for device_id in site.device_ids)


def _joined(sites: Sequence[_Site], world: World) -> _Site:
    """Single devices taken together: what each has does not depend on the others, since all that touches it goes from it anyway."""
    going = {eviction.instance_id for site in sites for eviction in site.unload}
    return _Site(
        devices=tuple(site.devices[0] for site in sites),
        rooms=tuple(site.rooms[0] for site in sites),
        places=tuple(site.places[0] for site in sites),
        unsized=tuple(site.unsized[0] for site in sites),
        unload=tuple(eviction for eviction in world.evictions if eviction.instance_id in going),
    )


def _outdoes(other: _Site, site: _Site) -> bool:
    """More of the same GPUs, each with nearly as much room: a share is smaller there by more than that.

    Not so where nearly all of a share is what each GPU takes anyway; a way out over fewer GPUs may then go unseen, never a plan.
    """
    nearly_as_roomy = len(other.devices) > len(site.devices) and other.narrowest >= _NEARLY * site.narrowest
    return nearly_as_roomy and len({*other.places, *site.places}) == 1


def _place_of(reading: Reading) -> _Place:
    return _Place(reading.kind, reading.name, _usable(reading))


def _usable(reading: Reading) -> int:
    return (reading.total_bytes or 0) - (reading.reserved_bytes or 0)


def _reading(world: World, device_id: str) -> Reading:
    reading = None if world.sample is None else world.sample.reading(device_id)
    if reading is None:
        raise UnknownDevice(device=device_id, known=", ".join(world.device_ids))
    return reading


def _eviction(instance: Instance, world: World) -> Eviction:
    return Eviction(
        instance_id=instance.id,
        model_id=instance.model_id,
        mode=instance.mode,
        owner=instance.owner,
        in_flight=instance.in_flight,
        freed_bytes={d: _held(instance, d, world) for d in instance.devices},
        is_foreign=instance.is_live and instance.is_foreign_to(world.actor),
        lease_until=instance.lease.until if instance.lease.runs(world.now) else None,
        reason=instance.lease.reason,
    )


def _held(instance: Instance, device_id: str, world: World) -> int:
    """What an instance holds now; of a device that is not there only what is known of the instance."""
    held = world.held_bytes.get((instance.id, device_id))
    return instance.held_bytes(device_id) if held is None else held


def _promised(instance: Instance, device_id: str, world: World) -> int:
    return world.promised_bytes.get(device_id, {}).get(instance.id, 0)


def _alone(reading: Reading, unload: tuple[Eviction, ...], world: World) -> _Site:
    """A device as a launch finds it once ``unload``, which all touches it, is gone."""
    key = (reading.device_id, tuple(eviction.instance_id for eviction in unload))
    if key not in world.found:
        device, place = _once_gone(reading, unload, world), _place_of(reading)
        unsized = place._replace(usable_bytes=0)
        world.found[key] = _Site((device,), (_most(device) or 0,), (place,), (unsized,), unload)
    return world.found[key]


def _once_gone(reading: Reading, unload: Sequence[Eviction], world: World) -> DevicePlan:
    device_id, policy, nothing = reading.device_id, world.policy, Footprint(reading.device_id, ())
    freed = sum(eviction.freed_bytes.get(device_id, 0) for eviction in unload)
    reserve = policy.reserve_on(reading.total_bytes or 0)
    if reading.free_bytes is None or world.sample_is_stale:
        return DevicePlan(device_id, nothing, reading.total_bytes, None, freed, None, reserve, Verdict.REFUSED)
    going = {eviction.instance_id for eviction in unload}
    own = world.own_bytes[device_id]
    promised = sum(more for instance_id, more in world.promised_bytes[device_id].items() if instance_id not in going)
    before = within_limit(reading.free_bytes, own, policy.memory_limit_bytes)
    free_then = min(reading.free_bytes + freed, max(_usable(reading), reading.free_bytes))
    available = within_limit(free_then, own - freed, policy.memory_limit_bytes) - promised
    return DevicePlan(
        device_id=device_id,
        footprint=nothing,
        total_bytes=reading.total_bytes,
        free_before_bytes=before,
        freed_bytes=available + promised - before,
        free_after_bytes=available,
        reserve_bytes=reserve,
        verdict=judge(0, available, reserve, policy.fits_percent),
        promised_bytes=promised,
    )


def _launched(device: DevicePlan, footprint: Footprint, fits_percent: float) -> DevicePlan:
    """The device with ``footprint`` on it, which is told whose it is."""
    available, named = device.available_bytes, footprint.on(device.device_id)
    if available is None:
        return replace(device, footprint=named)
    return replace(
        device,
        footprint=named,
        free_after_bytes=available - footprint.total_bytes,
        verdict=judge(footprint.gate_bytes, available, device.reserve_bytes, fits_percent),
    )


def _refusal(placed: _Placement, model: CachedModel, world: World) -> WardenError | None:
    """The first thing that forbids the plan, in the order in which a person would want to hear it."""
    return (
        _unsuitable(placed.request, model, world)
        or _already_loaded(placed.request, model, world, anywhere=placed.anywhere)
        or _unreadable(placed, world)
        or (None if placed.request.load_anyway else _too_large(placed, model))
        or _leased(placed)
        or _in_use(placed)
    )


def _overruled(placed: _Placement, model: CachedModel) -> tuple[Message, ...]:
    """What ``load_anyway`` passes over, said as a reason of its own: nothing where the memory does."""
    too_large = _too_large(placed, model) if placed.request.load_anyway else None
    return () if too_large is None else (Message("plan_load_anyway", too_large.message.params),)


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
    count = len(request.devices or ())
    if request.mode is not Mode.VLLM or can_share(model, count):
        return None
    numbers = ", ".join(str(n) for n in range(1, count) if can_share(model, n))
    heads = 0 if model.shape is None else model.shape.heads
    return InvalidRequest(field="devices", value=str(count), allowed=f"{numbers} ({heads} / N)")


def _already_loaded(request: SwitchRequest, model: CachedModel, world: World, *, anywhere: bool) -> WardenError | None:
    for instance in world.instances:
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


def _leased(placed: _Placement) -> WardenError | None:
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


def _in_use(placed: _Placement) -> WardenError | None:
    for eviction in placed.unload:
        if eviction.in_flight and eviction.is_kept_from(placed.request):
            return InstanceInUse(
                model=eviction.model_id,
                instance=eviction.instance_id,
                in_flight=eviction.in_flight,
                owner=eviction.owner,
            )
    return None


def _spread(placed: _Placement, request: SwitchRequest, sites: _Sites) -> Iterator[Message]:
    """Why several devices were chosen: the best single one is too small, or somebody's model or operation is in the way there."""
    if not placed.anywhere or len(placed.devices) < 2 or (alone := sites.alone(request)) is None:
        return
    instead_of = sites.place(request, alone)
    (device,) = instead_of.devices
    params: dict[str, Param] = {
        "count": len(placed.devices),
        "devices": ", ".join(placed.device_ids),
        "device": device.device_id,
    }
    if device.verdict is Verdict.REFUSED:
        params |= {"needed_bytes": device.footprint.gate_bytes, "free_bytes": device.available_bytes}
        yield Message("plan_spread", params)
    elif _leased(instead_of) is not None:
        yield Message("plan_spread_leased", params)
    else:
        yield Message("plan_spread_in_use" if _in_use(instead_of) is not None else "plan_spread_claimed", params)


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


def _ways_out(request: SwitchRequest, refused: _Placement, sites: _Sites, actor: str | None) -> tuple[WayOut, ...]:
    return find_ways(request, sites.model, _Trials(refused, sites), actor)


class _Trials:
    """Asks the plan's own arithmetic about changed requests; see ``ways.Trials``."""

    def __init__(self, refused: _Placement, sites: _Sites) -> None:
        self._refused, self._sites, self._world = refused, sites, sites.world

    @property
    def unload(self) -> tuple[Eviction, ...]:
        """See ``Trials``."""
        return self._refused.unload

    def rooms(self, request: SwitchRequest) -> Sequence[Lacks]:
        """See ``Trials``."""

        def asking(site: _Site) -> Lacks:
            return lambda options: self._sites.demand(request, options).lacks(site)

        return [asking(site) for site in self._sites.open_to(request)]

    def unloads(self, request: SwitchRequest) -> tuple[Eviction, ...] | None:
        """See ``Trials``."""
        demand = self._sites.demand(request)
        if not any(demand.holds(site) for site in self._sites.open_to(request)):
            return None
        site = self._sites.chosen(request)
        return None if site is None or self._is_forbidden(request, site) else site.unload

    def _is_forbidden(self, request: SwitchRequest, site: _Site) -> bool:
        """Whether anything but the memory forbids it."""
        placed, model = replace(request, devices=site.device_ids), self._sites.model
        return (
            site.is_kept_from(request)
            or _unsuitable(placed, model, self._world) is not None
            or _already_loaded(placed, model, self._world, anywhere=request.devices is None) is not None
        )

    def takes(self, request: SwitchRequest) -> int:
        """See ``Trials``."""
        site = self._sites.chosen(request)
        return 0 if site is None else len(site.devices)

    def together(self, request: SwitchRequest, more_than: int) -> tuple[str, ...] | None:
        """See ``Trials``."""
        site = self._sites.together(request, more_than)
        return None if site is None else site.device_ids

    def resting(self, request: SwitchRequest) -> tuple[Resting, ...]:
        """See ``Trials``."""
        asked = self._world.device_ids if request.devices is None else request.devices
        return tuple(
            _resting(instance, self._world)
            for instance in self._world.instances
            if instance.state in ANSWERING and instance.id not in request.unload and set(instance.devices) & set(asked)
        )

    def missing(self, request: SwitchRequest, short: int) -> Iterable[Missing]:
        """See ``Trials``."""
        return self._sites.missing(request, short)


def _resting(instance: Instance, world: World) -> Resting:
    used_at = max(instance.started_at, instance.last_used_at or 0)
    return Resting(
        instance_id=instance.id,
        model_id=instance.model_id,
        owner=instance.owner,
        idle_s=max(0.0, world.now - used_at),
        in_flight=instance.in_flight,
        gives_bytes={d: _held(instance, d, world) + _promised(instance, d, world) for d in instance.devices},
    )


def footprint_parts(plan: Plan) -> Mapping[str, Mapping[PartName, int]]:
    """Return the plan's needed bytes by device and part."""
    return {d.device_id: {part.name: part.bytes for part in d.footprint.parts} for d in plan.devices}
