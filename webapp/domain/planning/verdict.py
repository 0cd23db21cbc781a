"""The fourth step of planning: whether a placement may be carried out, and the reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from webapp.domain.footprint import MeasuredSpread
from webapp.domain.instance import InstanceState
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode, Quantization
from webapp.domain.plan import SwitchRequest, Verdict
from webapp.domain.planning.placement import Placement
from webapp.domain.planning.sharing import can_share
from webapp.domain.planning.state import PlanningState, held_on
from webapp.errors import (
    AlreadyLoaded,
    CannotEnd,
    ConfirmationNeeded,
    CoolingDown,
    DeviceUnreadable,
    InstanceInUse,
    InstanceLeased,
    InvalidRequest,
    ModelUnsuitable,
    ModeUnavailable,
    NotEnoughMemory,
    WardenError,
)
from webapp.message import Message, Param


@dataclass(frozen=True)
class Decision:
    """The verdict on a placement with its reasons."""

    verdict: Verdict
    refusal: WardenError | None
    reasons: tuple[Message, ...]
    """The most important first, without the refusal."""
    overruled: Message | None
    """The memory shortfall that ``load_anyway`` overrides."""

    @property
    def is_short_of_memory(self) -> bool:
        """Whether the launch is refused for memory."""
        return isinstance(self.refusal, NotEnoughMemory)


def decide(placed: Placement, model: CachedModel, planning_state: PlanningState) -> Decision:
    """Return the verdict on ``placed``; the reasons are complete even if it is refused."""
    refusal, overruled = refusal_for(placed, model, planning_state), _overruled(placed, model)
    reasons = (
        *overruled,
        *_spread(placed),
        *_reasons(placed),
        *_no_returns(placed),
        *_stuck(placed, planning_state),
        *_claimed(placed, planning_state),
    )
    verdict = placed.verdict if refusal is None else Verdict.REFUSED
    return Decision(verdict, refusal, reasons, next(iter(overruled), None))


def is_ruled_out(request: SwitchRequest, model: CachedModel, planning_state: PlanningState, *, anywhere: bool) -> bool:
    """Return whether ``request`` would be refused regardless of the memory and of the models on its devices."""
    return (
        _unsuitable(request, model, planning_state) is not None
        or _already_loaded(request, model, planning_state, anywhere=anywhere) is not None
    )


def refusal_for(placed: Placement, model: CachedModel, planning_state: PlanningState) -> WardenError | None:
    """Return the first reason to refuse the plan, in the order of importance to a person."""
    return (
        _unsuitable(placed.request, model, planning_state)
        or _already_loaded(placed.request, model, planning_state, anywhere=placed.anywhere)
        or _unreadable(placed, planning_state)
        or (None if placed.request.load_anyway else _too_large(placed, model))
        or _leased(placed)
        or _in_use(placed)
        or _unendable(placed)
        or _unconfirmed(placed)
    )


def _overruled(placed: Placement, model: CachedModel) -> tuple[Message, ...]:
    """Return the shortfall that ``load_anyway`` overrides as a reason; empty if there is enough memory."""
    too_large = _too_large(placed, model) if placed.request.load_anyway else None
    return () if too_large is None else (Message("plan_load_anyway", too_large.message.params),)


def _unsuitable(request: SwitchRequest, model: CachedModel, planning_state: PlanningState) -> WardenError | None:
    if (why := planning_state.mode_problems.get(request.mode)) is not None:
        return ModeUnavailable(mode=request.mode.value, reason=why.code)
    if model.problem is not None:
        return ModelUnsuitable(model=model.id, reason=model.problem.code)
    if (invalid := _unquantizable(request, model) or _unshareable(request, model)) is not None:
        return invalid
    cooldown = planning_state.cooldowns.get(model.id)
    if cooldown is not None and cooldown.until > planning_state.monotonic:
        return CoolingDown(
            model=model.id, seconds=round(cooldown.until - planning_state.monotonic, 1), failures=cooldown.failures
        )
    return None


def may_ask(request: SwitchRequest, model: CachedModel) -> bool:
    """Return whether the options and devices of ``request`` are valid for ``model``, regardless of the memory."""
    return _unquantizable(request, model) is None and _unshareable(request, model) is None


def _unquantizable(request: SwitchRequest, model: CachedModel) -> WardenError | None:
    """Refuse to quantize quantized files, and bitsandbytes with vLLM, which only loads files that are quantized."""
    asked = request.options.quantization
    if asked is Quantization.NONE or (model.quantization is None and request.mode is not Mode.VLLM):
        return None
    allowed = Quantization.NONE.value if model.quantization is None else f"none ({model.quantization})"
    return InvalidRequest(field="quantization", value=asked.value, allowed=allowed)


def _unshareable(request: SwitchRequest, model: CachedModel) -> WardenError | None:
    """Refuse a number of GPUs among which vLLM cannot divide the attention heads evenly."""
    count = len(request.devices or ())
    if request.mode is not Mode.VLLM or can_share(model, count):
        return None
    numbers = ", ".join(str(n) for n in range(1, count) if can_share(model, n))
    heads = 0 if model.shape is None else model.shape.heads
    return InvalidRequest(field="devices", value=str(count), allowed=f"{numbers} ({heads} / N)")


def _already_loaded(
    request: SwitchRequest, model: CachedModel, planning_state: PlanningState, *, anywhere: bool
) -> WardenError | None:
    for instance in planning_state.instances:
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


def _unreadable(placed: Placement, planning_state: PlanningState) -> WardenError | None:
    if not placed.devices:
        return DeviceUnreadable(device=None, age_s=None)
    for device in placed.devices:
        if device.free_before_bytes is None:
            age = (
                None if planning_state.sample is None else round(planning_state.now - planning_state.sample.taken_at, 1)
            )
            return DeviceUnreadable(device=device.device_id, age_s=age)
    return None


def _too_large(placed: Placement, model: CachedModel) -> WardenError | None:
    for device in placed.devices:
        if device.verdict is Verdict.REFUSED and device.available_bytes is not None:
            needed = device.footprint.required_bytes
            return NotEnoughMemory(
                model=model.id,
                device=device.device_id,
                needed_bytes=needed,
                free_bytes=device.available_bytes,
                reserve_bytes=device.reserve_bytes,
                missing_bytes=needed + device.reserve_bytes - device.available_bytes,
            )
    return None


def _leased(placed: Placement) -> WardenError | None:
    """Refuse for another person's running lease; checked before use, as it says more than that the model is busy."""
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


