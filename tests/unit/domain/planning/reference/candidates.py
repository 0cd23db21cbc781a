"""Where a launch could go: the choices of devices, whether they have the room, and which cost people least. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

from tests.unit.domain.planning.reference.admission import judge
from tests.unit.domain.planning.reference.alternatives import Missing
from tests.unit.domain.planning.reference.sharing import counts
from tests.unit.domain.planning.reference.state import (
    DeviceClass,
    DeviceGroup,
    PlanningState,
    is_claimed,
    joined,
    reading_of,
    site_of,
)
from webapp.domain.calibration import Calibration, corrected
from webapp.domain.footprint import Conditions, Footprint, Launch, in_whole_shares
from webapp.domain.memory import DeviceKind, Reading
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import DevicePlan, Eviction, Reach, SwitchRequest, Verdict

_OTHERS_TRIED = 10
"""Other people's models on one choice of devices of which every combination is tried; of more the largest go first."""
_NEARLY = 0.9
"""The share of the room at which more GPUs are as good as fewer; see ``_outdoes``."""


@dataclass(frozen=True)
class Placement:
    """One choice of devices with its arithmetic."""

    request: SwitchRequest
    devices: tuple[DevicePlan, ...]
    unload: tuple[Eviction, ...]
    anywhere: bool
    """The person left the choice of the device to Warden."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the devices."""
        verdicts = {device.verdict for device in self.devices}
        return next((v for v in (Verdict.REFUSED, Verdict.TIGHT) if v in verdicts), Verdict.FITS)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(device.device_id for device in self.devices)


class Requirement:
    """What a model takes with one set of options in one mode, wherever that is asked; each figure is worked out once."""

    def __init__(self, mode: Mode, options: LaunchOptions, model: CachedModel, calibration: Calibration) -> None:
        self._mode, self._options, self._model, self._calibration = mode, options, model, calibration
        self._launches: dict[tuple[object, ...], Launch] = {}
        self._known: dict[tuple[DeviceClass, ...], tuple[Footprint, ...]] = {}

    def places(self, group: DeviceGroup) -> tuple[DeviceClass, ...]:
        """Return what the footprints depend on; only vLLM asks how large the devices are."""
        return group.places if self._mode is Mode.VLLM else group.unsized

    def footprints(self, group: DeviceGroup) -> tuple[Footprint, ...]:
        """Return what the launch takes there, as earlier launches correct it; equal devices have the same, which names none of them."""
        places = self.places(group)
        if places not in self._known:
            self._known[places] = self.over(places)
        return self._known[places]

    def over(self, places: Sequence[DeviceClass]) -> tuple[Footprint, ...]:
        """Return the footprints on such devices; vLLM takes whole shares of GPUs."""
        unlike = tuple(dict.fromkeys(places))
        launch = self._launch(unlike)
        estimated = tuple(launch.share_on(place.kind, len(places)) for place in unlike)
        names = [place.name for place in places]
        kind = self._calibration.kind_of(self._model.id, self._model.revision, self._mode, self._options, names)
        footprints = corrected(estimated, kind, self._calibration)
        if self._mode is Mode.VLLM and launch.conditions.device_memory_bytes:
            footprints = in_whole_shares(footprints, [place.usable_bytes for place in unlike])
        of_place = dict(zip(unlike, footprints, strict=True))
        return tuple(of_place[place] for place in places)

    def _launch(self, places: Sequence[DeviceClass]) -> Launch:
        on_host = any(place.kind is DeviceKind.HOST for place in places)
        usable = min(place.usable_bytes for place in places)
        known = () if on_host or usable <= 0 else (usable, places[0].name or "")
        if (on_host, known) not in self._launches:
            conditions = replace(Conditions(*known), shares_libraries=self._calibration.shares_libraries)
            launch = Launch(self._model, self._options, self._mode, conditions, on_host=on_host)
            self._launches[on_host, known] = launch
        return self._launches[on_host, known]

    def on(self, group: DeviceGroup) -> Iterator[tuple[Footprint, DevicePlan]]:
        """Return what the launch takes on each device, and the device."""
        return zip(self.footprints(group), group.devices, strict=True)

    def needs(self, group: DeviceGroup) -> tuple[int, ...]:
        """Return the bytes that the launch needs on each device."""
        return tuple(footprint.required_bytes for footprint in self.footprints(group))

    def holds(self, group: DeviceGroup) -> bool:
        """Return whether the memory of a choice would do."""
        return self.shortfall(group) <= 0

    def roomy(self, candidates: Iterable[DeviceGroup]) -> list[DeviceGroup]:
        """Return those choices whose memory would do."""
        return [group for group in candidates if self.holds(group)]

    def shortfall(self, group: DeviceGroup) -> int:
        """Return the bytes that lack where most do, 0 or less where the memory would do; of a site that is far too small at the least."""
        if (least := self.least_bytes(len(group.devices)) - group.narrowest) > 0:
            return least
        return max(self.shortfall_on_each(group))

    def shortfall_on_each(self, group: DeviceGroup) -> Iterator[int]:
        """Return the bytes that lack on each device, 0 or less where its memory would do."""
        return (
            f.required_bytes - headroom for f, headroom in zip(self.footprints(group), group.headrooms, strict=True)
        )

    def least_bytes(self, count: int) -> int:
        """See ``Launch``."""
        return self._anywhere.least_bytes(count)

    @cached_property
    def _anywhere(self) -> Launch:
        return self._launch([DeviceClass(DeviceKind.GPU, None, 0)])


