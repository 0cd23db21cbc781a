"""Where a launch could go: the choices of devices, whether they have the room, and which cost people least. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

from webapp.domain.admission import judge
from webapp.domain.footprint import Conditions, Footprint, Launch, in_whole_shares
from webapp.domain.learned import Lessons, corrected
from webapp.domain.memory import DeviceKind, Reading
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import DevicePlan, Eviction, Reach, SwitchRequest, Verdict
from webapp.domain.sharing import counts
from webapp.domain.ways import Missing
from webapp.domain.world import Place, Site, World, is_claimed, joined, reading_of, site_of

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


class Demand:
    """What a model takes with one set of options in one mode, wherever that is asked; each figure is worked out once."""

    def __init__(self, mode: Mode, options: LaunchOptions, model: CachedModel, lessons: Lessons) -> None:
        self._mode, self._options, self._model, self._lessons = mode, options, model, lessons
        self._launches: dict[tuple[object, ...], Launch] = {}
        self._known: dict[tuple[Place, ...], tuple[Footprint, ...]] = {}

    def places(self, site: Site) -> tuple[Place, ...]:
        """Return what the footprints depend on; only vLLM asks how large the devices are."""
        return site.places if self._mode is Mode.VLLM else site.unsized

    def footprints(self, site: Site) -> tuple[Footprint, ...]:
        """Return what the launch takes there, as earlier launches correct it; equal devices have the same, which names none of them."""
        places = self.places(site)
        if places not in self._known:
            self._known[places] = self.over(places)
        return self._known[places]

    def over(self, places: Sequence[Place]) -> tuple[Footprint, ...]:
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

    def _launch(self, places: Sequence[Place]) -> Launch:
        on_host = any(place.kind is DeviceKind.HOST for place in places)
        usable = min(place.usable_bytes for place in places)
        known = () if on_host or usable <= 0 else (usable, places[0].name or "")
        if (on_host, known) not in self._launches:
            conditions = replace(Conditions(*known), shares_libraries=self._lessons.shares_libraries)
            launch = Launch(self._model, self._options, self._mode, conditions, on_host=on_host)
            self._launches[on_host, known] = launch
        return self._launches[on_host, known]

    def on(self, site: Site) -> Iterator[tuple[Footprint, DevicePlan]]:
        """Return what the launch takes on each device, and the device."""
        return zip(self.footprints(site), site.devices, strict=True)

    def needs(self, site: Site) -> tuple[int, ...]:
        """Return the bytes that the launch needs on each device."""
        return tuple(footprint.gate_bytes for footprint in self.footprints(site))

    def holds(self, site: Site) -> bool:
        """Return whether the memory of a choice would do."""
        return self.lacks(site) <= 0

    def roomy(self, sites: Iterable[Site]) -> list[Site]:
        """Return those choices whose memory would do."""
        return [site for site in sites if self.holds(site)]

    def lacks(self, site: Site) -> int:
        """Return the bytes that lack where most do, 0 or less where the memory would do; of a site that is far too small at the least."""
        if (least := self.least_bytes(len(site.devices)) - site.narrowest) > 0:
            return least
        return max(self.lacks_on_each(site))

    def lacks_on_each(self, site: Site) -> Iterator[int]:
        """Return the bytes that lack on each device, 0 or less where its memory would do."""
        return (f.gate_bytes - room for f, room in zip(self.footprints(site), site.rooms, strict=True))

    def least_bytes(self, count: int) -> int:
        """See ``Launch``."""
        return self._anywhere.least_bytes(count)

    @cached_property
    def _anywhere(self) -> Launch:
        return self._launch([Place(DeviceKind.GPU, None, 0)])


class Sites:
    """The choices of devices that a request and its changed forms may mean, each worked out once."""

    def __init__(self, model: CachedModel, world: World) -> None:
        self.model, self.world = model, world
        self._singles: dict[tuple[object, ...], tuple[Site, ...]] = {}
        self._joint: dict[tuple[object, ...], Site] = {}
        self._open: dict[tuple[object, ...], tuple[Site, ...]] = {}
        self._chosen: dict[SwitchRequest, Site | None] = {}
        self._pools: dict[tuple[Site, ...], _Pool] = {}
        self._demands: dict[tuple[Mode, LaunchOptions], Demand] = {}

    def best(self, request: SwitchRequest) -> Placement:
        """Place on the named devices, or on those that cost people least; where none have the room, on the single one that is best."""
        site = self.chosen(request) or self.alone(request)
        return Placement(request, (), (), anywhere=True) if site is None else self.place(request, site)

    def chosen(self, request: SwitchRequest) -> Site | None:
        """Return the devices that have the room and cost people least; ``None`` where none have it.

        The nearest reach that has the room comes first, so nothing of another person's goes where there is room without it; then a device
        that is not claimed, no model that must stay, the fewest of other people's, the verdict, fewest unloads, most left. Several are
        taken where no single one would do at once.
        """
        if request not in self._chosen:
            found = (self._choose(request, reach) for reach in self._reaches(request))
            self._chosen[request] = next((site for site in found if site is not None), None)
        return self._chosen[request]

    def _choose(self, request: SwitchRequest, reach: Reach) -> Site | None:
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
            going = [eviction for eviction in self.world.evictions if eviction.goes(request, reach)]
            if going != before:
                yield reach
            before = going

    def alone(self, request: SwitchRequest) -> Site | None:
        """Return the best of the choices that need no other device; first those that have the room."""
        for reach in self._reaches(request):
            if roomy := self._roomy_alone(request, reach):
                return self._best(roomy, request)
        return self._best(self.of(request, Reach.CONFIRMED), request)

    def _roomy_alone(self, request: SwitchRequest, reach: Reach) -> list[Site]:
        demand = self.demand(request)
        return [self._leanest(site, demand.needs(site), request) for site in demand.roomy(self.of(request, reach))]

    def _leanest(self, site: Site, needs: Sequence[int], request: SwitchRequest) -> Site:
        """Return a choice with as few of other people's models gone as leave the room; of as many, those idle longest.

        What was confirmed goes before what was not, and what is idle before what is leased or in use.
        """
        others = [eviction for eviction in site.unload if eviction.is_others]
        if not others:
            return site
        own = tuple(eviction for eviction in site.unload if not eviction.is_others)
        without = self._once_gone(site, own)
        lacks = {d: need - room for d, need, room in zip(site.device_ids, needs, without.rooms, strict=True)}
        others.sort(key=lambda e: (not e.is_confirmed_by(request), e.is_taken, -e.idle_s))
        for going in _fewest_first(others, lacks, self.world):
            lean = self._once_gone(site, (*own, *going))
            if all(need <= room for need, room in zip(needs, lean.rooms, strict=True)):
                return lean
        return site

    def _once_gone(self, site: Site, unload: Sequence[Eviction]) -> Site:
        """Return the same devices with only ``unload`` gone from them."""
        readings = (reading_of(self.world, device_id) for device_id in site.device_ids)
        singles = [site_of(r, tuple(e for e in unload if r.device_id in e.freed_bytes), self.world) for r in readings]
        return singles[0] if len(singles) == 1 else joined(singles, self.world)

    def _best(self, sites: Sequence[Site], request: SwitchRequest) -> Site | None:
        return min(sites, key=lambda site: self._rank(request, site), default=None)

    def together(self, request: SwitchRequest, more_than: int) -> Site | None:
        """Return the several GPUs, more than ``more_than``, that have the room and cost people least; ``None`` where no several have."""
        found = (self._together(request, more_than, reach) for reach in self._reaches(request))
        return next((site for site in found if site is not None), None)

    def _together(self, request: SwitchRequest, more_than: int, reach: Reach) -> Site | None:
        return min(self._roomy(request, more_than, reach), key=lambda s: self._reluctance(request, s), default=None)

    def demand(self, request: SwitchRequest, options: LaunchOptions | None = None) -> Demand:
        """Return what ``request`` takes, or would take with other options."""
        key = (request.mode, options or request.options)
        if key not in self._demands:
            self._demands[key] = Demand(*key, self.model, self.world.lessons)
        return self._demands[key]

    def of(self, request: SwitchRequest, reach: Reach) -> tuple[Site, ...]:
        """Return the named devices as one choice, or each of those that are chosen among: never the host beside GPUs.

        All that may go at ``reach`` has gone from them.
        """
        return (
            self._each(request, reach) if request.devices is None else (self._named(request.devices, request, reach),)
        )

    def _each(self, request: SwitchRequest, reach: Reach) -> tuple[Site, ...]:
        """Every device that may be chosen, by itself, whatever devices were named."""
        key = (*_going(request), reach)
        if key not in self._singles:
            self._singles[key] = tuple(self._single(reading, request, reach) for reading in self._automatic)
        return self._singles[key]

    def _named(self, devices: tuple[str, ...], request: SwitchRequest, reach: Reach) -> Site:
        key = (devices, *_going(request), reach)
        if key not in self._joint:
            readings = [reading_of(self.world, device_id) for device_id in devices]
            self._joint[key] = joined([self._single(reading, request, reach) for reading in readings], self.world)
        return self._joint[key]

    @cached_property
    def _automatic(self) -> Sequence[Reading]:
        readings = () if self.world.sample is None else self.world.sample.readings
        return [r for r in readings if r.kind is DeviceKind.GPU] or readings

    def _single(self, reading: Reading, request: SwitchRequest, reach: Reach) -> Site:
        there = self.world.evictions_from[reading.device_id]
        return site_of(reading, tuple(eviction for eviction in there if eviction.goes(request, reach)), self.world)

    def open_to(self, request: SwitchRequest, reach: Reach) -> tuple[Site, ...]:
        """Return the choices that can be read and where no model is in use, or another person's, that must stay, the most room first.

        Of choices that differ in nothing but their room, the one with the most stands for all.
        """
        key = (request.mode, request.devices, *_going(request), request.override_reason, reach)
        if key not in self._open:
            self._open[key] = self._open_to(request, reach)
        return self._open[key]

    def _open_to(self, request: SwitchRequest, reach: Reach) -> tuple[Site, ...]:
        is_open = [s for s in self.of(request, reach) if s.is_readable and not s.is_kept_from(request)]
        demand, best = self.demand(request), dict[tuple[Place, ...], Site]()
        for site in is_open:
            places = demand.places(site)
            if places not in best or site.narrowest > best[places].narrowest:
                best[places] = site
        pool = self._pool([] if request.devices is not None else is_open)
        together = [s for n in self._counts(request, pool) for s in pool.roomiest(n)]
        found = (*best.values(), *(s for s in together if not any(_outdoes(other, s) for other in together)))
        return tuple(sorted(found, key=lambda site: -site.narrowest * len(site.devices)))

    def _pool(self, sites: Iterable[Site]) -> _Pool:
        """Return the GPUs among single devices."""
        gpus = tuple(site for site in sites if site.places[0].kind is DeviceKind.GPU)
        if gpus not in self._pools:
            self._pools[gpus] = _Pool(gpus, self.world)
        return self._pools[gpus]

    def _counts(self, request: SwitchRequest, pool: _Pool) -> tuple[int, ...]:
        return counts(request.mode, self.model, len(pool.gpus))

    def _roomy(self, request: SwitchRequest, more_than: int, reach: Reach) -> Iterator[Site]:
        """Every several GPUs that have the room; not more of them than do where nobody has to wait or go."""
        pool, demand = self._pool(site for site in self._each(request, reach) if site.is_readable), self.demand(request)
        for count in self._counts(request, pool):
            if count <= more_than or not any(demand.holds(site) for site in pool.roomiest(count)):
                continue
            roomy = demand.roomy(self._choices(request, pool, count))
            found = [self._leanest(site, demand.needs(site), request) for site in roomy]
            yield from found
            if any(not site.unload and not is_claimed(site, self.world) for site in found):
                return

    def _choices(self, request: SwitchRequest, pool: _Pool, count: int) -> Iterator[Site]:
        """Every ``count`` of the GPUs; of GPUs that are all alike those only that may cost people least (see ``_reluctance``)."""
        if not pool.is_plain:
            yield from pool.combinations(count, self.demand(request).least_bytes(count))
            return
        (widest,) = pool.roomiest(count)
        if pool.is_untouched:
            yield widest
            return
        share = max(self.demand(request).needs(widest))
        lean = {site: self._leanest(site, (share,), request) for site in pool.gpus if site.narrowest >= share}
        roomy = sorted(lean, key=lambda s: (*_of_others(lean[s]), len(lean[s].unload), -lean[s].narrowest))
        claimed = [site for site in roomy if is_claimed(site, self.world)]
        kept = [site for site in roomy if lean[site].is_kept_from(request)]
        for spared in dict.fromkeys(map(frozenset, ([*claimed, *kept], claimed, kept, []))):
            easiest = [site for site in roomy if site not in spared][:count]
            if len(easiest) == count:
                yield pool.joined(easiest)

    def missing(self, request: SwitchRequest, short: int) -> Iterator[Missing]:
        """See ``Trials``; of a mixture of GPUs the one that needs least stands for all."""
        demand = self.demand(request)
        sites = [site for site in self.of(request, Reach.CONFIRMED) if site.is_readable]
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

    def _standing(self, site: Site, request: SwitchRequest) -> tuple[bool, bool]:
        return is_claimed(site, self.world), site.is_kept_from(request)

    def _spares(self, together: Site, alone: Site, request: SwitchRequest) -> bool:
        """Whether somebody waits or goes for the single device and nobody in that way for the several."""
        several, single = self._standing(together, request), self._standing(alone, request)
        return several != single and all(one <= other for one, other in zip(several, single, strict=True))

    def _rank(self, request: SwitchRequest, site: Site) -> tuple[object, ...]:
        """What a choice costs people where nothing is added to it: who waits, who goes; then how well it suits."""
        demand = self.demand(request)
        tight = demand.holds(site) and self._is_tight(demand, site)
        after = [d.available_bytes - f.total_bytes for f, d in demand.on(site) if d.available_bytes is not None]
        going = (*_of_others(site), tight, len(site.unload))
        return *self._standing(site, request), *going, -min(after, default=-(2**62))

    def _reluctance(self, request: SwitchRequest, site: Site) -> tuple[object, ...]:
        """What several GPUs that have the room cost people: who waits, who goes, how many are taken; then how well they suit."""
        demand = self.demand(request)
        mixed = request.mode is Mode.VLLM and len({*site.places}) > 1
        how_many = (*_of_others(site), len(site.unload), len(site.devices))
        return *self._standing(site, request), *how_many, self._is_tight(demand, site), mixed, demand.lacks(site)

    def _is_tight(self, demand: Demand, site: Site) -> bool:
        percent = self.world.policy.fits_percent
        return any(f.gate_bytes > (d.available_bytes or 0) * percent / 100 for f, d in demand.on(site))

    def place(self, request: SwitchRequest, site: Site) -> Placement:
        """Return the arithmetic with the launch on these devices."""
        percent = self.world.policy.fits_percent
        plans = tuple(_launched(device, footprint, percent) for footprint, device in self.demand(request).on(site))
        placed = replace(request, devices=site.device_ids)
        return Placement(placed, plans, site.unload, anywhere=request.devices is None)


class _Pool:
    """GPUs of which a launch may take several."""

    def __init__(self, gpus: Sequence[Site], world: World) -> None:
        self.gpus, self._world = gpus, world
        self._roomiest: dict[int, tuple[Site, ...]] = {}

    def roomiest(self, count: int) -> tuple[Site, ...]:
        """Return of each mixture of ``count`` like and unlike GPUs those with the most room: where these do not do, none do."""
        if count not in self._roomiest:
            self._roomiest[count] = tuple(self._mixtures(count))
        return self._roomiest[count]

    def _mixtures(self, count: int) -> Iterator[Site]:
        for shares in product(*(range(min(len(like), count) + 1) for like in self._alike)):
            if sum(shares) == count:
                yield self.joined([gpu for like, n in zip(self._alike, shares, strict=True) for gpu in like[:n]])

    @cached_property
    def _alike(self) -> Sequence[Sequence[Site]]:
        """Those that are alike, the most room first."""
        alike: dict[tuple[Place, ...], list[Site]] = {}
        for gpu in sorted(self.gpus, key=lambda gpu: -gpu.narrowest):
            alike.setdefault(gpu.places, []).append(gpu)
        return tuple(alike.values())

    def joined(self, gpus: Iterable[Site]) -> Site:
        """Return some of them taken together, in the order in which they stand here."""
        return joined(sorted(gpus, key=self.gpus.index), self._world)

    def combinations(self, count: int, least_bytes: int) -> Iterator[Site]:
        """Return every ``count`` of those that have as much room."""
        roomy = [gpu for gpu in self.gpus if gpu.narrowest >= least_bytes]
        return (joined(gpus, self._world) for gpus in combinations(roomy, count))

    @cached_property
    def is_plain(self) -> bool:
        """They are all alike, and nobody has to go from several of them at once."""
        spanning = any(len(eviction.freed_bytes) > 1 for gpu in self.gpus for eviction in gpu.unload)
        return len(self._alike) <= 1 and not spanning

    @cached_property
    def is_untouched(self) -> bool:
        """Nobody has to go from any of them, and no operation runs there."""
        return not any(gpu.unload or is_claimed(gpu, self._world) for gpu in self.gpus)


def _going(request: SwitchRequest) -> tuple[object, ...]:
    """What of a request decides which models go from a device."""
    return request.keep_others, request.unload, request.interrupt_busy, request.restore_on_failure


def _of_others(site: Site) -> tuple[int, float]:
    """What a choice costs other people: how many of their models go, and how lately the last of them was used."""
    idle = [eviction.idle_s for eviction in site.unload if eviction.is_others]
    return len(idle), -min(idle, default=0.0)


def _fewest_first(
    others: Sequence[Eviction], lacks_bytes: Mapping[str, int], world: World
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
        if all(sum(_gives(e, d, world) for e in some) >= lacks for d, lacks in lacks_bytes.items() if lacks > 0):
            yield some


def _gives(eviction: Eviction, device_id: str, world: World) -> int:
    """The most that its going gives there."""
    held = eviction.freed_bytes.get(device_id, 0)
    return held + world.promised_bytes.get(device_id, {}).get(eviction.instance_id, 0)


def _lacks(demand: Demand, site: Site) -> Mapping[str, int]:
    return dict(zip(site.device_ids, demand.lacks_on_each(site), strict=True))


def _outdoes(other: Site, site: Site) -> bool:
    """More of the same GPUs, each with nearly as much room: a share is smaller there by more than that.

    Not so where nearly all of a share is what each GPU takes anyway; a way out over fewer GPUs may then go unseen, never a plan.
    """
    nearly_as_roomy = len(other.devices) > len(site.devices) and other.narrowest >= _NEARLY * site.narrowest
    return nearly_as_roomy and len({*other.places, *site.places}) == 1


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
