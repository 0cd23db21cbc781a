"""Finds what would make a refused launch fit, cheapest for people first. Pure: each way is tried by the plan's own arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from itertools import combinations, cycle, islice
from typing import Protocol

from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.plan import Eviction, Reach, SwitchRequest, WayOut
from webapp.message import Message, Param

SMALLEST_TOKENS = 256
"""The shortest context that is offered."""
TOKENS_STEP = 64
"""A context that is offered is a multiple of it."""
UNLOADS_SHOWN = 3
"""Models that are offered to be unloaded, each by itself."""
PAIRS_TRIED = 6
"""Pairs of models that may give enough, before the search ends: each costs a plan."""


@dataclass(frozen=True)
class Resting:
    """A loaded model that may be asked to go."""

    instance_id: str
    model_id: str
    owner: str
    idle_s: float
    in_flight: int | None
    gives_bytes: Mapping[str, int]
    """By device, at the most."""


@dataclass(frozen=True)
class Missing:
    """A launch that wants ``count`` of some devices, with the bytes that lack on each; negative where there is room."""

    count: int
    shortfall_bytes: Mapping[str, int]

    @cached_property
    def short(self) -> int:
        """How many devices still have to get room."""
        return self.count - sum(shortfall <= 0 for shortfall in self.shortfall_bytes.values())

    def is_met(self, gives_bytes: Mapping[str, int]) -> bool:
        """Return whether it would do if as much came free on these devices."""
        shortfall = self.shortfall_bytes
        return self.short <= sum(0 < shortfall.get(device, 0) <= size for device, size in gives_bytes.items())


Shortfall = Callable[[LaunchOptions], int]
"""The bytes that lack for a launch with these options; 0 or less where it fits."""


class FitProbe(Protocol):
    """The plan's arithmetic on changed forms of the request that was refused."""

    @property
    def unload(self) -> tuple[Eviction, ...]:
        """What the refused request would unload."""

    def headrooms(self, request: SwitchRequest, reach: Reach) -> Sequence[Shortfall]:
        """Return, for each choice of devices that ``request`` may take within ``reach``, what would lack there with other options.

        One call is quick enough to search with. A choice where a model is in use that must not be interrupted is none.
        """

    def unloads(self, request: SwitchRequest) -> tuple[Eviction, ...] | None:
        """Return what a plan of ``request`` unloads, ``None`` where it is refused."""

    def takes(self, request: SwitchRequest) -> int:
        """Return how many devices a plan of ``request`` takes."""

    def together(self, request: SwitchRequest, more_than: int) -> tuple[str, ...] | None:
        """Return the best GPUs to take together, more than ``more_than`` of them; ``None`` where none have the room."""

    def resting(self, request: SwitchRequest) -> tuple[Resting, ...]:
        """Return the models that answer on the devices that ``request`` may take and that it does not unload yet."""

    def missing(self, request: SwitchRequest, short: int) -> Iterable[Missing]:
        """Return what lacks for each number of devices that ``request`` may take; at the least, where devices differ.

        Those may be left out where more than ``short`` devices still have to get room.
        """


class Cost(IntEnum):
    """What a way costs, from nothing to what others feel."""

    NOTHING = 0
    """Another device, where nobody has to go."""
    SEVERAL_DEVICES = 1
    """The same on more of them than were asked for."""
    OWN_OPTIONS = 2
    """A shorter context, fewer requests at once."""
    OWN_MODEL = 3
    """An idle model of the person's own goes."""
    OTHERS_MODEL = 4
    """An idle model of somebody else goes."""
    ALL_MODELS = 5
    """All models go that stand there."""
    HALF_PRECISION = 6
    INT8 = 7
    OTHER_MODE = 8
    INT4 = 9
    SMALLEST = 10
    BUSY_MODEL = 11
    """Somebody's answer is cut off."""


_OF_PRECISION = {Precision.FP16: Cost.HALF_PRECISION, Precision.INT8: Cost.INT8, Precision.INT4: Cost.INT4}


@dataclass(frozen=True)
class Alternative:
    """A change that makes the launch fit, with what its price follows from."""

    message: Message
    request: SwitchRequest
    cost: Cost
    """Of the change itself, whoever has to go for it."""
    lost: float = 0.0
    """Of equal costs the smaller is offered first: the share of the options that is given up, or how recently a model was used."""
    victims: tuple[Eviction, ...] = ()
    """Who goes for it and would not have gone for the request that was refused."""