class Candidates:
    """The choices of devices that a request and its changed forms may mean, each worked out once."""

    def __init__(self, model: CachedModel, planning_state: PlanningState) -> None:
        self.model, self.planning_state = model, planning_state
        self._singles: dict[tuple[object, ...], tuple[DeviceGroup, ...]] = {}
        self._joint: dict[tuple[object, ...], DeviceGroup] = {}
        self._open: dict[tuple[object, ...], tuple[DeviceGroup, ...]] = {}
        self._chosen: dict[SwitchRequest, DeviceGroup | None] = {}
        self._pools: dict[tuple[DeviceGroup, ...], _GpuPool] = {}
        self._requirements: dict[tuple[Mode, LaunchOptions], Requirement] = {}

    def best(self, request: SwitchRequest) -> Placement:
        """Place on the named devices, or on those that cost people least; where none have the room, on the single one that is best."""
        group = self.chosen(request) or self.alone(request)
        return Placement(request, (), (), anywhere=True) if group is None else self.place(request, group)

    def chosen(self, request: SwitchRequest) -> DeviceGroup | None:
        """Return the devices that have the room and cost people least; ``None`` where none have it.

        The nearest reach that has the room comes first, so nothing of another person's goes where there is room without it; then a device
        that is not claimed, no model that must stay, the fewest of other people's, the verdict, fewest unloads, most left. Several are
        taken where no single one would do at once.
        """
        if request not in self._chosen:
            found = (self._choose(request, reach) for reach in self._reaches(request))
            self._chosen[request] = next((group for group in found if group is not None), None)
        return self._chosen[request]

    def _choose(self, request: SwitchRequest, reach: Reach) -> DeviceGroup | None:
        alone = self._best(self._roomy_alone(request, reach), request)
        if request.devices is not None or (alone is not None and not any(self._standing(alone, request))):
            return alone
        together = self._together(request, 1, reach)
        if alone is None or together is None:
            return together or alone
        return together if self._spares(together, alone, request) else alone

    def _reaches(self, request: SwitchRequest) -> Iterator[Reach]:
        """How far ``request`` may go for room, the nearest first, as far as each gives more than the one before.

        Who loads against the estimate takes the risk instead of another model: nothing goes for that but what was named.
        """
        before = None
        for reach in (Reach.OWN, Reach.CONFIRMED) if request.load_anyway else Reach:
            evicted = [eviction for eviction in self.planning_state.evictions if eviction.goes(request, reach)]
            if evicted != before:
                yield reach
            before = evicted

    def alone(self, request: SwitchRequest) -> DeviceGroup | None:
        """Return the best of the choices that need no other device; first those that have the room."""
        for reach in self._reaches(request):
            if roomy := self._roomy_alone(request, reach):
                return self._best(roomy, request)
        return self._best(self.of(request, Reach.CONFIRMED), request)

    def _roomy_alone(self, request: SwitchRequest, reach: Reach) -> list[DeviceGroup]:
        requirement = self.requirement(request)
        return [
            self._leanest(group, requirement.needs(group), request)
            for group in requirement.roomy(self.of(request, reach))
        ]

    def _leanest(self, group: DeviceGroup, needs: Sequence[int], request: SwitchRequest) -> DeviceGroup:
        """Return a choice with as few of other people's models gone as leave the room; of as many, those idle longest.

        What was confirmed goes before what was not, and what is idle before what is leased or in use.
        """
        others = [eviction for eviction in group.unload if eviction.is_others]
        if not others:
            return group
        own = tuple(eviction for eviction in group.unload if not eviction.is_others)
        without = self._once_gone(group, own)
        shortfall = {
            d: need - headroom for d, need, headroom in zip(group.device_ids, needs, without.headrooms, strict=True)
        }
        others.sort(key=lambda e: (not e.is_confirmed_by(request), e.is_taken, -e.idle_s))
        for evicted in _fewest_first(others, shortfall, self.planning_state):
            lean = self._once_gone(group, (*own, *evicted))
            if all(need <= headroom for need, headroom in zip(needs, lean.headrooms, strict=True)):
                return lean
        return group

    def _once_gone(self, group: DeviceGroup, unload: Sequence[Eviction]) -> DeviceGroup:
        """Return the same devices with only ``unload`` gone from them."""
        readings = (reading_of(self.planning_state, device_id) for device_id in group.device_ids)
        singles = [
            site_of(r, tuple(e for e in unload if r.device_id in e.freed_bytes), self.planning_state) for r in readings
        ]
        return singles[0] if len(singles) == 1 else joined(singles, self.planning_state)

    def _best(self, candidates: Sequence[DeviceGroup], request: SwitchRequest) -> DeviceGroup | None:
        return min(candidates, key=lambda group: self._rank(request, group), default=None)

    def together(self, request: SwitchRequest, more_than: int) -> DeviceGroup | None:
        """Return the several GPUs, more than ``more_than``, that have the room and cost people least; ``None`` where no several have."""
        found = (self._together(request, more_than, reach) for reach in self._reaches(request))
        return next((group for group in found if group is not None), None)

    def _together(self, request: SwitchRequest, more_than: int, reach: Reach) -> DeviceGroup | None:
        return min(self._roomy(request, more_than, reach), key=lambda s: self._reluctance(request, s), default=None)

    def requirement(self, request: SwitchRequest, options: LaunchOptions | None = None) -> Requirement:
        """Return what ``request`` takes, or would take with other options."""
        key = (request.mode, options or request.options)
        if key not in self._requirements:
            self._requirements[key] = Requirement(*key, self.model, self.planning_state.calibration)
        return self._requirements[key]

    def of(self, request: SwitchRequest, reach: Reach) -> tuple[DeviceGroup, ...]:
        """Return the named devices as one choice, or each of those that are chosen among: never the host beside GPUs.

        All that may go at ``reach`` has gone from them.
        """
        return (
            self._each(request, reach) if request.devices is None else (self._named(request.devices, request, reach),)
        )

    def _each(self, request: SwitchRequest, reach: Reach) -> tuple[DeviceGroup, ...]:
        """Every device that may be chosen, by itself, whatever devices were named."""
        key = (*_going(request), reach)
        if key not in self._singles:
            self._singles[key] = tuple(self._single(reading, request, reach) for reading in self._automatic)
        return self._singles[key]

    def _named(self, devices: tuple[str, ...], request: SwitchRequest, reach: Reach) -> DeviceGroup:
        key = (devices, *_going(request), reach)
        if key not in self._joint:
            readings = [reading_of(self.planning_state, device_id) for device_id in devices]
            self._joint[key] = joined(
                [self._single(reading, request, reach) for reading in readings], self.planning_state
            )
        return self._joint[key]

    @cached_property
    def _automatic(self) -> Sequence[Reading]:
        readings = () if self.planning_state.sample is None else self.planning_state.sample.readings
        return [r for r in readings if r.kind is DeviceKind.GPU] or readings

    def _single(self, reading: Reading, request: SwitchRequest, reach: Reach) -> DeviceGroup:
        there = self.planning_state.evictions_from[reading.device_id]
        return site_of(
            reading, tuple(eviction for eviction in there if eviction.goes(request, reach)), self.planning_state
        )

    def open_to(self, request: SwitchRequest, reach: Reach) -> tuple[DeviceGroup, ...]:
        """Return the choices that can be read and where no model is in use, or another person's, that must stay, the most room first.

        Of choices that differ in nothing but their room, the one with the most stands for all.
        """
        key = (request.mode, request.devices, *_going(request), request.override_reason, reach)
        if key not in self._open:
            self._open[key] = self._open_to(request, reach)
        return self._open[key]

    def _open_to(self, request: SwitchRequest, reach: Reach) -> tuple[DeviceGroup, ...]:
        is_open = [s for s in self.of(request, reach) if s.is_readable and not s.is_kept_from(request)]
        requirement, best = self.requirement(request), dict[tuple[DeviceClass, ...], DeviceGroup]()
        for group in is_open:
            places = requirement.places(group)
            if places not in best or group.narrowest > best[places].narrowest:
                best[places] = group
        pool = self._pool([] if request.devices is not None else is_open)
        together = [s for n in self._counts(request, pool) for s in pool.roomiest(n)]
        found = (*best.values(), *(s for s in together if not any(_outdoes(other, s) for other in together)))
        return tuple(sorted(found, key=lambda group: -group.narrowest * len(group.devices)))

    def _pool(self, candidates: Iterable[DeviceGroup]) -> _GpuPool:
        """Return the GPUs among single devices."""
        gpus = tuple(group for group in candidates if group.places[0].kind is DeviceKind.GPU)
        if gpus not in self._pools:
            self._pools[gpus] = _GpuPool(gpus, self.planning_state)
        return self._pools[gpus]

    def _counts(self, request: SwitchRequest, pool: _GpuPool) -> tuple[int, ...]:
        return counts(request.mode, self.model, len(pool.gpus))

    def _roomy(self, request: SwitchRequest, more_than: int, reach: Reach) -> Iterator[DeviceGroup]:
        """Every several GPUs that have the room; not more of them than do where nobody has to wait or go."""
        pool, requirement = (
            self._pool(group for group in self._each(request, reach) if group.is_readable),
            self.requirement(request),
        )
        for count in self._counts(request, pool):
            if count <= more_than or not any(requirement.holds(group) for group in pool.roomiest(count)):
                continue
            roomy = requirement.roomy(self._choices(request, pool, count))
            found = [self._leanest(group, requirement.needs(group), request) for group in roomy]
            yield from found
            if any(not group.unload and not is_claimed(group, self.planning_state) for group in found):
                return

    def _choices(self, request: SwitchRequest, pool: _GpuPool, count: int) -> Iterator[DeviceGroup]:
        """Every ``count`` of the GPUs; of GPUs that are all alike those only that may cost people least (see ``_reluctance``)."""
        if not pool.is_plain:
            yield from pool.combinations(count, self.requirement(request).least_bytes(count))
            return
        (widest,) = pool.roomiest(count)
        if pool.is_untouched:
            yield widest
            return
        share = max(self.requirement(request).needs(widest))
        lean = {group: self._leanest(group, (share,), request) for group in pool.gpus if group.narrowest >= share}
        roomy = sorted(lean, key=lambda s: (*_of_others(lean[s]), len(lean[s].unload), -lean[s].narrowest))
        claimed = [group for group in roomy if is_claimed(group, self.planning_state)]
        kept = [group for group in roomy if lean[group].is_kept_from(request)]
        for spared in dict.fromkeys(map(frozenset, ([*claimed, *kept], claimed, kept, []))):
            easiest = [group for group in roomy if group not in spared][:count]
            if len(easiest) == count:
                yield pool.joined(easiest)

    def missing(self, request: SwitchRequest, short: int) -> Iterator[Missing]:
        """See ``Trials``; of a mixture of GPUs the one that needs least stands for all."""
        requirement = self.requirement(request)
        candidates = [group for group in self.of(request, Reach.CONFIRMED) if group.is_readable]
        if request.devices is not None:
            yield from (Missing(len(s.devices), _shortfalls(requirement, s)) for s in candidates)
            return
        yield Missing(
            1, {d: shortfall for group in candidates for d, shortfall in _shortfalls(requirement, group).items()}
        )
        pool = self._pool(candidates)
        for count in self._counts(request, pool):
            least = requirement.least_bytes(count)
            if sum(least <= group.narrowest for group in pool.gpus) + short >= count:
                needs = min(
                    f.required_bytes for mixture in pool.roomiest(count) for f in requirement.footprints(mixture)
                )
                yield Missing(count, {group.device_ids[0]: needs - group.narrowest for group in pool.gpus})

    def _standing(self, group: DeviceGroup, request: SwitchRequest) -> tuple[bool, bool]:
        return is_claimed(group, self.planning_state), group.is_kept_from(request)

    def _spares(self, together: DeviceGroup, alone: DeviceGroup, request: SwitchRequest) -> bool:
        """Whether somebody waits or goes for the single device and nobody in that way for the several."""
        several, single = self._standing(together, request), self._standing(alone, request)
        return several != single and all(one <= other for one, other in zip(several, single, strict=True))

    def _rank(self, request: SwitchRequest, group: DeviceGroup) -> tuple[object, ...]:
        """What a choice costs people where nothing is added to it: who waits, who goes; then how well it suits."""
        requirement = self.requirement(request)
        tight = requirement.holds(group) and self._is_tight(requirement, group)
        after = [d.available_bytes - f.total_bytes for f, d in requirement.on(group) if d.available_bytes is not None]
        evicted = (*_of_others(group), tight, len(group.unload))
        return *self._standing(group, request), *evicted, -min(after, default=-(2**62))

    def _reluctance(self, request: SwitchRequest, group: DeviceGroup) -> tuple[object, ...]:
        """What several GPUs that have the room cost people: who waits, who goes, how many are taken; then how well they suit."""
        requirement = self.requirement(request)
        mixed = request.mode is Mode.VLLM and len({*group.places}) > 1
        how_many = (*_of_others(group), len(group.unload), len(group.devices))
        return (
            *self._standing(group, request),
            *how_many,
            self._is_tight(requirement, group),
            mixed,
            requirement.shortfall(group),
        )

    def _is_tight(self, requirement: Requirement, group: DeviceGroup) -> bool:
        percent = self.planning_state.policy.fits_percent
        return any(f.required_bytes > (d.available_bytes or 0) * percent / 100 for f, d in requirement.on(group))

    def place(self, request: SwitchRequest, group: DeviceGroup) -> Placement:
        """Return the arithmetic with the launch on these devices."""
        percent = self.planning_state.policy.fits_percent
        plans = tuple(
            _launched(device, footprint, percent) for footprint, device in self.requirement(request).on(group)
        )
        placed = replace(request, devices=group.device_ids)
        return Placement(placed, plans, group.unload, anywhere=request.devices is None)


