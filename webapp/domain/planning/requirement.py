"""The first step of planning: how much memory a launch needs on each device of a group. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from webapp.domain.calibration import Calibration, corrected
from webapp.domain.footprint import Conditions, Footprint, Launch, in_whole_shares
from webapp.domain.memory import DeviceKind, Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.sharing import counts
from webapp.domain.planning.state import DeviceClass, DeviceGroup, Headroom, place_of
from webapp.message import Message


@dataclass(frozen=True)
class Requirement:
    """The memory of a model in one mode with one set of options, estimated and corrected by earlier launches."""

    mode: Mode
    options: LaunchOptions
    model: CachedModel = field(repr=False)
    calibration: Calibration = field(repr=False)
    _footprints: dict[tuple[DeviceClass, ...], tuple[Footprint, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Cached, by the classes of the devices."""
    _launches: dict[tuple[object, ...], Launch] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Cached intermediate results, which do not depend on the number of devices."""

    def footprints(self, places: tuple[DeviceClass, ...]) -> tuple[Footprint, ...]:
        """Return the footprint on each device when they are used together; the footprints have no device id."""
        if places not in self._footprints:
            # Only vLLM's need depends on the size of the device, so eight GPUs of many sizes are alike to transformers.
            alike = places if self.mode is Mode.VLLM else tuple(place._replace(usable_bytes=0) for place in places)
            self._footprints[places] = self._footprints.get(alike) or self._estimated(alike)
            self._footprints[alike] = self._footprints[places]
        return self._footprints[places]

    def _estimated(self, places: tuple[DeviceClass, ...]) -> tuple[Footprint, ...]:
        unlike = tuple(dict.fromkeys(places))
        launch = self._launch(unlike)
        estimated = tuple(launch.share_on(place.kind, len(places)) for place in unlike)
        names = [place.name for place in places]
        kind = self.calibration.kind_of(self.model.id, self.model.revision, self.mode, self.options, names)
        footprints = corrected(estimated, kind, self.calibration)
        if self.mode is Mode.VLLM and launch.conditions.device_memory_bytes:
            footprints = in_whole_shares(footprints, [place.usable_bytes for place in unlike])
        of_place = dict(zip(unlike, footprints, strict=True))
        return tuple(of_place[place] for place in places)

    def _launch(self, places: tuple[DeviceClass, ...]) -> Launch:
        on_host = any(place.kind is DeviceKind.HOST for place in places)
        usable = min(place.usable_bytes for place in places)
        known = () if on_host or usable <= 0 else (usable, places[0].name or "")
        if (on_host, known) not in self._launches:
            conditions = replace(Conditions(*known), shares_libraries=self.calibration.shares_libraries)
            launch = Launch(self.model, self.options, self.mode, conditions, on_host=on_host)
            self._launches[on_host, known] = launch
        return self._launches[on_host, known]

    def needs(self, places: tuple[DeviceClass, ...]) -> tuple[int, ...]:
        """Return the bytes that the launch needs on each of the devices."""
        return tuple(footprint.required_bytes for footprint in self.footprints(places))

    def shortfalls(self, group: DeviceGroup) -> tuple[int, ...]:
        """Return the shortfall of each device in bytes; 0 or less if it has room."""
        return tuple(need - headroom for need, headroom in zip(self.needs(group.places), group.headrooms, strict=True))

    def fits(self, group: DeviceGroup) -> bool:
        """Return whether every device of the group has room."""
        return max(self.shortfalls(group)) <= 0

    def counts(self, gpus: int) -> tuple[int, ...]:
        """Return the numbers of GPUs, from two to ``gpus``, among which the model can be divided."""
        return counts(self.mode, self.model, gpus)


def requirement_of(request: SwitchRequest, model: CachedModel, calibration: Calibration) -> Requirement:
    """Return the requirement of ``request`` for ``model``."""
    return Requirement(request.mode, request.options, model, calibration)


def cap_context(request: SwitchRequest, model: CachedModel) -> tuple[SwitchRequest, tuple[Message, ...]]:
    """Return ``request`` with a context that the model supports, and a note if it was shortened."""
    limit = model.context_length
    if limit is None or request.options.max_tokens <= limit:
        return request, ()
    note = Message("context_capped", {"model": model.id, "max_tokens": limit, "asked": request.options.max_tokens})
    return replace(request, options=replace(request.options, max_tokens=limit)), (note,)


def needed_bytes(request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom]) -> tuple[int, ...]:
    """Return the bytes that a plan of ``request`` counts for ``model`` on each device of ``headrooms``, used
    together."""
    capped, _ = cap_context(request, model)
    places = tuple(DeviceClass(headroom.kind, headroom.device_name, headroom.usable_bytes) for headroom in headrooms)
    return requirement_of(capped, model, headrooms[0].calibration).needs(places)


def footprints_on(
    devices: Sequence[str], request: SwitchRequest, model: CachedModel, sample: Sample | None, calibration: Calibration
) -> tuple[Footprint, ...]:
    """Return the footprints that a plan of ``request`` counts on ``devices``, even on those without a reading."""
    places = tuple(_place(device_id, sample) for device_id in devices)
    footprints = requirement_of(request, model, calibration).footprints(places)
    return tuple(footprint.on(device_id) for footprint, device_id in zip(footprints, devices, strict=True))


def _place(device_id: str, sample: Sample | None) -> DeviceClass:
    reading = None if sample is None else sample.reading(device_id)
    return DeviceClass(DeviceKind(device_id.partition("-")[0]), None, 0) if reading is None else place_of(reading)