def price(alternative: Alternative, actor: str | None) -> tuple[Cost, float]:
    """Return what a way costs the people of the server, to sort by: the cheapest is the least.

    1. Nothing is lost: another device, then several. Where models have to go for it, it costs what their going costs.
    2. The person's own options: a shorter context or a smaller batch, whichever gives up the smaller share.
    3. Models: an own one that is idle, then other people's, the longest idle first; then all of them.
    4. The quality of the answers and how they come: 16 bits, INT8, the other mode, 4 bits, the smallest of all.
    5. Last of all what cuts off an answer that somebody is waiting for.
    """
    if any(victim.in_flight != 0 for victim in alternative.victims):
        return Cost.BUSY_MODEL, alternative.lost
    if alternative.victims and alternative.cost < Cost.ALL_MODELS and alternative.cost is not Cost.OWN_OPTIONS:
        own = all(victim.owner == actor for victim in alternative.victims)
        return (Cost.OWN_MODEL if own else Cost.OTHERS_MODEL), alternative.lost
    return alternative.cost, alternative.lost


def find_alternatives(
    request: SwitchRequest, model: CachedModel, fit_probe: FitProbe, actor: str | None = None
) -> tuple[WayOut, ...]:
    """Return the changes to ``request`` that make it fit; what has to be confirmed for one of them is all that may refuse it."""
    search = _AlternativeSearch(request, model, fit_probe, actor)
    found = sorted(search.alternatives(), key=lambda alternative: price(alternative, actor))
    return tuple(WayOut(alternative.message, alternative.request) for alternative in found)


def largest(choices: Sequence[Callable[[int], int]], least: int, most: int) -> int | None:
    """Return the largest of ``least`` to ``most`` that one of ``choices`` has room for; ``None`` where none has it even for the least.

    Each of them says how much lacks, 0 or less where nothing does; for more never less.
    """
    best = None
    for shortfall in choices:
        found = _largest(shortfall, least if best is None else best + 1, most)
        best = best if found is None else found
    return best


def _largest(shortfall: Callable[[int], int], least: int, most: int) -> int | None:
    """By false position, since memory grows nearly evenly; each third step halves, in case it does not."""
    if least > most or (headroom := -shortfall(least)) < 0:
        return None
    if (short_by := shortfall(most)) <= 0:
        return most
    for halves in cycle((False, False, True)):
        apart = most - least
        if apart <= 1:
            break
        step = apart // 2 if halves else apart * headroom // (headroom + short_by)
        tried = least + min(max(step, 1), apart - 1)
        if (found := shortfall(tried)) <= 0:
            least, headroom = tried, -found
        else:
            most, short_by = tried, found
    return least