class _GpuPool:
    """GPUs of which a launch may take several."""

    def __init__(self, gpus: Sequence[DeviceGroup], planning_state: PlanningState) -> None:
        self.gpus, self._planning_state = gpus, planning_state
        self._roomiest: dict[int, tuple[DeviceGroup, ...]] = {}

    def roomiest(self, count: int) -> tuple[DeviceGroup, ...]:
        """Return of each mixture of ``count`` like and unlike GPUs those with the most room: where these do not do, none do."""
        if count not in self._roomiest:
            self._roomiest[count] = tuple(self._mixtures(count))
        return self._roomiest[count]

    def _mixtures(self, count: int) -> Iterator[DeviceGroup]:
        for shares in product(*(range(min(len(like), count) + 1) for like in self._alike)):
            if sum(shares) == count:
                yield self.joined([gpu for like, n in zip(self._alike, shares, strict=True) for gpu in like[:n]])

    @cached_property
    def _alike(self) -> Sequence[Sequence[DeviceGroup]]:
        """Those that are alike, the most room first."""
        alike: dict[tuple[DeviceClass, ...], list[DeviceGroup]] = {}
        for gpu in sorted(self.gpus, key=lambda gpu: -gpu.narrowest):
            alike.setdefault(gpu.places, []).append(gpu)
        return tuple(alike.values())

    def joined(self, gpus: Iterable[DeviceGroup]) -> DeviceGroup:
        """Return some of them taken together, in the order in which they stand here."""
        return joined(sorted(gpus, key=self.gpus.index), self._planning_state)

    def combinations(self, count: int, least_bytes: int) -> Iterator[DeviceGroup]:
        """Return every ``count`` of those that have as much room."""
        roomy = [gpu for gpu in self.gpus if gpu.narrowest >= least_bytes]
        return (joined(gpus, self._planning_state) for gpus in combinations(roomy, count))

    @cached_property
    def is_plain(self) -> bool:
        """They are all alike, and nobody has to go from several of them at once."""
        spanning = any(len(eviction.freed_bytes) > 1 for gpu in self.gpus for eviction in gpu.unload)
        return len(self._alike) <= 1 and not spanning

    @cached_property
    def is_untouched(self) -> bool:
        """Nobody has to go from any of them, and no operation runs there."""
        return not any(gpu.unload or is_claimed(gpu, self._planning_state) for gpu in self.gpus)