def _in_use(placed: Placement) -> WardenError | None:
    for eviction in placed.unload:
        if eviction.in_flight != 0 and eviction.is_kept_from(placed.request):
            return InstanceInUse(
                model=eviction.model_id,
                instance=eviction.instance_id,
                in_flight=eviction.in_flight,
                owner=eviction.owner,
            )
    return None


def _unendable(placed: Placement) -> WardenError | None:
    """Refuse for a model whose engine does not answer: it could not be ended properly, nor restored after a failure."""
    for eviction in placed.unload:
        if eviction.is_unendable_for(placed.request) and eviction.no_return is not None:
            return CannotEnd(
                model=eviction.model_id,
                instance=eviction.instance_id,
                mode=eviction.mode.value,
                reason=eviction.no_return.code,
            )
    return None


def _no_returns(placed: Placement) -> Iterator[Message]:
    """Yield a warning for each evicted model that could not be loaded again, unless the refusal already names it."""
    for eviction in placed.unload:
        if eviction.no_return is not None and not eviction.is_unendable_for(placed.request):
            yield Message("plan_no_return", {"model": eviction.model_id, "reason": eviction.no_return.code})


def _unconfirmed(placed: Placement) -> WardenError | None:
    """Refuse for other people's models that would be unloaded but were not named."""
    evicted = [eviction for eviction in placed.unload if not eviction.is_confirmed_by(placed.request)]
    if not evicted:
        return None
    return ConfirmationNeeded(
        model=placed.request.model_id,
        models=", ".join(f"{eviction.model_id} ({eviction.owner})" for eviction in evicted),
        instances=",".join(eviction.instance_id for eviction in evicted),
    )


def _spread(placed: Placement) -> Iterator[Message]:
    """Yield why several devices were chosen: the best single one is too small, or blocked by a model or an
    operation."""
    if (instead_of := placed.instead_of) is None:
        return
    (device,) = instead_of.devices
    params: dict[str, Param] = {
        "count": len(placed.devices),
        "devices": ", ".join(placed.device_ids),
        "device": device.device_id,
    }
    if device.verdict is Verdict.REFUSED:
        params |= {"needed_bytes": device.footprint.required_bytes, "free_bytes": device.available_bytes}
        yield Message("plan_spread", params)
    elif _leased(instead_of) is not None:
        yield Message("plan_spread_leased", params)
    elif _unconfirmed(instead_of) is not None:
        yield Message("plan_spread_others", params)
    else:
        yield Message("plan_spread_in_use" if _in_use(instead_of) is not None else "plan_spread_claimed", params)


def _reasons(placed: Placement) -> Iterator[Message]:
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


def _seen(device_id: str, seen: MeasuredSpread) -> Message:
    """Return how many comparable launches were measured; the spread needs at least two."""
    params: dict[str, Param] = {"device": device_id, "count": seen.count, "spread_percent": seen.spread_percent}
    if seen.same_options:
        return Message("plan_measured_once" if seen.count == 1 else "plan_measured", params)
    return Message("plan_measured_otherwise_once" if seen.count == 1 else "plan_measured_otherwise", params)


def _stuck(placed: Placement, planning_state: PlanningState) -> Iterator[Message]:
    for instance in planning_state.instances:
        shared = [device_id for device_id in instance.devices if device_id in placed.device_ids]
        if instance.state is InstanceState.STUCK and shared:
            held = sum(held_on(instance, device_id, planning_state) for device_id in shared)
            yield Message("plan_stuck_holds", {"model": instance.model_id, "held_bytes": held})


def _claimed(placed: Placement, planning_state: PlanningState) -> Iterator[Message]:
    """Yield the operations that have to end first; they do not change the arithmetic."""
    for device_id in placed.device_ids:
        if (operation := planning_state.claims.get(device_id)) is not None:
            yield Message("plan_device_claimed", {"device": device_id, "operation": operation})