class _AlternativeSearch:
    """The search for one refused request."""

    def __init__(self, request: SwitchRequest, model: CachedModel, fit_probe: FitProbe, actor: str | None) -> None:
        self._request, self._model, self._fit_probe, self._actor = request, model, fit_probe, actor
        self._going = {eviction.instance_id for eviction in fit_probe.unload}

    @cached_property
    def _missing(self) -> tuple[Missing, ...]:
        return tuple(self._fit_probe.missing(self._request, self._reached))

    @cached_property
    def _reached(self) -> int:
        """On how many devices two models that go give room, at the most."""
        return 2 * max((len(each.gives_bytes) for each in self._willing), default=0)

    def alternatives(self) -> Iterator[Alternative]:
        yield from self._other_device()
        yield from self._several_devices()
        yield from self._smaller()
        yield from self._unload()
        yield from self._precision()
        yield from self._other_mode()

    def _try(self, message: Message, request: SwitchRequest, cost: Cost, lost: float = 0.0) -> Iterator[Alternative]:
        unload = self._fit_probe.unloads(request)
        if unload is not None:
            victims = tuple(eviction for eviction in unload if eviction.instance_id not in self._going)
            yield Alternative(message, request, cost, lost, victims)

    def _other_device(self) -> Iterator[Alternative]:
        """As many devices as were asked for, or fewer, and others."""
        if self._request.devices is None:
            return
        changed = replace(self._request, devices=None)
        alternatives = [*self._try(Message("way_out_other_device"), changed, Cost.NOTHING)]
        if alternatives and self._fit_probe.takes(changed) <= len(self._request.devices):
            yield from alternatives

    def _several_devices(self) -> Iterator[Alternative]:
        """More GPUs than were asked for; where nobody said how many, several have been tried already."""
        if self._request.devices is None:
            return
        chosen = self._fit_probe.together(self._request, len(self._request.devices))
        if chosen is not None:
            params: dict[str, Param] = {"count": len(chosen), "devices": ", ".join(chosen)}
            changed = replace(self._request, devices=chosen)
            yield from self._try(Message("way_out_devices", params), changed, Cost.SEVERAL_DEVICES)

    def _smaller(self) -> Iterator[Alternative]:
        """A shorter context or a smaller batch; both only where neither does alone."""
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
        """The longest context that is shorter than the one of ``request`` and fits."""
        steps = (request.options.max_tokens - 1) // TOKENS_STEP
        found = self._most(request, lambda n: {"max_tokens": n * TOKENS_STEP}, SMALLEST_TOKENS // TOKENS_STEP, steps)
        return None if found is None else found * TOKENS_STEP

    def _most(
        self, request: SwitchRequest, change: Callable[[int], Mapping[str, int]], least: int, most: int
    ) -> int | None:
        def short_by(shortfall: Shortfall) -> Callable[[int], int]:
            return lambda n: shortfall(_changed(request.options, **change(n)))

        for reach in (Reach.CONFIRMED, Reach.IDLE):
            found = largest(
                [short_by(shortfall) for shortfall in self._fit_probe.headrooms(request, reach)], least, most
            )
            if found is not None:
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
        """The fewest bits for one request at a time, and the longest context that this leaves."""
        asked = request.options.max_tokens
        tokens: int | None = asked
        if all(shortfall(request.options) > 0 for shortfall in self._fit_probe.headrooms(request, Reach.IDLE)):
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
        """Beside others: one model that goes, else two idle ones, else all; one in use only where the person allows that."""
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
            if shown < UNLOADS_SHOWN and self._may_do(each.gives_bytes, len(each.gives_bytes)):
                alternatives = [*self._without((each,), _message_of(each))]
                shown += len(alternatives)
                yield from alternatives

    def _unload_two(self) -> Iterator[Alternative]:
        idle = [each for each in self._willing if each.in_flight == 0]
        largest, devices = _largest_on_each(idle), 2 * max((len(each.gives_bytes) for each in idle), default=0)
        if not self._may_do(_both(largest, largest), devices):
            return
        hopeful = [each for each in idle if self._may_do(_both(each, largest), devices)]
        pairs = (pair for pair in combinations(hopeful, 2) if self._may_do(_both(*pair), devices))
        for pair in islice(pairs, PAIRS_TRIED):
            alternatives = [*self._without(pair, _message_of_two(*pair))]
            if alternatives:
                yield from alternatives
                return

    @cached_property
    def _willing(self) -> list[Resting]:
        """Who may be asked to go, in the order in which one would ask: the idle first, then own models, the longest idle first."""
        candidates = [
            r for r in self._fit_probe.resting(self._request) if self._request.interrupt_busy or r.in_flight == 0
        ]
        return sorted(candidates, key=lambda r: (r.in_flight != 0, r.owner != self._actor, -r.idle_s))

    def _may_do(self, gives_bytes: Mapping[str, int], devices: int) -> bool:
        """Whether as much, on so many devices at the most, could be enough on one of the choices: far cheaper to say than a plan."""
        return any(missing.is_met(gives_bytes) for missing in self._missing if missing.short <= devices)

    def _without(self, evicted: Sequence[Resting], message: Message) -> Iterator[Alternative]:
        ids = tuple(each.instance_id for each in evicted)
        changed = replace(self._request, unload=(*self._request.unload, *ids))
        for alternative in self._try(message, changed, Cost.OTHERS_MODEL, -min(each.idle_s for each in evicted)):
            if set(ids) <= {victim.instance_id for victim in alternative.victims}:
                yield alternative


def _both(one: Resting, other: Resting) -> Mapping[str, int]:
    return Counter(one.gives_bytes) + Counter(other.gives_bytes)


def _largest_on_each(resting: Sequence[Resting]) -> Resting:
    """A model that gives on each device what the largest there gives: who would not do beside it does beside none."""
    gives: dict[str, int] = {}
    for each in resting:
        for device, size in each.gives_bytes.items():
            gives[device] = max(size, gives.get(device, 0))
    return Resting("", "", "", 0.0, 0, gives)


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
    """Fewer bits than asked for: only transformers quantizes while loading, and files that are quantized stay as they are."""
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