def _going(request: SwitchRequest) -> tuple[object, ...]:
    """What of a request decides which models go from a device."""
    return request.keep_others, request.unload, request.interrupt_busy, request.restore_on_failure


def _of_others(group: DeviceGroup) -> tuple[int, float]:
    """What a choice costs other people: how many of their models go, and how lately the last of them was used."""
    idle = [eviction.idle_s for eviction in group.unload if eviction.is_others]
    return len(idle), -min(idle, default=0.0)


def _fewest_first(
    others: Sequence[Eviction], shortfall_bytes: Mapping[str, int], planning_state: PlanningState
) -> Iterator[tuple[Eviction, ...]]:
    """Yield choices of ``others`` that might give the bytes that lack: the fewest first, of as many those that stand first.

    What is leased or in use comes last of all.
    """
    largest = sorted(others, key=lambda e: (e.is_taken, -sum(e.freed_bytes.values())))
    in_order = [eviction for eviction in others if eviction in largest[:_OTHERS_TRIED]]
    choices = [some for count in range(len(in_order) + 1) for some in combinations(in_order, count)]
    choices.sort(key=lambda some: sum(e.is_taken for e in some))
    more = (tuple(largest[:count]) for count in range(_OTHERS_TRIED + 1, len(largest) + 1))
    for some in (*choices, *more):
        if all(
            sum(_gives(e, d, planning_state) for e in some) >= shortfall
            for d, shortfall in shortfall_bytes.items()
            if shortfall > 0
        ):
            yield some


