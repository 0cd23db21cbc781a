"""The third step of planning: choosing the group of devices that has room and disturbs people least. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, combinations, product
from math import inf
from typing import Any

from webapp.domain.footprint import Footprint
from webapp.domain.modes import Mode
from webapp.domain.plan import DevicePlan, Eviction, SwitchRequest, Verdict
from webapp.domain.planning.admission import judge
from webapp.domain.planning.candidates import Candidates, Tier
from webapp.domain.planning.requirement import Requirement
from webapp.domain.planning.state import DeviceGroup, PlanningState, group_of, is_claimed, joined, reading_of

_OTHERS_TRIED = 10
"""Up to this many models of other people in a group, every combination is tried; of more, the largest go first."""


@dataclass(frozen=True)
class Placement:
    """One group of devices with its arithmetic."""

    request: SwitchRequest
    """The request with the chosen devices."""
    devices: tuple[DevicePlan, ...]
    unload: tuple[Eviction, ...]
    anywhere: bool
    """Whether the person left the choice of the device to Warden."""
    instead_of: Placement | None = None
    """The best single device, if several were chosen although none was named."""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the devices."""
        verdicts = {device.verdict for device in self.devices}
        return next((v for v in (Verdict.REFUSED, Verdict.TIGHT) if v in verdicts), Verdict.FITS)

    @property
    def device_ids(self) -> tuple[str, ...]:
        return tuple(device.device_id for device in self.devices)


def place(requirement: Requirement, candidates: Candidates, planning_state: PlanningState) -> Placement:
    """Place a launch on the chosen group, or on the best single choice if no group has room."""
    search, anywhere = _Search(requirement, candidates.request, planning_state), candidates.request.devices is None
    group = search.chosen(candidates) or search.alone(candidates)
    if group is None:
        return Placement(candidates.request, (), (), anywhere=True)
    placed = search.placed(group)
    if not anywhere or len(group.devices) < 2 or (alone := search.alone(candidates)) is None:
        return placed
    return replace(placed, instead_of=search.placed(alone))


def chosen(requirement: Requirement, candidates: Candidates, planning_state: PlanningState) -> DeviceGroup | None:
    """Return the group that has room and disturbs people least; ``None`` if none has room.

    The nearest reach with room is chosen, so another person's model is unloaded only if there is no room without that.
    Within the reach, these criteria apply in order: no running operation, no model that must stay, the fewest models of
    other people, the better verdict, the fewest evictions, the most memory left. Several devices are chosen if no
    single one can be used at once.
    """
    return _Search(requirement, candidates.request, planning_state).chosen(candidates)


def together(
    requirement: Requirement, candidates: Candidates, more_than: int, planning_state: PlanningState
) -> DeviceGroup | None:
    """Return the group of more than ``more_than`` GPUs that has room and disturbs people least, or ``None``."""
    search = _Search(requirement, candidates.request, planning_state)
    found = (search.together(tier, more_than) for tier in candidates.tiers)
    return next((group for group in found if group is not None), None)


def openings(
    requirement: Requirement, tier: Tier, request: SwitchRequest, planning_state: PlanningState
) -> list[DeviceGroup]:
    """Return the readable groups of a tier without a model that must stay: each single choice, and several GPUs.

    Of equal GPUs only the roomiest are returned: if those do not have room, the others do not either.
    """
    choices = [group for group in tier.choices if group.is_readable and not group.is_kept_from(request)]
    if request.devices is not None:
        return choices
    gpus = [group for group in tier.gpus if not group.is_kept_from(request)]
    counts = requirement.counts(len(gpus))
    return [*choices, *(group for count in counts for group in roomiest(gpus, count, planning_state))]


def roomiest(gpus: Sequence[DeviceGroup], count: int, planning_state: PlanningState) -> Iterator[DeviceGroup]:
    """Yield the group with the most room for each mixture of ``count`` GPUs of different classes."""
    seen = set()
    likes = {places: number for number, places in enumerate(dict.fromkeys(gpu.places for gpu in gpus))}
    for some in _by_room(gpus, count):
        mixture = tuple(sorted(likes[gpu.places] for gpu in some))
        if mixture not in seen:
            seen.add(mixture)
            yield joined(some, planning_state)


def _by_room(gpus: Sequence[DeviceGroup], count: int) -> Iterator[list[DeviceGroup]]:
    """Yield every group of ``count`` GPUs, those with the most room first."""
    by_room = sorted(range(len(gpus)), key=lambda index: -gpus[index].narrowest)
    return ([gpus[index] for index in sorted(some)] for some in combinations(by_room, count))


