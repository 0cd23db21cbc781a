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
from webapp.domain.plan import DevicePlan, Eviction, SwitchRequest, Verdict
from webapp.domain.sharing import counts
from webapp.domain.ways import Missing
from webapp.domain.world import Place, Site, World, is_claimed, joined, reading_of, site_of

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

        A device that is not claimed comes first, no model that must stay, the verdict, fewest unloads, most left. Several are taken where
        no single one would do at once.
        """
        if request not in self._chosen:
            self._chosen[request] = self._choose(request)
        return self._chosen[request]

    def _choose(self, request: SwitchRequest) -> Site | None:
        demand = self.demand(request)
        alone = self._best(demand.roomy(self.of(request)), request)
        if request.devices is not None or (alone is not None and not any(self._standing(alone, request))):
            return alone
        together = self.together(request)
        if alone is None or together is None:
            return together or alone
        return together if self._spares(together, alone, request) else alone

    def alone(self, request: SwitchRequest) -> Site | None:
        """Return the best of the choices that need no other device; first those that have the room."""
        demand, sites = self.demand(request), self.of(request)
        return self._best(demand.roomy(sites) or sites, request)

    def _best(self, sites: Sequence[Site], request: SwitchRequest) -> Site | None:
        return min(sites, key=lambda site: self._rank(request, site), default=None)

    def together(self, request: SwitchRequest, more_than: int = 1) -> Site | None:
        """Return the several GPUs that have the room and cost people least; ``None`` where no several have."""
        return min(self._roomy(request, more_than), key=lambda s: self._reluctance(request, s), default=None)

    def demand(self, request: SwitchRequest, options: LaunchOptions | None = None) -> Demand:
        """Return what ``request`` takes, or would take with other options."""
        key = (request.mode, options or request.options)
        if key not in self._demands:
            self._demands[key] = Demand(*key, self.model, self.world.lessons)
        return self._demands[key]

    def of(self, request: SwitchRequest) -> tuple[Site, ...]:
        """Return the named devices as one choice, or each of those that are chosen among: never the host beside GPUs."""
        return self._each(request) if request.devices is None else (self._named(request.devices, request),)

    def _each(self, request: SwitchRequest) -> tuple[Site, ...]:
        """Every device that may be chosen, by itself, whatever devices were named."""
        key = (request.keep_others, request.unload)
        if key not in self._singles:
            self._singles[key] = tuple(self._single(reading, request) for reading in self._automatic)
        return self._singles[key]

    def _named(self, devices: tuple[str, ...], request: SwitchRequest) -> Site:
        key = (devices, request.keep_others, request.unload)
        if key not in self._joint:
            readings = [reading_of(self.world, device_id) for device_id in devices]
            self._joint[key] = joined([self._single(reading, request) for reading in readings], self.world)
        return self._joint[key]

    @cached_property
    def _automatic(self) -> Sequence[Reading]:
        readings = () if self.world.sample is None else self.world.sample.readings
        return [r for r in readings if r.kind is DeviceKind.GPU] or readings

    def _single(self, reading: Reading, request: SwitchRequest) -> Site:
        unload = self.world.evictions_from[reading.device_id]
        if request.keep_others:
            unload = tuple(eviction for eviction in unload if eviction.instance_id in request.unload)
        return site_of(reading, unload, self.world)

    def open_to(self, request: SwitchRequest) -> tuple[Site, ...]:
        """Return the choices that can be read and where no model is in use, or another person's, that must stay, the most room first.

        Of choices that differ in nothing but their room, the one with the most stands for all.
        """
        will = (request.interrupt_busy, request.override_reason)
        key = (request.mode, request.devices, request.keep_others, request.unload, will)
        if key not in self._open:
            self._open[key] = self._open_to(request)
        return self._open[key]

    def _open_to(self, request: SwitchRequest) -> tuple[Site, ...]:
        is_open = [s for s in self.of(request) if s.is_readable and not s.is_kept_from(request)]
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

    def _roomy(self, request: SwitchRequest, more_than: int) -> Iterator[Site]:
        """Every several GPUs that have the room; not more of them than do where nobody has to wait or go."""
        pool, demand = self._pool(site for site in self._each(request) if site.is_readable), self.demand(request)
        for count in self._counts(request, pool):
            if count <= more_than or not any(demand.holds(site) for site in pool.roomiest(count)):
                continue
            found = demand.roomy(self._choices(request, pool, count))
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
        share = max(footprint.gate_bytes for footprint in self.demand(request).footprints(widest))
        roomy = sorted((s for s in pool.gpus if s.narrowest >= share), key=lambda s: (len(s.unload), -s.narrowest))
        claimed = [site for site in roomy if is_claimed(site, self.world)]
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
        return *self._standing(site, request), tight, len(site.unload), -min(after, default=-(2**62))

    def _reluctance(self, request: SwitchRequest, site: Site) -> tuple[object, ...]:
        """What several GPUs that have the room cost people: who waits, who goes, how many are taken; then how well they suit."""
        demand = self.demand(request)
        mixed = request.mode is Mode.VLLM and len({*site.places}) > 1
        how_many = len(site.unload), len(site.devices)
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