def _gives(eviction: Eviction, device_id: str, planning_state: PlanningState) -> int:
    """The most that its going gives there."""
    held = eviction.freed_bytes.get(device_id, 0)
    return held + planning_state.promised_bytes.get(device_id, {}).get(eviction.instance_id, 0)


def _shortfalls(requirement: Requirement, group: DeviceGroup) -> Mapping[str, int]:
    return dict(zip(group.device_ids, requirement.shortfall_on_each(group), strict=True))


def _outdoes(other: DeviceGroup, group: DeviceGroup) -> bool:
    """More of the same GPUs, each with nearly as much room: a share is smaller there by more than that.

    Not so where nearly all of a share is what each GPU takes anyway; a way out over fewer GPUs may then go unseen, never a plan.
    """
    nearly_as_roomy = len(other.devices) > len(group.devices) and other.narrowest >= _NEARLY * group.narrowest
    return nearly_as_roomy and len({*other.places, *group.places}) == 1


def _launched(device: DevicePlan, footprint: Footprint, fits_percent: float) -> DevicePlan:
    """The device with ``footprint`` on it, which is told whose it is."""
    available, named = device.available_bytes, footprint.on(device.device_id)
    if available is None:
        return replace(device, footprint=named)
    return replace(
        device,
        footprint=named,
        free_after_bytes=available - footprint.total_bytes,
        verdict=judge(footprint.required_bytes, available, device.reserve_bytes, fits_percent),
    )