@dataclass(frozen=True)
class _Search:
    """The choice among the candidates of one request."""

    requirement: Requirement
    request: SwitchRequest
    planning_state: PlanningState

    def chosen(self, candidates: Candidates) -> DeviceGroup | None:
        found = (self._choose(tier) for tier in candidates.tiers)
        return next((group for group in found if group is not None), None)

    def _choose(self, tier: Tier) -> DeviceGroup | None:
        alone = self._best(self._roomy(tier))
        if self.request.devices is not None or (alone is not None and not any(self._obstacles(alone))):
            return alone
        several = self.together(tier, 1)
        if alone is None or several is None:
            return several or alone
        return several if self._spares(several, alone) else alone

    def alone(self, candidates: Candidates) -> DeviceGroup | None:
        """Return the best of the named or single devices, preferring those with room."""
        for tier in candidates.tiers:
            if roomy := self._roomy(tier):
                return self._best(roomy)
        return self._best(candidates.confirmed.choices)

    def _roomy(self, tier: Tier) -> list[DeviceGroup]:
        return [self._leanest(group) for group in tier.choices if self.requirement.fits(group)]

    def _best(self, groups: Sequence[DeviceGroup]) -> DeviceGroup | None:
        return min(groups, key=self._rank, default=None)

    def together(self, tier: Tier, more_than: int) -> DeviceGroup | None:
        """Return the group of more than ``more_than`` GPUs that has room in this tier and disturbs people least.

        A lower bound of a group's cost is known before its evictions are chosen, so groups that cannot win are skipped.
        """
        counts = [count for count in self.requirement.counts(len(tier.gpus)) if count > more_than]
        groups = [gpus for count in counts for gpus in _by_room(tier.gpus, count) if self._fits(gpus)]
        with_others = {gpu.device_ids[0]: self._after(_own(gpu), gpu).narrowest for gpu in tier.gpus}
        bounds = sorted((self._bound(gpus, with_others), number) for number, gpus in enumerate(groups))
        best: DeviceGroup | None = None
        least: tuple[Any, ...] = ()
        for bound, number in bounds:
            if best is not None and bound > least[: len(bound)]:
                break
            group = self._leanest(joined(groups[number], self.planning_state))
            cost = (*self._reluctance(group), number)
            if best is None or cost < least:
                best, least = group, cost
        return best

    def _bound(self, gpus: Sequence[DeviceGroup], with_others: Mapping[str, int]) -> tuple[Any, ...]:
        """Return a lower bound of the cost of GPUs with room, in the form in which ``_reluctance`` begins."""
        others = {e.instance_id: e for gpu in gpus for e in gpu.unload if e.is_others}
        fewest = 0
        if others:
            ids, needs = [gpu.device_ids[0] for gpu in gpus], self.requirement.needs(tuple(g.places[0] for g in gpus))
            shortfalls = {device_id: need - with_others[device_id] for device_id, need in zip(ids, needs, strict=True)}
            fewest = _fewest([*others.values()], shortfalls, self.planning_state)
        claimed = any(is_claimed(gpu, self.planning_state) for gpu in gpus)
        own = {e.instance_id for gpu in gpus for e in gpu.unload if not e.is_others}
        return claimed, False, fewest, -inf if fewest else 0.0, len(own), len(gpus)

    def _fits(self, gpus: Sequence[DeviceGroup]) -> bool:
        needs = self.requirement.needs(tuple(gpu.places[0] for gpu in gpus))
        return all(need <= gpu.headrooms[0] for need, gpu in zip(needs, gpus, strict=True))

    def _leanest(self, group: DeviceGroup) -> DeviceGroup:
        """Return the group with the fewest of other people's models unloaded that leaves room; on a tie, the longest
        idle.

        Confirmed models are unloaded before others, and idle ones before leased or used ones.
        """
        others = [eviction for eviction in group.unload if eviction.is_others]
        if not others:
            return group
        own = _own(group)
        without = self._after(own, group)
        shortfalls = dict(zip(group.device_ids, self.requirement.shortfalls(without), strict=True))
        others.sort(key=lambda e: (not e.is_confirmed_by(self.request), e.is_taken, -e.idle_s))
        for evicted in _fewest_first(others, shortfalls, self.planning_state):
            lean = self._after((*own, *evicted), group)
            if self.requirement.fits(lean):
                return lean
        return group

    def _after(self, unload: Sequence[Eviction], group: DeviceGroup) -> DeviceGroup:
        """Return the group after unloading only ``unload``."""
        return joined(
            [
                group_of(
                    reading_of(self.planning_state, device_id),
                    tuple(eviction for eviction in unload if device_id in eviction.freed_bytes),
                    self.planning_state,
                )
                for device_id in group.device_ids
            ],
            self.planning_state,
        )

    def _obstacles(self, group: DeviceGroup) -> tuple[bool, bool]:
        """Return whether an operation blocks the launch, and whether a model must stay."""
        return is_claimed(group, self.planning_state), group.is_kept_from(self.request)

    def _spares(self, several: DeviceGroup, alone: DeviceGroup) -> bool:
        """Return whether several GPUs avoid an obstacle of the single device without adding another."""
        those, that = self._obstacles(several), self._obstacles(alone)
        return those != that and all(one <= other for one, other in zip(those, that, strict=True))

    def _rank(self, group: DeviceGroup) -> tuple[object, ...]:
        """Return a sort key of named or single devices: cost for people, then suitability; the lowest is best."""
        tight = self.requirement.fits(group) and self._is_tight(group)
        after = [d.available_bytes - f.total_bytes for f, d in self._launched(group) if d.available_bytes is not None]
        cost = (*self._obstacles(group), *_cost_to_others(group), tight, len(group.unload))
        return *cost, -min(after, default=-(2**62))

    def _reluctance(self, group: DeviceGroup) -> tuple[object, ...]:
        """Return a sort key of several GPUs with room: cost for people, then suitability; the lowest is best."""
        mixed = self.request.mode is Mode.VLLM and len({*group.places}) > 1
        cost = (*self._obstacles(group), *_cost_to_others(group), len(group.unload), len(group.devices))
        return *cost, self._is_tight(group), mixed, max(self.requirement.shortfalls(group))

    def _is_tight(self, group: DeviceGroup) -> bool:
        percent = self.planning_state.policy.fits_percent
        return any(f.required_bytes > (d.available_bytes or 0) * percent / 100 for f, d in self._launched(group))

    def _launched(self, group: DeviceGroup) -> Iterator[tuple[Footprint, DevicePlan]]:
        return zip(self.requirement.footprints(group.places), group.devices, strict=True)

    def placed(self, group: DeviceGroup) -> Placement:
        """Return the placement of the launch on these devices."""
        percent = self.planning_state.policy.fits_percent
        plans = tuple(_with_launch(device, footprint, percent) for footprint, device in self._launched(group))
        placed = replace(self.request, devices=group.device_ids)
        return Placement(placed, plans, group.unload, anywhere=self.request.devices is None)


