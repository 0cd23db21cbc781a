"""The last step of planning: changes that make a refused launch fit, the least disruptive first. Pure.

Each alternative is placed as a plan is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from itertools import combinations, islice

from webapp.domain.instance import ANSWERING
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.plan import Eviction, Reach, SwitchRequest, WayOut
from webapp.domain.planning.candidates import Tier, find_candidates, tier_of
from webapp.domain.planning.placement import Placement, chosen, openings, roomiest, together
from webapp.domain.planning.requirement import Requirement, requirement_of
from webapp.domain.planning.state import DeviceGroup, PlanningState, held_on, promised_on
from webapp.domain.planning.verdict import is_ruled_out
from webapp.message import Message, Param

SMALLEST_TOKENS = 256
"""The shortest context to offer."""
TOKENS_STEP = 64
"""Offered contexts are multiples of this."""
UNLOADS_SHOWN = 3
"""How many models are offered to be unloaded individually."""
PAIRS_TRIED = 6
"""How many pairs of models with enough memory are tried: each takes a plan."""


@dataclass(frozen=True)
class Resting:
    """A loaded model that could be unloaded."""

    instance_id: str
    model_id: str
    owner: str
    idle_s: float
    in_flight: int | None
    gives_bytes: Mapping[str, int]
    """An upper bound, by device."""


@dataclass(frozen=True)
class Missing:
    """A launch on ``count`` of some devices, with the shortfall of each in bytes; negative if it has room."""

    count: int
    shortfall_bytes: Mapping[str, int]

    @cached_property
    def short(self) -> int:
        """How many more devices need room."""
        return self.count - sum(shortfall <= 0 for shortfall in self.shortfall_bytes.values())

    def is_met(self, gives_bytes: Mapping[str, int]) -> bool:
        """Return whether freeing these bytes, by device, would be enough."""
        shortfall = self.shortfall_bytes
        return self.short <= sum(0 < shortfall.get(device, 0) <= size for device, size in gives_bytes.items())


class Cost(IntEnum):
    """The cost of an alternative, from nothing to an effect on others."""

    NOTHING = 0
    """Another device, without evictions."""
    SEVERAL_DEVICES = 1
    """The same launch on more devices than requested."""
    OWN_OPTIONS = 2
    """A shorter context, fewer requests at once."""
    OWN_MODEL = 3
    """An idle model of the same person is unloaded."""
    OTHERS_MODEL = 4
    """An idle model of another person is unloaded."""
    ALL_MODELS = 5
    """All models on the devices are unloaded."""
    HALF_PRECISION = 6
    INT8 = 7
    OTHER_MODE = 8
    INT4 = 9
    SMALLEST = 10
    BUSY_MODEL = 11
    """An answer in progress is cut off."""


_OF_PRECISION = {Precision.FP16: Cost.HALF_PRECISION, Precision.INT8: Cost.INT8, Precision.INT4: Cost.INT4}


@dataclass(frozen=True)
class Alternative:
    """A change that makes the launch fit, with the data for its price."""

    message: Message
    request: SwitchRequest
    cost: Cost
    """The cost of the change alone, without that of the evictions."""
    lost: float = 0.0
    """Orders alternatives of equal cost, smallest first: share of the options given up, or how recently a model was
    used."""
    victims: tuple[Eviction, ...] = ()
    """Evictions that this alternative adds to those of the refused request."""


def price(alternative: Alternative, actor: str | None) -> tuple[Cost, float]:
    """Return the price of an alternative for the people of the server, as a sort key: the lowest is best.

    1. Nothing is lost: another device, then several. If models are unloaded for that, their cost counts.
    2. The person's own options: a shorter context or a smaller batch, whichever gives up the smaller share.
    3. Models: an idle one of their own, then other people's, the longest idle first; then all of them.
    4. The quality and speed of the answers: 16 bits, INT8, the other mode, 4 bits, the smallest of all.
    5. Last, an unload that cuts off an answer in progress.
    """
    if any(victim.in_flight != 0 for victim in alternative.victims):
        return Cost.BUSY_MODEL, alternative.lost
    if alternative.victims and alternative.cost < Cost.ALL_MODELS and alternative.cost is not Cost.OWN_OPTIONS:
        own = all(victim.owner == actor for victim in alternative.victims)
        return (Cost.OWN_MODEL if own else Cost.OTHERS_MODEL), alternative.lost
    return alternative.cost, alternative.lost


def find_alternatives(
    request: SwitchRequest, refused: Placement, model: CachedModel, planning_state: PlanningState, actor: str | None
) -> tuple[WayOut, ...]:
    """Return the changes to ``request`` that make it fit, cheapest first; evictions may still need confirmation."""
    search = _AlternativeSearch(request, refused, model, planning_state, actor)
    found = sorted(search.alternatives(), key=lambda alternative: price(alternative, actor))
    return tuple(WayOut(alternative.message, alternative.request) for alternative in found)


def largest(fits: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the largest number from ``least`` to ``most`` that fits, by bisection; ``None`` if ``least`` does not
    fit."""
    if least > most or not fits(least):
        return None
    if fits(most):
        return most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


