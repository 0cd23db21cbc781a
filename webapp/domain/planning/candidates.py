"""The second step of planning: the devices that a request may take, and what it may unload there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from webapp.domain.memory import DeviceKind, Reading
from webapp.domain.plan import Reach, SwitchRequest
from webapp.domain.planning.state import DeviceGroup, PlanningState, group_of, joined, reading_of
from webapp.errors import InvalidRequest, UnknownDevice, UnknownInstance


@dataclass(frozen=True)
class Tier:
    """The devices as they are after every model that a request may unload within one reach is unloaded."""

    reach: Reach
    choices: tuple[DeviceGroup, ...]
    """The named devices as one group, or each of the devices that Warden may choose from."""
    gpus: tuple[DeviceGroup, ...]
    """Each readable GPU, even if others were named: the candidates for a launch on several GPUs."""


@dataclass(frozen=True)
class Candidates:
    """The devices that a request may take, nearest reach first."""

    request: SwitchRequest
    tiers: tuple[Tier, ...]
    """Contains only reaches that unload more than the one before."""

    @property
    def confirmed(self) -> Tier:
        """The farthest reach that needs no confirmation."""
        return [tier for tier in self.tiers if tier.reach <= Reach.CONFIRMED][-1]


def find_candidates(request: SwitchRequest, planning_state: PlanningState) -> Candidates:
    """Return the devices that ``request`` may take within each reach."""
    return Candidates(
        request, tuple(tier_of(request, reach, planning_state) for reach in _reaches(request, planning_state))
    )


def tier_of(request: SwitchRequest, reach: Reach, planning_state: PlanningState) -> Tier:
    """Return the devices that ``request`` may take, without the models that it may unload within ``reach``.

    The host is never a candidate next to GPUs, unless it is named.
    """

    def single(reading: Reading) -> DeviceGroup:
        there = planning_state.evictions_from[reading.device_id]
        return group_of(reading, tuple(each for each in there if each.goes(request, reach)), planning_state)

    singles = tuple(single(reading) for reading in _automatic(planning_state))
    choices = singles
    if request.devices is not None:
        named = [single(reading_of(planning_state, device_id)) for device_id in request.devices]
        choices = (joined(named, planning_state),)
    return Tier(reach, choices, tuple(g for g in singles if g.places[0].kind is DeviceKind.GPU and g.is_readable))


def _automatic(planning_state: PlanningState) -> Sequence[Reading]:
    readings = () if planning_state.sample is None else planning_state.sample.readings
    return [r for r in readings if r.kind is DeviceKind.GPU] or readings


def _reaches(request: SwitchRequest, planning_state: PlanningState) -> Iterator[Reach]:
    """Yield the reaches that ``request`` may use, without those that unload no more than the one before.

    A launch against the estimate takes the risk instead of another person's model: only named models are unloaded for
    it.
    """
    before = None
    for reach in (Reach.OWN, Reach.CONFIRMED) if request.load_anyway else Reach:
        evicted = [eviction.instance_id for eviction in planning_state.evictions if eviction.goes(request, reach)]
        if evicted != before:
            yield reach
        before = evicted


def check_devices(request: SwitchRequest, planning_state: PlanningState) -> None:
    """Raise InvalidRequest or UnknownDevice if the named devices cannot be taken together."""
    if request.devices is None:
        return
    if not request.devices or len(set(request.devices)) != len(request.devices):
        raise InvalidRequest(field="devices", value=",".join(request.devices), allowed="each device once, at least one")
    known = planning_state.device_ids
    for device_id in request.devices:
        if device_id not in known:
            raise UnknownDevice(device=device_id, known=", ".join(known))


def check_unload(request: SwitchRequest, planning_state: PlanningState) -> None:
    """Raise InvalidRequest or UnknownInstance if a model to unload is named twice or is not running."""
    if len(set(request.unload)) != len(request.unload):
        raise InvalidRequest(field="unload", value=",".join(request.unload), allowed="each model once")
    running = {instance.id for instance in planning_state.instances}
    for instance_id in request.unload:
        if instance_id not in running:
            raise UnknownInstance(instance=instance_id)