def _cost_to_others(group: DeviceGroup) -> tuple[int, float]:
    """Return how many models of other people are unloaded, and how recently any of them was used."""
    idle = [eviction.idle_s for eviction in group.unload if eviction.is_others]
    return len(idle), -min(idle, default=0.0)


def _own(group: DeviceGroup) -> tuple[Eviction, ...]:
    return tuple(eviction for eviction in group.unload if not eviction.is_others)


def _fewest_first(
    others: Sequence[Eviction], shortfalls: Mapping[str, int], planning_state: PlanningState
) -> Iterator[tuple[Eviction, ...]]:
    """Yield combinations of ``others`` that may cover the shortfalls, smallest first, then in the order of ``others``.

    Combinations with leased or used models come last.
    """
    largest = sorted(others, key=lambda e: (e.is_taken, -sum(e.freed_bytes.values())))
    in_order = [eviction for eviction in others if eviction in largest[:_OTHERS_TRIED]]
    choices = _combinations(in_order, _fewest(others, shortfalls, planning_state))
    more = (largest[:count] for count in range(_OTHERS_TRIED + 1, len(largest) + 1))
    short = {device_id: shortfall for device_id, shortfall in shortfalls.items() if shortfall > 0}
    for some in chain(choices, more):
        if all(sum(_gives(e, d, planning_state) for e in some) >= shortfall for d, shortfall in short.items()):
            yield tuple(some)


def _combinations(others: Sequence[Eviction], least: int) -> Iterator[Sequence[Eviction]]:
    """Yield every combination of at least ``least``, by the number of leased or used models, then by size, then in
    order."""
    idle = [index for index, eviction in enumerate(others) if not eviction.is_taken]
    taken = [index for index, eviction in enumerate(others) if eviction.is_taken]
    for of_taken in range(len(taken) + 1):
        for of_idle in range(max(least - of_taken, 0), len(idle) + 1):
            pairs = product(combinations(idle, of_idle), combinations(taken, of_taken))
            for some in sorted(tuple(sorted((*one, *other))) for one, other in pairs):
                yield [others[index] for index in some]


def _fewest(others: Sequence[Eviction], shortfalls: Mapping[str, int], planning_state: PlanningState) -> int:
    """Return a lower bound of how many of ``others`` must be unloaded to cover the shortfalls."""
    fewest = []
    for device_id, shortfall in shortfalls.items():
        gives = sorted((_gives(each, device_id, planning_state) for each in others), reverse=True)
        sums = enumerate(accumulate(gives, initial=0))
        fewest.append(next((count for count, freed in sums if freed >= shortfall), len(gives)))
    devices_each = max((len(each.freed_bytes) for each in others), default=1)
    return max(*fewest, -(-sum(fewest) // devices_each))


def _gives(eviction: Eviction, device_id: str, planning_state: PlanningState) -> int:
    """Return the most that an eviction frees on a device."""
    held = eviction.freed_bytes.get(device_id, 0)
    return held + planning_state.promised_bytes.get(device_id, {}).get(eviction.instance_id, 0)


def _with_launch(device: DevicePlan, footprint: Footprint, fits_percent: float) -> DevicePlan:
    """Return the device with ``footprint`` on it; the footprint then has the device's id."""
    available, named = device.available_bytes, footprint.on(device.device_id)
    if available is None:
        return replace(device, footprint=named)
    return replace(
        device,
        footprint=named,
        free_after_bytes=available - footprint.total_bytes,
        verdict=judge(footprint.required_bytes, available, device.reserve_bytes, fits_percent),
    )