class _AlternativeSearch:
    """The search for one refused request."""

    def __init__(
        self,
        request: SwitchRequest,
        refused: Placement,
        model: CachedModel,
        planning_state: PlanningState,
        actor: str | None,
    ) -> None:
        self._request, self._model, self._planning_state, self._actor = request, model, planning_state, actor
        self._evicted = {eviction.instance_id for eviction in refused.unload}

    def _requirement(self, request: SwitchRequest) -> Requirement:
        return requirement_of(request, self._model, self._planning_state.calibration)

    def _openings(self, request: SwitchRequest, reach: Reach) -> list[DeviceGroup]:
        tier = tier_of(request, reach, self._planning_state)
        return openings(self._requirement(request), tier, request, self._planning_state)

    def _fits(self, request: SwitchRequest, groups: Iterable[DeviceGroup]) -> bool:
        requirement = self._requirement(request)
        return any(requirement.fits(group) for group in groups)

    def _chosen(self, request: SwitchRequest) -> DeviceGroup | None:
        """Return where ``request`` would be placed; ``None`` if it would be refused for more than missing
        confirmations."""
        if not self._fits(request, self._openings(request, Reach.IDLE)):
            return None
        candidates = find_candidates(request, self._planning_state)
        group = chosen(self._requirement(request), candidates, self._planning_state)
        if group is None or group.is_kept_from(request):
            return None
        placed, anywhere = replace(request, devices=group.device_ids), request.devices is None
        return None if is_ruled_out(placed, self._model, self._planning_state, anywhere=anywhere) else group

    def alternatives(self) -> Iterator[Alternative]:
        yield from self._other_device()
        yield from self._several_devices()
        yield from self._smaller()
        yield from self._unload()
        yield from self._precision()
        yield from self._other_mode()

    def _try(
        self, message: Message, request: SwitchRequest, cost: Cost, lost: float = 0.0, *, devices: int | None = None
    ) -> Iterator[Alternative]:
        """Yield ``request`` if it would be accepted, on at most ``devices`` devices."""
        group = self._chosen(request)
        if group is not None and (devices is None or len(group.devices) <= devices):
            victims = tuple(eviction for eviction in group.unload if eviction.instance_id not in self._evicted)
            yield Alternative(message, request, cost, lost, victims)

    def _other_device(self) -> Iterator[Alternative]:
        """Yield other devices, as many as requested or fewer."""
        if self._request.devices is not None:
            changed, asked = replace(self._request, devices=None), len(self._request.devices)
            yield from self._try(Message("way_out_other_device"), changed, Cost.NOTHING, devices=asked)

    def _several_devices(self) -> Iterator[Alternative]:
        """Yield more GPUs than requested; if no devices were named, several have been tried already."""
        if self._request.devices is None:
            return
        candidates = find_candidates(self._request, self._planning_state)
        asked = len(self._request.devices)
        group = together(self._requirement(self._request), candidates, asked, self._planning_state)
        if group is not None:
            params: dict[str, Param] = {"count": len(group.devices), "devices": ", ".join(group.device_ids)}
            changed = replace(self._request, devices=group.device_ids)
            yield from self._try(Message("way_out_devices", params), changed, Cost.SEVERAL_DEVICES)

    def _smaller(self) -> Iterator[Alternative]:
        """Yield a shorter context or a smaller batch; both together only if neither is enough alone."""
        found = [*self._shorter(self._request), *self._fewer()]
        if not found and self._request.options.batch_size > 1:
            found += self._shorter(_with(self._request, batch_size=1))
        yield from found

    def _shorter(self, request: SwitchRequest) -> Iterator[Alternative]:
        asked, batch = self._request.options, request.options.batch_size
        tokens = self._longest(request)
        if tokens is None:
            return
        params: dict[str, Param] = {"max_tokens": tokens}
        message = Message("way_out_tokens", params)
        if batch != asked.batch_size:
            message = Message("way_out_tokens_batch", {**params, "batch_size": batch})
        lost = 1 - tokens * batch / (asked.max_tokens * asked.batch_size)
        yield from self._try(message, _with(request, max_tokens=tokens), Cost.OWN_OPTIONS, lost)

    def _fewer(self) -> Iterator[Alternative]:
        asked = self._request.options.batch_size
        batch = self._most(self._request, lambda n: {"batch_size": n}, 1, asked - 1)
        if batch is not None:
            message = Message("way_out_batch", {"batch_size": batch})
            yield from self._try(message, _with(self._request, batch_size=batch), Cost.OWN_OPTIONS, 1 - batch / asked)

    def _longest(self, request: SwitchRequest) -> int | None:
        """Return the longest context that fits and is shorter than that of ``request``."""
        steps = (request.options.max_tokens - 1) // TOKENS_STEP
        found = self._most(request, lambda n: {"max_tokens": n * TOKENS_STEP}, SMALLEST_TOKENS // TOKENS_STEP, steps)
        return None if found is None else found * TOKENS_STEP

    def _most(
        self, request: SwitchRequest, change: Callable[[int], Mapping[str, int]], least: int, most: int
    ) -> int | None:
        for reach in (Reach.CONFIRMED, Reach.IDLE):
            groups = self._openings(request, reach)

            def fits(n: int, groups: Sequence[DeviceGroup] = groups) -> bool:
                return self._fits(_with(request, **change(n)), groups)

            if (found := largest(fits, least, most)) is not None:
                return found
        return None

    def _precision(self) -> Iterator[Alternative]:
        for precision in _lighter(self._request, self._model):
            changed = _in(self._request, precision)
            message = Message("way_out_precision", {"precision": precision.value})
            found = [*self._try(message, changed, _OF_PRECISION[precision])]
            if not found and precision is Precision.INT4:
                found = [*self._smallest(_with(changed, batch_size=1))]
            yield from found

    def _smallest(self, request: SwitchRequest) -> Iterator[Alternative]:
        """Yield the fewest bits with one request at a time, and the longest context that then fits."""
        asked = request.options.max_tokens
        tokens: int | None = asked
        if not self._fits(request, self._openings(request, Reach.IDLE)):
            tokens = self._longest(request)
        if tokens is not None:
            precision = request.options.precision.value
            message = Message("way_out_smallest", {"precision": precision, "max_tokens": tokens, "batch_size": 1})
            yield from self._try(message, _with(request, max_tokens=tokens), Cost.SMALLEST)

    def _other_mode(self) -> Iterator[Alternative]:
        mode = next(mode for mode in Mode if mode is not self._request.mode)
        changed = replace(self._request, mode=mode)
        yield from self._try(Message("way_out_mode", {"mode": mode.value}), changed, Cost.OTHER_MODE)

    def _unload(self) -> Iterator[Alternative]:
        """If other models are kept, yield one to unload, or else two idle ones, or else all; a used one only if
        allowed."""
        if not self._request.keep_others:
            return
        found = [*self._unload_one()] or [*self._unload_two()]
        if not found:
            changed = replace(self._request, keep_others=False, unload=())
            found = [*self._try(Message("way_out_unload_others"), changed, Cost.ALL_MODELS)]
        yield from found

    def _unload_one(self) -> Iterator[Alternative]:
        shown = 0
        for each in self._willing:
            if shown < UNLOADS_SHOWN and self._may_do(each.gives_bytes):
                alternatives = [*self._without((each,), _message_of(each))]
                shown += len(alternatives)
                yield from alternatives

    def _unload_two(self) -> Iterator[Alternative]:
        idle = [each for each in self._willing if each.in_flight == 0]
        pairs = (
            (one, other)
            for one, other in combinations(idle, 2)
            if self._may_do(_both(one.gives_bytes, other.gives_bytes))
        )
        for pair in islice(pairs, PAIRS_TRIED):
            alternatives = [*self._without(pair, _message_of_two(*pair))]
            if alternatives:
                yield from alternatives
                return

    @cached_property
    def _willing(self) -> list[Resting]:
        """Return the models that may be unloaded: idle ones first, then the person's own, then the longest idle."""
        resting = _resting(self._request, self._planning_state)
        candidates = [each for each in resting if self._request.interrupt_busy or each.in_flight == 0]
        return sorted(candidates, key=lambda r: (r.in_flight != 0, r.owner != self._actor, -r.idle_s))

    @cached_property
    def _missing(self) -> tuple[Missing, ...]:
        tier = find_candidates(self._request, self._planning_state).confirmed
        return tuple(_missing(self._requirement(self._request), tier, self._request, self._planning_state))

    def _may_do(self, gives_bytes: Mapping[str, int]) -> bool:
        """Return whether these bytes could be enough on one of the choices; a plan is tried only then."""
        return any(missing.is_met(gives_bytes) for missing in self._missing)

    def _without(self, evicted: Sequence[Resting], message: Message) -> Iterator[Alternative]:
        ids = tuple(each.instance_id for each in evicted)
        changed = replace(self._request, unload=(*self._request.unload, *ids))
        for alternative in self._try(message, changed, Cost.OTHERS_MODEL, -min(each.idle_s for each in evicted)):
            if set(ids) <= {victim.instance_id for victim in alternative.victims}:
                yield alternative


def _resting(request: SwitchRequest, planning_state: PlanningState) -> Iterator[Resting]:
    """Yield the ready models on the devices of ``request`` that it does not unload yet."""
    asked = planning_state.device_ids if request.devices is None else request.devices
    for instance in planning_state.instances:
        if instance.state in ANSWERING and instance.id not in request.unload and set(instance.devices) & set(asked):
            used_at = max(instance.started_at, instance.last_used_at or 0)
            yield Resting(
                instance_id=instance.id,
                model_id=instance.model_id,
                owner=instance.owner,
                idle_s=max(0.0, planning_state.now - used_at),
                in_flight=instance.in_flight,
                gives_bytes={
                    d: held_on(instance, d, planning_state) + promised_on(instance, d, planning_state)
                    for d in instance.devices
                },
            )


def _missing(
    requirement: Requirement, tier: Tier, request: SwitchRequest, planning_state: PlanningState
) -> Iterator[Missing]:
    """Yield the shortfalls for each number of devices; in a mixture of GPUs the smallest need counts for each."""
    choices = [group for group in tier.choices if group.is_readable]
    if request.devices is not None:
        yield from (Missing(len(group.devices), _shortfalls(requirement, group)) for group in choices)
        return
    yield Missing(1, {d: shortfall for group in choices for d, shortfall in _shortfalls(requirement, group).items()})
    for count in requirement.counts(len(tier.gpus)):
        mixtures = roomiest(tier.gpus, count, planning_state)
        needs = min(need for mixture in mixtures for need in requirement.needs(mixture.places))
        yield Missing(count, {gpu.device_ids[0]: needs - gpu.narrowest for gpu in tier.gpus})


def _shortfalls(requirement: Requirement, group: DeviceGroup) -> Mapping[str, int]:
    return dict(zip(group.device_ids, requirement.shortfalls(group), strict=True))


def _both(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return Counter(one) + Counter(other)


def _message_of(evicted: Resting) -> Message:
    params: dict[str, Param] = {"model": evicted.model_id, "instance": evicted.instance_id, "owner": evicted.owner}
    if evicted.in_flight != 0:
        return Message("way_out_unload_busy", {**params, "in_flight": evicted.in_flight})
    return Message("way_out_unload", {**params, "idle_s": round(evicted.idle_s, 1)})


def _message_of_two(one: Resting, other: Resting) -> Message:
    params: dict[str, Param] = {
        "model": one.model_id,
        "instance": one.instance_id,
        "owner": one.owner,
        "idle_s": round(one.idle_s, 1),
        "other_model": other.model_id,
        "other_instance": other.instance_id,
        "other_owner": other.owner,
        "other_idle_s": round(other.idle_s, 1),
    }
    return Message("way_out_unload_two", params)


def _lighter(request: SwitchRequest, model: CachedModel) -> tuple[Precision, ...]:
    """Return lower precisions: only transformers quantizes while loading, and quantized files stay as they are."""
    if request.mode is not Mode.TRANSFORMERS or model.quantization is not None:
        return ()
    choices = (Precision.FP16, Precision.INT8, Precision.INT4)
    current = request.options.precision
    if current in choices:
        return choices[choices.index(current) + 1 :]
    return choices if current is Precision.FP32 or model.dtype == "float32" else choices[1:]


def _in(request: SwitchRequest, precision: Precision) -> SwitchRequest:
    return _with(request, dtype=precision.dtype, quantization=precision.quantization)


def _with(request: SwitchRequest, **changes: object) -> SwitchRequest:
    return replace(request, options=_changed(request.options, **changes))


def _changed(options: LaunchOptions, **changes: object) -> LaunchOptions:
    changed: LaunchOptions = replace(options, **changes)  # type: ignore[arg-type]
    return changed
